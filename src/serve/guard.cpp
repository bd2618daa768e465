// Keys, Host and Origin.
#include "serve/guard.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <span>

#include "base/ascii.h"
#include "base/blake2b.h"
#include "base/error.h"
#include "base/hex.h"
#include "serve/random_id.h"

namespace bumblebee::serve {

namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

/// Without the port; an IPv6 address without its brackets.
std::string_view without_port(std::string_view host) {
  if (host.starts_with('[')) {
    const size_t end = host.find(']');
    return end == std::string_view::npos ? std::string_view() : host.substr(1, end - 1);
  }
  return host.substr(0, host.find(':'));
}

bool is_address(const std::string& host) {
  std::array<unsigned char, 16> out{};
  return ::inet_pton(AF_INET, host.c_str(), out.data()) == 1 || ::inet_pton(AF_INET6, host.c_str(), out.data()) == 1;
}

/// Names of headers between commas.
bool is_list_of_names(std::string_view text) {
  return !text.empty() && text.size() <= 1024 && std::all_of(text.begin(), text.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || std::string_view("-_, ").find(c) != std::string_view::npos;
  });
}

/// The key that a request carries; several different ones are none.
std::optional<std::string_view> key_of(const HttpHead& head) {
  if (const std::optional<std::string_view> authorization = head.header("authorization")) {
    const size_t space = authorization->find(' ');
    if (space == std::string_view::npos || lower(authorization->substr(0, space)) != "bearer") return std::nullopt;
    const std::string_view key = trimmed(authorization->substr(space + 1));
    return key.empty() ? std::nullopt : std::optional(key);
  }
  const std::optional<std::string_view> key = head.header("x-api-key");
  return key && !key->empty() ? key : std::nullopt;
}

}  // namespace

KeyDigest KeySet::digest(std::string_view key) {
  static const std::array<uint64_t, 4> secret = {random_number(), random_number(), random_number(), random_number()};
  Blake2b hash(32);
  hash.update(std::as_bytes(std::span(secret)));
  hash.update(bytes_of(key));
  KeyDigest digest{};
  hash.finish(digest);
  return digest;
}

KeySet KeySet::read(const std::filesystem::path& file) {
  std::ifstream in(file);
  std::error_code unknown;
  if (!in || std::filesystem::is_directory(file, unknown))
    throw Error(ErrorCode::bad_file, file.string(), "expected a file with one key a line, found none that can be read");
  KeySet keys;
  for (std::string line; std::getline(in, line);) {
    const std::string_view key = trimmed(line);
    if (key.empty() || key.starts_with('#')) continue;
    const bool plain = std::all_of(key.begin(), key.end(), [](char c) { return c > 0x20 && c < 0x7F; });
    if (!plain || key.size() > 1024)
      throw Error(ErrorCode::bad_file, file.string(),
                  "expected keys of at most 1024 letters, digits and signs without blanks, got another one");
    keys.digests_.push_back(digest(key));
  }
  if (in.bad()) throw Error(ErrorCode::bad_file, file.string(), "expected keys, got an error while reading");
  if (keys.empty()) throw Error(ErrorCode::bad_file, file.string(), "expected at least one key, got an empty file");
  return keys;
}

bool KeySet::contains(const KeyDigest& digest) const {
  unsigned found = 0;
  for (const KeyDigest& one : digests_) {
    unsigned different = 0;
    for (size_t i = 0; i < one.size(); ++i) different |= unsigned(one[i] ^ digest[i]);
    found |= unsigned(different == 0);
  }
  return found != 0;
}

Guard::Guard(const ServerOptions& options, bool loopback)
    : user_file_(options.api_key_file),
      admin_file_(options.admin_key_file),
      hosts_{"localhost", lower(options.host)},
      origins_(options.allowed_origins),
      loopback_(loopback),
      any_host_(options.insecure),
      keys_(read_keys()) {
  for (const std::string& host : options.allowed_hosts) hosts_.push_back(lower(host));
}

std::shared_ptr<const Guard::Keys> Guard::keys() const {
  const std::lock_guard lock(mutex_);
  return keys_;
}

std::shared_ptr<const Guard::Keys> Guard::read_keys() const {
  auto read = std::make_shared<Keys>();
  if (!user_file_.empty()) read->users = KeySet::read(user_file_);
  if (!admin_file_.empty()) read->admins = KeySet::read(admin_file_);
  return read;
}

