// libcurl's multi interface around one easy handle: it returns to us many times a second, so that cancelling and
// silence are noticed at once.
#include "hub/http.h"

#include <curl/curl.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstdlib>
#include <mutex>
#include <new>
#include <thread>

#include "base/ascii.h"
#include "base/error.h"
#include "base/log.h"

namespace bumblebee::hub {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kRedirects = 10;
constexpr size_t kErrorBody = 65536;
/// "https://host/path" of "https://user:password@host/path?query".
std::string without_secrets(const std::string& url) {
  const size_t scheme = url.find("://"), start = scheme == std::string::npos ? 0 : scheme + 3;
  const size_t end = std::min(url.find_first_of("/?#", start), url.size());
  const size_t at = url.substr(start, end - start).rfind('@');
  const size_t host = at == std::string::npos ? start : start + at + 1;
  return url.substr(0, start) + url.substr(host, std::min(url.find('?', host), url.size()) - host);
}

constexpr size_t kHeaders = 256;
constexpr int kPoll_ms = 50;
constexpr long kReceiveBytes = 512 * 1024;  // libcurl's largest buffer: fewer, larger writes

void start_libcurl() {
  static std::once_flag once;
  std::call_once(once, [] {
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
      throw Error(ErrorCode::unsupported, "libcurl", "cannot be initialised");
  });
}

/// A parsed URL; get() of a part that is not there is empty.
class Url {
 public:
  explicit Url(const std::string& text) : good_(curl_url_set(url_, CURLUPART_URL, text.c_str(), 0) == CURLUE_OK) {}
  ~Url() { curl_url_cleanup(url_); }
  Url(const Url&) = delete;
  Url& operator=(const Url&) = delete;

  bool good() const { return good_; }
  /// Replaces this URL by another, which may be relative to it.
  /// Names and passwords that come with it are dropped.
  void go(const std::string& target) {
    good_ = curl_url_set(url_, CURLUPART_URL, target.c_str(), 0) == CURLUE_OK;
    for (const CURLUPart part : {CURLUPART_USER, CURLUPART_PASSWORD, CURLUPART_OPTIONS})
      curl_url_set(url_, part, nullptr, 0);
  }
  std::string get(CURLUPart part, unsigned flags = 0) const {
    char* text = nullptr;
    if (!good_ || curl_url_get(url_, part, &text, flags) != CURLUE_OK) return "";
    std::string value = text;
    curl_free(text);
    return value;
  }

