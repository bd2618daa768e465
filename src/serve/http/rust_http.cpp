// The transport over the Rust library's C ABI: owners for its handles, and callbacks that let nothing escape into it.
#include <utility>

#include "base/log.h"
#include "rust/http.h"
#include "serve/http/http.h"

namespace bumblebee::serve {
namespace {

BbView view(std::string_view text) { return {reinterpret_cast<const uint8_t*>(text.data()), text.size()}; }

std::string_view text(BbView view) { return {reinterpret_cast<const char*>(view.data), view.size}; }

std::vector<BbHttpField> fields(const Headers& headers) {
  std::vector<BbHttpField> fields;
  fields.reserve(headers.size());
  for (const auto& [name, value] : headers) fields.push_back({view(name), view(value)});
  return fields;
}

struct FreeExchange {
  void operator()(BbHttpExchange* exchange) const noexcept { bb_http_exchange_free(exchange); }
};
using ExchangeHandle = std::unique_ptr<BbHttpExchange, FreeExchange>;

class RustExchange : public HttpExchange {
 public:
  explicit RustExchange(ExchangeHandle handle) : handle_(std::move(handle)) {}

  void respond(HttpResponse response) noexcept override {
    try {
      const auto list = fields(response.headers);
      bb_http_respond(handle_.get(), static_cast<uint16_t>(response.status), list.data(), list.size(),
                      view(response.body));
    } catch (const std::bad_alloc&) {
      bb_http_respond(handle_.get(), 503, nullptr, 0, {});
    }
  }
  void begin(int status, const Headers& headers) noexcept override {
    try {
      const auto list = fields(headers);
      bb_http_begin(handle_.get(), static_cast<uint16_t>(status), list.data(), list.size());
    } catch (const std::bad_alloc&) {
      bb_http_respond(handle_.get(), 503, nullptr, 0, {});
    }
  }
  void write(std::string_view piece) noexcept override { bb_http_write(handle_.get(), view(piece)); }
  void end() noexcept override { bb_http_end(handle_.get()); }
  size_t unsent() const noexcept override { return bb_http_unsent(handle_.get()); }
  bool gone() const noexcept override { return bb_http_is_gone(handle_.get()) != 0; }

 private:
  ExchangeHandle handle_;
};

HttpHandler& handler(void* self) { return *static_cast<HttpHandler*>(self); }

void reply_with(BbHttpReply* reply, const HttpResponse& response) {
  const auto list = fields(response.headers);
  bb_http_reply(reply, static_cast<uint16_t>(response.status), list.data(), list.size(), view(response.body));
}

HttpHead copy(const BbHttpHead& raw) {
  HttpHead head;
  head.method = text(raw.method);
  head.path = text(raw.path);
  head.query = text(raw.query);
  head.peer = text(raw.peer);
  head.headers.reserve(raw.field_count);
  for (size_t i = 0; i < raw.field_count; ++i)
    head.headers.emplace_back(text(raw.fields[i].name), text(raw.fields[i].value));
  head.version = raw.version;
  head.tls = raw.tls != 0;
  if (raw.has_content_length != 0) head.content_length = raw.content_length;
  return head;
}

// Where memory is short, `reply` stays what it is: a 500 without words.
void* on_head(void* self, const BbHttpHead* raw, BbHttpReply* reply) noexcept {
  try {
    auto head = std::make_unique<HttpHead>(copy(*raw));
    const auto refusal = handler(self).on_head(*head);
    if (!refusal) return head.release();
    reply_with(reply, *refusal);
  } catch (const std::bad_alloc&) {
  }
  return nullptr;
}

void on_refusal(void* self, uint16_t status, BbView why, BbHttpReply* reply) noexcept {
  try {
    reply_with(reply, handler(self).on_broken(status, text(why)));
  } catch (const std::bad_alloc&) {
    bb_http_reply(reply, status, nullptr, 0, {});
  }
}

void on_request(void* self, void* head, uint64_t id, BbView body, BbHttpExchange* exchange) noexcept {
  const std::unique_ptr<HttpHead> owned(static_cast<HttpHead*>(head));
  ExchangeHandle handle(exchange);
  std::shared_ptr<HttpExchange> out;
  std::string bytes;
  try {
    bytes = text(body);
    out = std::make_shared<RustExchange>(std::move(handle));
  } catch (const std::bad_alloc&) {
    if (handle) bb_http_respond(handle.get(), 503, nullptr, 0, {});
    return;
  }
  handler(self).on_request(id, std::move(*owned), std::move(bytes), std::move(out));
}

void on_forget(void*, void* head) noexcept { delete static_cast<HttpHead*>(head); }

void on_gone(void* self, uint64_t id) noexcept { handler(self).on_gone(id); }

void on_panic(BbView message) noexcept { log(LogLevel::error, "transport panicked: what=", text(message)); }

class Failure {
 public:
  Failure() = default;
  Failure(const Failure&) = delete;
  Failure& operator=(const Failure&) = delete;
  ~Failure() { bb_bytes_free(raw_); }
  BbBytes* out() { return &raw_; }
  void check(BbStatus status) const {
    if (status == BB_OK) return;
    throw Error(status == BB_BAD_FILE ? ErrorCode::bad_file : ErrorCode::network, "http", text({raw_.data, raw_.size}));
  }

