// Requests to the API, and what each refusal means for a person.
#include "hub/client.h"

#include <nlohmann/json.hpp>

#include <algorithm>

#include "hub/names.h"

namespace bumblebee::hub {
namespace {

constexpr int kPages = 5000;

/// A server's words in ours: printable, short.
std::string quoted(const std::string& text) {
  std::string out;
  for (const char c : text.substr(0, 200)) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? ' ' : c;
  return out;
}

std::string page_of(const Settings& settings, const std::string& id) { return settings.endpoint + "/" + id; }

std::string about_tokens(const Settings& settings) {
  return settings.token.empty() ? "no token was sent: set HF_TOKEN, or write it to the file that 'hf auth login' makes"
                                : "the token that was sent (HF_TOKEN, or the file of 'hf auth login') does not give it";
}

/// The URL of `Link: <url>; rel="next"`, or empty.
std::string next_page(const std::string& link) {
  for (size_t open = link.find('<'); open != std::string::npos; open = link.find('<', open + 1)) {
    const size_t close = link.find('>', open);
    if (close == std::string::npos) return "";
    const size_t end = std::min(link.find(',', close), link.size());
    if (link.substr(close, end - close).find("rel=\"next\"") != std::string::npos)
      return link.substr(open + 1, close - open - 1);
  }
  return "";
}

/// Mirrors pass on what the Hub links to; without a host, it is the one that was asked.
std::string at_endpoint(const std::string& link, const Settings& settings) {
  const std::string hub = "https://huggingface.co/";
  if (link.starts_with('/')) return origin_of(settings.endpoint) + link;
  return link.starts_with(hub) ? cat(settings.endpoint, "/", link.substr(hub.size())) : link;
}

Json parsed(const Response& answer, const Settings& settings, const std::string& id) try {
  return parse_json(answer.body, id);
} catch (const Error& error) {
  throw Error(ErrorCode::network, id,
              cat(settings.endpoint, " does not answer as a Hub does (", error.what(),
                  "); check HF_ENDPOINT, and whether a proxy or a login page stands between"));
}

[[noreturn]] void fail_absent(const Response& answer, const Settings& settings, const std::string& id) {
  const std::string what =
      answer.header("x-error-code") == "EntryNotFound"
          ? cat("no such file: ", answer.url.substr(0, 300))
          : cat("there is no repository ", page_of(settings, id),
                ", or it is private; check the name, and for a private one the token (", about_tokens(settings), ")");
  throw Error(ErrorCode::not_found, id, what);
}

[[noreturn]] void fail_refused(const Response& answer, const Settings& settings, const std::string& id) {
  const std::string code = answer.header("x-error-code"), words = quoted(answer.header("x-error-message"));
  if (code == "GatedRepo")
    throw Unavailable(ErrorCode::forbidden, id,
                      cat("the repository is gated: accept its terms at ", page_of(settings, id),
                          " with your account, then try again; ", about_tokens(settings)));
  if (words.starts_with("Access to this resource is disabled"))
    throw Unavailable(ErrorCode::forbidden, id, "access to this repository is disabled by the Hub");
  if (code == "RepoNotFound" && answer.status == 401 && settings.token.empty())
    // What the Hub answers to strangers, so that names of private repositories stay private.
    throw Unavailable(ErrorCode::not_found, id,
                      cat("there is no repository ", page_of(settings, id), ", or it is private; check the name (",
                          about_tokens(settings), ")"));
  throw Unavailable(ErrorCode::forbidden, id,
                    cat(answer.status == 401 ? "unauthorised" : "forbidden", " (HTTP ", answer.status,
                        "): ", about_tokens(settings), words.empty() ? "" : "; the Hub says: ", words));
}

}  // namespace

void fail_with(const Response& answer, const Settings& settings, const std::string& id, const std::string& revision) {
  const std::string code = answer.header("x-error-code");
  if (code == "RevisionNotFound")
    throw Error(ErrorCode::not_found, id,
                cat("there is no revision '", revision, "'; branches and tags: ", page_of(settings, id), "/tree/main"));
  if (code == "EntryNotFound") fail_absent(answer, settings, id);
  if (answer.status == 401 || answer.status == 403 || code == "GatedRepo") fail_refused(answer, settings, id);
  if (answer.status == 404 || code == "RepoNotFound") fail_absent(answer, settings, id);
  if (answer.status == 429) {
    const std::string wait = answer.header("retry-after");
    throw Unavailable(ErrorCode::network, id,
                      cat("too many requests (HTTP 429)", wait.empty() ? "" : "; the Hub asks to wait for ",
                          quoted(wait), wait.empty() ? "" : " s", "; ", "try again later"));
  }
  const std::string what =
      cat(settings.endpoint, " answers HTTP ", answer.status, " ", quoted(answer.header("x-error-message")));
  if (is_retryable(answer.status) || answer.status >= 500) throw Unavailable(ErrorCode::network, id, what);
  throw Error(ErrorCode::network, id, what);
}

void fail_with(const TransferResult& failure, const Settings& settings, const std::string& id) {
  const std::string words = quoted(failure.message), from = settings.endpoint;
  switch (failure.error) {
    case TransferError::connect:
    case TransferError::timeout:
      throw Unavailable(ErrorCode::network, id, cat("cannot reach ", from, ": ", words, "; is this machine offline?"));
    case TransferError::dropped:
      throw Unavailable(ErrorCode::network, id, cat("the connection to ", from, " broke: ", words));
    case TransferError::tls:
      throw Unavailable(ErrorCode::network, id,
                        cat("the certificate of ", from, " is not trusted: ", words,
                            "; behind a company's proxy, set SSL_CERT_FILE to its certificates"));
    case TransferError::proxy:
      throw Error(ErrorCode::network, id, cat("the proxy fails: ", words, "; check HTTPS_PROXY and NO_PROXY"));
    case TransferError::redirects: throw Error(ErrorCode::network, id, cat(from, " redirects astray: ", words));
    case TransferError::too_large: throw Error(ErrorCode::network, id, cat(from, " sends too much: ", words));
    case TransferError::refused: break;
  }
  throw Error(ErrorCode::network, id, cat(from, " sends what was not asked for: ", words));
}

std::string Client::resolve(const std::string& id, const std::string& revision, int attempts) {
  if (is_sha1(revision)) return revision;
  Request request;
  request.url = cat(settings_.endpoint, "/api/models/", id, "/revision/", percent_encode(revision, false));
  request.timeout = settings_.api_timeout;
  request.attempts = attempts;
  const TransferResult result = http_.get_with_retry(request);
  if (!result.response) fail_with(result, settings_, id);
  if (result.response->status != 200) fail_with(*result.response, settings_, id, revision);
  const Json info = parsed(*result.response, settings_, id);
  const std::string commit = info.is_object() ? string_or(info, "sha", id, "") : "";
  if (!is_sha1(commit))
    throw Error(ErrorCode::network, id,
                cat(settings_.endpoint, " does not answer as a Hub does: expected 'sha' with a commit, got ",
                    brief(Json(commit))));
  return commit;
}

Tree Client::list(const std::string& id, const std::string& commit, int attempts) {
  Request request;
  request.url = cat(settings_.endpoint, "/api/models/", id, "/tree/", commit, "?recursive=true&expand=false");
  request.timeout = settings_.api_timeout;
  request.attempts = attempts;
  Tree tree;
  for (int page = 0; page < kPages; ++page) {
    const TransferResult result = http_.get_with_retry(request);
    if (!result.response) fail_with(result, settings_, id);
    if (result.response->status != 200) fail_with(*result.response, settings_, id, commit);
    const size_t before = tree.size();
    add_tree_page(tree, parsed(*result.response, settings_, id), id);
    const std::string next = at_endpoint(next_page(result.response->header("link")), settings_);
    if (next.empty()) return tree;
    if (origin_of(next) != origin_of(settings_.endpoint))
      throw Error(ErrorCode::network, id, cat("the list of files goes on at another host: ", quoted(next)));
    if (tree.size() == before && next == request.url) break;
    request.url = next;
  }
  throw Error(ErrorCode::network, id, "the list of files has no end");
}

std::string resolve_url(const Settings& settings, const std::string& id, const std::string& commit,
                        const std::string& path) {
  return cat(settings.endpoint, "/", id, "/resolve/", commit, "/", percent_encode(path, true));
}

}  // namespace bumblebee::hub