 private:
  CURLU* url_ = curl_url();
  bool good_;
};

TransferError transfer_error(CURLcode code) {
  switch (code) {
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_PROXY: return TransferError::proxy;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT: return TransferError::connect;
    case CURLE_OPERATION_TIMEDOUT: return TransferError::timeout;
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_INVALIDCERTSTATUS: return TransferError::tls;
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL: return TransferError::redirects;
    default: return TransferError::dropped;
  }
}

/// Whether libcurl's words are about this URL's own host, and not about the proxy before it.
bool names_host(const std::string& message, const std::string& url) {
  const Url parsed(url);
  const std::string host = parsed.get(CURLUPART_HOST), port = parsed.get(CURLUPART_PORT, CURLU_DEFAULT_PORT);
  return message.find(cat(host, " port ", port)) != std::string::npos ||
         message.find("resolve host: " + host) != std::string::npos;
}

/// What libcurl would find, and HTTP_PROXY, which it leaves out: where a web server runs us, that may be a header.
std::string proxy_for(const std::string& url) {
  const bool https = url.starts_with("https:");
  for (const char* name :
       {https ? "https_proxy" : "http_proxy", https ? "HTTPS_PROXY" : "HTTP_PROXY", "all_proxy", "ALL_PROXY"}) {
    if (std::string_view(name) == "HTTP_PROXY" && !environment("REQUEST_METHOD").empty()) continue;
    if (std::string value = environment(name); !value.empty()) return value;
  }
  return "";
}

bool is_redirect(int status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

bool is_success(int status) { return status >= 200 && status < 300; }

/// Seconds that an answer asks to wait: Retry-After as a number or a date, or the Hub's `ratelimit: "api";r=0;t=55`.
int64_t asked_seconds(const Response& answer) {
  const auto number = [](std::string_view text) -> int64_t {
    int64_t value = -1;
    std::from_chars(text.data(), text.data() + text.size(), value);
    return value;
  };
  if (const std::string after = answer.header("retry-after"); !after.empty()) {
    if (const int64_t seconds = number(after); seconds >= 0) return seconds;
    const time_t date = curl_getdate(after.c_str(), nullptr);
    return date < 0 ? 0 : std::max<int64_t>(0, int64_t(date) - int64_t(std::time(nullptr)));
  }
  const std::string limit = answer.header("ratelimit");
  const size_t at = limit.find(";t=");
  return answer.status != 429 || at == std::string::npos ? 0 : std::max<int64_t>(0, number(limit.substr(at + 3)));
}

/// One request and its answer, as libcurl's callbacks fill it.
struct Exchange {
  const Request& request;
  std::map<std::string, std::string>& hub_headers;
  bool from_hub;
  Response response;
  bool begun = false, refused = false, too_large = false;
  Clock::time_point active = Clock::now();

  bool to_sink() const { return request.sink != nullptr && is_success(response.status); }

  /// Tells the sink, once, what is coming.
  bool begin() {
    if (begun) return true;
    begun = true;
    if (from_hub) {
      for (const auto& [name, value] : response.headers) hub_headers[name] = value;
    }
    if (!to_sink()) return true;
    Response hub;
    hub.status = response.status;
    hub.headers = hub_headers;
    refused = !request.sink->begin(hub, response);
    return !refused;
  }

  void header(std::string_view line) {
    active = Clock::now();
    if (line.starts_with("HTTP/")) {  // again after "100 Continue"
      response.headers.clear();
      const size_t space = line.find(' ');
      if (space != std::string_view::npos)
        std::from_chars(line.data() + space + 1, line.data() + line.size(), response.status);
      return;
    }
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos) return;
    if (response.headers.size() >= kHeaders) return;
    response.headers[lower(trimmed(line.substr(0, colon)))] = std::string(trimmed(line.substr(colon + 1)));
  }

  bool body(std::span<const std::byte> bytes) {
    const bool good = begin() && (to_sink() ? sink(bytes) : keep(bytes));
    active = Clock::now();
    return good;
  }

  bool sink(std::span<const std::byte> bytes) {
    refused = !request.sink->write(bytes);
    return !refused;
  }

  bool keep(std::span<const std::byte> bytes) {
    const size_t limit = is_success(response.status) ? request.body_limit : kErrorBody;
    too_large = response.body.size() + bytes.size() > limit;
    if (!too_large) response.body.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return !too_large;
  }
};

size_t on_header(char* data, size_t, size_t count, void* to) {
  static_cast<Exchange*>(to)->header({data, count});
  return count;
}

size_t on_body(char* data, size_t, size_t count, void* to) {
  return static_cast<Exchange*>(to)->body(std::as_bytes(std::span(data, count))) ? count : 0;
}

}  // namespace

std::string origin_of(const std::string& url) {
  const Url parsed(url);
  const std::string scheme = lower(parsed.get(CURLUPART_SCHEME));
  if (scheme != "http" && scheme != "https") return "";
  return cat(scheme, "://", lower(parsed.get(CURLUPART_HOST)), ":", parsed.get(CURLUPART_PORT, CURLU_DEFAULT_PORT));
}

std::string percent_encode(std::string_view text, bool keep_slashes) {
  constexpr const char* kDigits = "0123456789ABCDEF";
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = (byte < 0x80 && std::isalnum(byte) != 0) || c == '-' || c == '.' || c == '_' || c == '~';
    if (plain || (c == '/' && keep_slashes)) {
      out += c;
    } else {
      out += {'%', kDigits[byte >> 4], kDigits[byte & 15]};
    }
  }
  return out;
}

std::string Response::header(const std::string& name) const {
  const auto it = headers.find(name);
  return it == headers.end() ? "" : it->second;
}

bool is_retryable(int status) {
  return status == 408 || status == 429 || status == 500 || status == 502 || status == 503 || status == 504;
}