void Guard::reload(const std::function<void()>& also) {
  std::shared_ptr<const Keys> fresh = read_keys();
  if (also) also();
  const std::lock_guard lock(mutex_);
  keys_ = std::move(fresh);
}

bool Guard::allowed_host(std::string_view host) const {
  const std::string name = lower(without_port(host));
  // A page can make a browser ask for a name of its own that leads here, not for an address.
  return any_host_ || is_address(name) || std::find(hosts_.begin(), hosts_.end(), name) != hosts_.end();
}

bool Guard::allowed_origin(std::string_view origin) const {
  return std::find(origins_.begin(), origins_.end(), origin) != origins_.end();
}

std::optional<ApiError> Guard::check_origin(const HttpHead& head) const {
  const std::optional<std::string_view> host = head.header("host");
  if (!host && head.version != 10)
    return ApiError{Refusal::bad_request, "expected one Host header, got none or several"};
  if (host && !allowed_host(*host))
    return ApiError{Refusal::foreign_host,
                    "this server does not answer to the name in the Host header; --allowed-host adds one"};
  const bool sent =
      std::any_of(head.headers.begin(), head.headers.end(), [](const auto& h) { return h.first == "origin"; });
  if (!sent) return std::nullopt;
  const std::optional<std::string_view> origin = head.header("origin");
  const std::string own = cat(head.tls ? "https://" : "http://", host.value_or(""));
  if (origin && (allowed_origin(*origin) || (host && *origin == own))) return std::nullopt;
  return ApiError{Refusal::foreign_origin, "pages of this origin may not use this server; --allowed-origin allows one"};
}

std::optional<ApiError> Guard::check_key(const HttpHead& head, Scope scope, Caller& caller) const {
  const std::shared_ptr<const Keys> all = keys();
  if (scope == Scope::open) return std::nullopt;
  const bool locked = !all->users.empty() || !all->admins.empty();
  if (scope == Scope::admin && all->admins.empty() && (locked || !loopback_))
    return ApiError{Refusal::admin_only,
                    "this route needs a key of administration; the server was started without --admin-key-file"};
  const KeySet& needed = scope == Scope::admin ? all->admins : all->users;
  const std::optional<std::string_view> key = key_of(head);
  if (!key) {
    if (needed.empty()) return std::nullopt;
    return ApiError{Refusal::invalid_api_key, "expected a key, as 'Authorization: Bearer KEY' or 'x-api-key: KEY'"};
  }
  const KeyDigest digest = KeySet::digest(*key);
  // Both sets are looked through, so that time tells nothing.
  const bool user = all->users.contains(digest), admin = all->admins.contains(digest);
  caller.admin = admin;
  if (user || admin) caller.client = hex(std::span(digest).first(8));
  if (needed.empty() || admin || (user && scope == Scope::user)) return std::nullopt;
  if (user) return ApiError{Refusal::admin_only, "this route needs a key of administration, got another one"};
  return ApiError{Refusal::invalid_api_key, "the key is not one of this server's"};
}

Headers Guard::cors(const HttpHead& head) const {
  const std::optional<std::string_view> origin = head.header("origin");
  if (!origin || !allowed_origin(*origin)) return {};
  return {{"access-control-allow-origin", std::string(*origin)},
          {"vary", "origin"},
          {"access-control-expose-headers",
           "x-request-id, x-bumblebee-seed, x-bumblebee-ignored, retry-after, x-should-retry"}};
}

Headers Guard::cors_preflight(const HttpHead& head, std::string_view allow) const {
  Headers headers = cors(head);
  if (headers.empty()) return headers;
  headers.emplace_back("access-control-allow-methods", std::string(allow));
  // Clients have headers of their own (OpenAI's: x-stainless-...), and all are ignored here: what is asked for may
  // come.
  const std::string_view asked = head.header("access-control-request-headers").value_or("");
  headers.emplace_back("access-control-allow-headers", is_list_of_names(asked)
                                                           ? std::string(asked)
                                                           : "authorization, content-type, x-api-key, x-request-id");
  headers.emplace_back("access-control-max-age", "600");
  return headers;
}

}  // namespace bumblebee::serve