 private:
  BbBytes raw_ = {};
};

class RustServer : public HttpServer {
 public:
  RustServer(const HttpOptions& options, HttpHandler& handler) {
    bb_log_panics(on_panic);
    std::vector<BbView> addresses;
    for (const auto& address : options.addresses) addresses.push_back(view(address));
    const auto ms = [](std::chrono::milliseconds time) { return static_cast<uint64_t>(time.count()); };
    BbHttpOptions raw = {};
    raw.addresses = addresses.data();
    raw.address_count = addresses.size();
    raw.certificate = view(options.tls_certificate.native());
    raw.key = view(options.tls_key.native());
    raw.max_connections = static_cast<uint64_t>(options.max_connections);
    raw.max_connections_per_address = static_cast<uint64_t>(options.max_connections_per_address);
    raw.max_header_bytes = options.max_header_bytes;
    raw.max_headers = static_cast<uint64_t>(options.max_headers);
    raw.max_body_bytes = options.max_body_bytes;
    raw.max_bodies_bytes = options.max_bodies_bytes;
    raw.header_ms = ms(options.header_timeout);
    raw.body_idle_ms = ms(options.body_idle_timeout);
    raw.idle_ms = ms(options.idle_timeout);
    raw.write_stall_ms = ms(options.write_stall);
    raw.port = static_cast<uint16_t>(options.port);
    raw.threads = static_cast<uint16_t>(options.threads);
    const BbHttpCallbacks callbacks = {&handler, on_head, on_refusal, on_request, on_forget, on_gone};
    Failure failure;
    failure.check(bb_http_start(&raw, callbacks, &http_, failure.out()));
  }
  RustServer(const RustServer&) = delete;
  RustServer& operator=(const RustServer&) = delete;
  ~RustServer() override { bb_http_free(http_); }

  int port() const override { return bb_http_port(http_); }
  HttpStats stats() const override {
    BbHttpStats raw = {};
    bb_http_stats(http_, &raw);
    return {raw.connections, raw.accepted, raw.refused_connections, raw.requests, raw.broken_requests, raw.stalled};
  }
  void start_closing() override { bb_http_start_closing(http_); }
  bool close(std::chrono::milliseconds wait) override {
    return bb_http_close(http_, static_cast<uint64_t>(wait.count())) != 0;
  }
  void reload_tls() override {
    Failure failure;
    failure.check(bb_http_reload_tls(http_, failure.out()));
  }

 private:
  BbHttp* http_ = nullptr;
};

}  // namespace

std::unique_ptr<HttpServer> start_http(const HttpOptions& options, HttpHandler& handler) {
  return std::make_unique<RustServer>(options, handler);
}

}  // namespace bumblebee::serve