struct Http::Impl {
  Impl(const Settings& s, std::function<bool()> asked) : settings(s), stop(std::move(asked)) {
    start_libcurl();
    multi = curl_multi_init();
    easy = curl_easy_init();
    if (multi == nullptr || easy == nullptr) throw std::bad_alloc();
    endpoint = origin_of(settings.endpoint);
  }
  ~Impl() {
    curl_easy_cleanup(easy);
    curl_multi_cleanup(multi);
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  void check_stop() const {
    if (stop && stop()) throw Error(ErrorCode::cancelled, "download", "cancelled");
  }
  bool trusted(const std::string& origin) const {
    return origin == endpoint || origin == "https://huggingface.co:443" || origin == "https://hf.co:443";
  }
  void prepare(Exchange& exchange, const std::string& url, curl_slist* headers);
  void choose_proxy_and_certificates(const std::string& url);
  CURLcode perform(const Exchange& exchange, std::string& silence);
  TransferResult exchange(const Request& request, const std::string& url, bool authorised,
                          std::map<std::string, std::string>& hub_headers);

  const Settings& settings;
  std::function<bool()> stop;
  std::string endpoint;
  CURLM* multi = nullptr;
  CURL* easy = nullptr;
  std::string proxy;  // of the exchange
  char error_buffer[CURL_ERROR_SIZE] = {};
};

void Http::Impl::choose_proxy_and_certificates(const std::string& url) {
  proxy = proxy_for(url);
  if (!proxy.empty()) curl_easy_setopt(easy, CURLOPT_PROXY, proxy.c_str());  // libcurl still obeys NO_PROXY
  for (const char* name : {"CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"}) {
    if (const std::string file = environment(name); !file.empty()) {
      curl_easy_setopt(easy, CURLOPT_CAINFO, file.c_str());
      break;
    }
  }
}

void Http::Impl::prepare(Exchange& exchange, const std::string& url, curl_slist* headers) {
  curl_easy_reset(easy);  // keeps connections
  error_buffer[0] = '\0';
  curl_easy_setopt(easy, CURLOPT_URL, url.c_str());
  curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
  curl_easy_setopt(easy, CURLOPT_USERAGENT, settings.user_agent.c_str());
  curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
  curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, kReceiveBytes);
  curl_easy_setopt(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
  curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, long(std::max<int64_t>(1, exchange.request.timeout.count())));
  curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, error_buffer);
  curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
  curl_easy_setopt(easy, CURLOPT_HEADERDATA, &exchange);
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, &exchange);
  choose_proxy_and_certificates(url);
}

CURLcode Http::Impl::perform(const Exchange& exchange, std::string& silence) {
  bool connected = false;
  Clock::time_point since;
  for (;;) {
    int running = 0;
    if (curl_multi_perform(multi, &running) != CURLM_OK) return CURLE_RECV_ERROR;
    if (running == 0) break;
    check_stop();
    if (!connected) {
      curl_off_t sent = 0;
      connected = curl_easy_getinfo(easy, CURLINFO_PRETRANSFER_TIME_T, &sent) == CURLE_OK && sent > 0;
      since = Clock::now();
    }
    // Connecting has its own limit, in libcurl.
    const auto last = std::max(since, exchange.active);
    if (connected && Clock::now() - last > exchange.request.timeout) {
      silence = cat("no byte arrived for ", double(exchange.request.timeout.count()) / 1000, " s");
      return CURLE_OPERATION_TIMEDOUT;
    }
    const int wait = int(std::clamp<int64_t>(exchange.request.timeout.count() / 4, 1, kPoll_ms));
    curl_multi_poll(multi, nullptr, 0, wait, nullptr);
  }
  int left = 0;
  for (CURLMsg* message = curl_multi_info_read(multi, &left); message; message = curl_multi_info_read(multi, &left)) {
    if (message->msg == CURLMSG_DONE) return message->data.result;
  }
  return CURLE_RECV_ERROR;
}

TransferResult Http::Impl::exchange(const Request& request, const std::string& url, bool authorised,
                                    std::map<std::string, std::string>& hub_headers) {
  struct Headers {
    curl_slist* list = nullptr;
    ~Headers() { curl_slist_free_all(list); }
    void add(const std::string& line) { list = curl_slist_append(list, line.c_str()); }
  } headers;
  headers.add("Accept-Encoding: identity");  // sizes and ranges are of the file's own bytes
  if (authorised && !settings.token.empty()) headers.add("Authorization: Bearer " + settings.token);
  if (request.range_from) headers.add(cat("Range: bytes=", *request.range_from, "-"));

  Exchange exchange{request, hub_headers, trusted(origin_of(url)), {}};
  prepare(exchange, url, headers.list);
  struct Attached {
    CURLM* multi;
    CURL* easy;
    ~Attached() { curl_multi_remove_handle(multi, easy); }
  };
  std::string silence;
  CURLcode code = CURLE_OK;
  long tunnel = 0;
  {
    curl_multi_add_handle(multi, easy);
    const Attached attached{multi, easy};
    code = perform(exchange, silence);
    curl_easy_getinfo(easy, CURLINFO_HTTP_CONNECTCODE, &tunnel);
  }
  exchange.response.url = url;
  if (code == CURLE_OK) exchange.begin();
  if (exchange.refused) return {{}, TransferError::refused, "not wanted"};
  if (exchange.too_large && is_success(exchange.response.status))
    return {{}, TransferError::too_large, cat("an answer of more than ", request.body_limit, " bytes")};
  // What is wrong with the body of a refusal changes nothing about the refusal.
  if (code == CURLE_OK || (exchange.response.status >= 300 && exchange.begun))
    return {std::move(exchange.response), TransferError::connect, ""};
  if (tunnel >= 400) return {{}, TransferError::proxy, cat("the proxy answers ", tunnel)};
  std::string message = !silence.empty() ? silence : error_buffer[0] != '\0' ? error_buffer : curl_easy_strerror(code);
  if (code == CURLE_OUT_OF_MEMORY) message = "a line of more than 100 KB among the headers, or no memory";
  TransferError error = transfer_error(code);
  if (error == TransferError::connect && !proxy.empty() && !names_host(message, url)) error = TransferError::proxy;
  return {{}, error, std::move(message)};
}

