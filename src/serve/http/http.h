// The transport, as the server sees it: whole requests come in, answers go out at once or in pieces. Names no library;
// has no policy but limits. HTTP/1.1, HTTP/2 and TLS look alike from here.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bumblebee::serve {

using Headers = std::vector<std::pair<std::string, std::string>>;

/// The head of a request. Names of headers are lower case; what was sent twice stands there twice.
struct HttpHead {
  std::string method;  // as sent, for instance "POST"
  std::string path;    // as sent, before the '?': not decoded
  std::string query;   // after it
  Headers headers;
  std::string peer;  // address without port
  int version = 11;  // 10, 11 or 20
  bool tls = false;
  std::optional<uint64_t> content_length;

  /// The only value of this header; nothing where it is absent, and where it was sent twice.
  std::optional<std::string_view> header(std::string_view name) const;
};

struct HttpResponse {
  int status = 200;
  Headers headers;  // content-length, date, connection and transfer-encoding are the transport's
  std::string body;
};

/// One request's way back. From any thread; every call is quick and none throws. After the peer has gone, calls do
/// nothing. When the last handle goes before an answer was complete, the connection (HTTP/2: the stream) is broken off.
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;
  /// The whole answer.
  virtual void respond(HttpResponse response) noexcept = 0;
  /// The beginning of one that comes in pieces.
  virtual void begin(int status, const Headers& headers) noexcept = 0;
  /// Queues a piece; never blocks.
  virtual void write(std::string_view piece) noexcept = 0;
  virtual void end() noexcept = 0;
  /// Bytes queued that the peer has not taken, and when it last took some.
  virtual size_t unsent() const noexcept = 0;
  virtual bool gone() const noexcept = 0;
};

/// What the transport asks. Called on its I/O threads: nothing here may block or throw.
class HttpHandler {
 public:
  virtual ~HttpHandler() = default;
  /// The head is there, the body is not read. An answer refuses the request (small bodies are read before it is sent,
  /// so that the peer reads it); nothing: on_request() follows with the body.
  virtual std::optional<HttpResponse> on_head(const HttpHead& head) noexcept = 0;
  /// `id` names the request for on_gone().
  virtual void on_request(uint64_t id, HttpHead head, std::string body,
                          std::shared_ptr<HttpExchange> exchange) noexcept = 0;
  /// The peer left, was too slow or reset the stream, before its answer was complete. At most once for a request that
  /// on_request() was called with.
  virtual void on_gone(uint64_t id) noexcept = 0;
  /// What a message is told that is not HTTP, or that breaks a limit of HttpOptions: 400, 405, 408, 413, 431, 503, 505.
  /// By default `why` as plain text. Not among the requests that on_head() sees, 408, 413 and 503 for bodies excepted.
  virtual HttpResponse on_broken(int status, std::string_view why) noexcept;
};

struct HttpOptions {
  std::vector<std::string> addresses;                             // numeric, for instance "127.0.0.1" and "::1"
  int port = 0;                                                   // 0: any; the same for all addresses
  std::filesystem::path tls_certificate, tls_key;                 // PEM; empty: no TLS
  int max_connections = 2048, max_connections_per_address = 256;  // loopback has no limit of its own
  size_t max_header_bytes = 16 << 10;
  int max_headers = 100;
  std::chrono::milliseconds header_timeout{10'000}, body_idle_timeout{30'000}, idle_timeout{75'000};
  std::chrono::milliseconds write_stall{30'000};                    // without a byte taken: gone
  uint64_t max_body_bytes = 8 << 20, max_bodies_bytes = 256 << 20;  // of one request; of all that are being read
  int threads = 1;
};

struct HttpStats {
  uint64_t connections = 0, accepted = 0, refused_connections = 0, requests = 0, broken_requests = 0, stalled = 0;
};

/// Listens from start on, until it is destroyed.
class HttpServer {
 public:
  virtual ~HttpServer() = default;
  virtual int port() const = 0;
  virtual HttpStats stats() const = 0;
  /// Connections that are there are told to close after their answer; new ones get one answer.
  virtual void start_closing() = 0;
  /// Takes no new connections, and waits until there is none any more, at most so long; then breaks off the rest. True
  /// if none was left.
  virtual bool close(std::chrono::milliseconds wait) = 0;
  /// Reads certificate and key again, for new connections. Throws Error(bad_file), and changes nothing then.
  virtual void reload_tls() = 0;
};

/// Throws Error(network) for an address that cannot be had, Error(bad_file) for TLS files. `handler` outlives it.
std::unique_ptr<HttpServer> start_http(const HttpOptions& options, HttpHandler& handler);

}  // namespace bumblebee::serve
