// One HTTP connection on libcurl, with the Hub's rules: redirects are followed by hand so that the token never reaches
// another host, silence ends a transfer, and cancelling takes effect at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "hub/settings.h"

namespace bumblebee::hub {

/// "https://huggingface.co:443"; empty for what is no http or https URL.
std::string origin_of(const std::string& url);
/// `text` with everything but letters, digits, "-._~" (and '/' when `keep_slashes`) as %XX.
std::string percent_encode(std::string_view text, bool keep_slashes);

struct Response {
  int status = 0;
  std::string url;                             // that answered, after redirects
  std::map<std::string, std::string> headers;  // names in lower case; of several equal ones the last
  std::string body;                            // empty when a sink took it

  /// Empty when there is none.
  std::string header(const std::string& name) const;
};

/// What can happen to a request besides an answer.
enum class TransferError : uint8_t {
  connect,    // no name, no route, refused
  timeout,    // silence
  dropped,    // the connection ended early or broke the protocol
  tls,        // the certificate is not good
  proxy,      // the proxy cannot be reached or refuses
  redirects,  // too many, or one that is not followed
  too_large,  // more than the limit for an answer of the API
  refused,    // the sink did not want the answer
};

struct TransferResult {
  std::optional<Response> response;  // none: an error
  TransferError error = TransferError::connect;
  std::string message;  // libcurl's words
};

/// Takes the body of a successful answer. `begin` sees what the Hub itself said (`hub`: the headers of its answers on
/// the way, the last counts) and the answer that carries the body; false ends the transfer as TransferError::refused,
/// and so does `write`.
struct Sink {
  std::function<bool(const Response& hub, const Response& answer)> begin;
  std::function<bool(std::span<const std::byte> bytes)> write;
};

struct Request {
  std::string url;
  std::optional<uint64_t> range_from;  // "Range: bytes=N-"
  Milliseconds timeout{10000};         // to connect, and of silence
  size_t body_limit = size_t{64} << 20;
  int attempts = 0;            // of get_with_retry(); 0: as RetryPolicy has it
  const Sink* sink = nullptr;  // for statuses 200 to 299; other bodies are kept, at most 64 KiB
};

/// A keep-alive connection, for one thread at a time.
class Http {
 public:
  /// `stop` is asked at least ten times a second; true throws Error(cancelled).
  Http(const Settings& settings, std::function<bool()> stop);
  ~Http();
  Http(const Http&) = delete;
  Http& operator=(const Http&) = delete;

  /// One GET with its redirects (at most 10). The token goes to the endpoint's origin and the Hub's own only, and is
  /// not taken up again after a redirect has left them. Redirects from https to http are not followed.
  TransferResult get(const Request& request);

  /// get(), repeated with growing pauses while the error may pass: no connection, silence, a drop, and statuses 408,
  /// 429, 500, 502, 503, 504. Retry-After is obeyed. Not for requests with a sink.
  TransferResult get_with_retry(const Request& request);

  /// Waits as RetryPolicy has it before attempt `attempt` (from 1), at least as long as `answer` asks for; false when
  /// no attempt is left or the wait would be too long.
  bool pause(int attempt, const Response* answer);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Whether a status may change when the request is repeated.
bool is_retryable(int status);

}  // namespace bumblebee::hub