Http::Http(const Settings& settings, std::function<bool()> stop)
    : impl_(std::make_unique<Impl>(settings, std::move(stop))) {}
Http::~Http() = default;

TransferResult Http::get(const Request& request) {
  std::map<std::string, std::string> hub_headers;
  Url url(request.url);
  bool authorised = true;
  for (int hop = 0; hop <= kRedirects; ++hop) {
    const std::string at = url.get(CURLUPART_URL), origin = origin_of(at);
    if (origin.empty())
      return {
          {}, TransferError::redirects, cat("expected an http or https URL, got '", request.url.substr(0, 200), "'")};
    authorised = authorised && impl_->trusted(origin);
    TransferResult result = impl_->exchange(request, at, authorised, hub_headers);
    // Without its query, in which content servers have signatures, and without a password.
    log(LogLevel::debug, "hub request: url='", without_secrets(at), "' range_from=", request.range_from.value_or(0),
        " status=", result.response ? result.response->status : 0, result.response ? "" : " error='",
        result.response ? "" : result.message, result.response ? "" : "'");
    const std::string target = result.response ? result.response->header("location") : "";
    if (!result.response || !is_redirect(result.response->status) || target.empty()) return result;
    url.go(target);
    if (origin_of(url.get(CURLUPART_URL)).empty())
      return {{},
              TransferError::redirects,
              cat("a redirect to '", target.substr(0, 200), "', which is no http or https URL")};
    if (at.starts_with("https:") && !url.get(CURLUPART_URL).starts_with("https:"))
      return {{}, TransferError::redirects, cat("a redirect from https to '", target.substr(0, 200), "'")};
  }
  return {{}, TransferError::redirects, cat("more than ", kRedirects, " redirects")};
}

bool Http::pause(int attempt, const Response* answer) {
  const RetryPolicy& policy = impl_->settings.retry;
  if (attempt >= policy.attempts) return false;
  const int64_t asked = answer == nullptr ? 0 : asked_seconds(*answer);
  if (asked > policy.longest_retry_after.count() / 1000) return false;
  const Milliseconds growing = policy.first_wait * (int64_t{1} << std::min(attempt - 1, 20));
  const Milliseconds wait =
      std::max({std::min(growing, policy.longest_wait), Milliseconds(asked * 1000), Milliseconds(0)});
  log(LogLevel::warning, "hub retries: attempt=", attempt, " of=", policy.attempts,
      " wait_s=", double(wait.count()) / 1000, " status=", answer == nullptr ? 0 : answer->status);
  const auto until = Clock::now() + wait;
  for (auto now = Clock::now(); now < until; now = Clock::now()) {
    impl_->check_stop();
    std::this_thread::sleep_for(std::min<Clock::duration>(until - now, Milliseconds(kPoll_ms)));
  }
  return true;
}

TransferResult Http::get_with_retry(const Request& request) {
  constexpr int kConnecting = 3;  // without a network there is little to wait for
  for (int attempt = 1;; ++attempt) {
    TransferResult result = get(request);
    const bool again = result.response
                           ? is_retryable(result.response->status)
                           : result.error == TransferError::timeout || result.error == TransferError::dropped ||
                                 (result.error == TransferError::connect && attempt < kConnecting);
    if (!again || (request.attempts > 0 && attempt >= request.attempts)) return result;
    if (!pause(attempt, result.response ? &*result.response : nullptr)) return result;
  }
}

}  // namespace bumblebee::hub
