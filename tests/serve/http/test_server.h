// A server with a handler whose answers tests choose by path, and which remembers what it heard.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "serve/http/http.h"

namespace bumblebee::serve {

/// /echo answers with method, target and body; /hold and /stream wait for the test, the latter after its head; /drop
/// answers never; /forbidden is refused by its head; everything else is 404.
class TestHandler : public HttpHandler {
 public:
  std::optional<HttpResponse> on_head(const HttpHead& head) noexcept override;
  void on_request(uint64_t id, HttpHead head, std::string body,
                  std::shared_ptr<HttpExchange> exchange) noexcept override;
  void on_gone(uint64_t id) noexcept override;

  struct Held {
    uint64_t id = 0;
    std::shared_ptr<HttpExchange> exchange;
  };
  /// The oldest exchange that waits; blocks until there is one.
  Held take();
  Held try_take();  // an empty one where none waits
  /// Blocks until on_gone() was called with it.
  void wait_gone(uint64_t id);
  size_t requests() const;
  std::vector<HttpHead> heads() const;
  size_t gone() const;

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Held> held_;
  std::vector<HttpHead> heads_;
  std::map<uint64_t, int> gone_;
  size_t requests_ = 0;
};

struct TestServer {
  explicit TestServer(const std::function<void(HttpOptions&)>& change = {});

  TestHandler handler;
  std::unique_ptr<HttpServer> http;
  int port = 0;

  /// Blocks until a figure of the statistics has this value.
  void wait_stats(uint64_t HttpStats::*figure, uint64_t value) const;
};

}  // namespace bumblebee::serve
