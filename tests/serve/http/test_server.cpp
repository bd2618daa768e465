// The tests' handler.
#include "tests/serve/http/test_server.h"

#include <thread>

#include <gtest/gtest.h>

#include "base/format.h"

namespace bumblebee::serve {

std::optional<HttpResponse> TestHandler::on_head(const HttpHead& head) noexcept {
  const std::lock_guard lock(mutex_);
  if (heads_.size() < 1000) heads_.push_back(head);
  if (head.path == "/forbidden") return HttpResponse{403, {{"x-why", "test"}}, "no\n"};
  return std::nullopt;
}

void TestHandler::on_request(uint64_t id, HttpHead head, std::string body,
                             std::shared_ptr<HttpExchange> exchange) noexcept {
  std::unique_lock lock(mutex_);
  ++requests_;
  if (head.path == "/hold" || head.path == "/stream") {
    if (head.path == "/stream") exchange->begin(200, {{"content-type", "text/event-stream"}});
    held_.push_back({id, std::move(exchange)});
    changed_.notify_all();
    return;
  }
  lock.unlock();
  if (head.path == "/drop") return;
  if (head.path == "/echo" || head.path == "/%2e%2e/%00") {
    const std::string query = head.query.empty() ? "" : cat("?", head.query);
    exchange->respond({200, {{"content-type", "text/plain"}}, cat(head.method, " ", head.path, query, " ", body)});
    return;
  }
  exchange->respond({404, {}, {}});
}

void TestHandler::on_gone(uint64_t id) noexcept {
  const std::lock_guard lock(mutex_);
  EXPECT_EQ(++gone_[id], 1) << "twice for one request";
  changed_.notify_all();
}

TestHandler::Held TestHandler::take() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !held_.empty(); });
  Held first = std::move(held_.front());
  held_.erase(held_.begin());
  return first;
}

TestHandler::Held TestHandler::try_take() {
  {
    const std::lock_guard lock(mutex_);
    if (held_.empty()) return {};
  }
  return take();
}

void TestHandler::wait_gone(uint64_t id) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return gone_.count(id) != 0; });
}

size_t TestHandler::requests() const {
  const std::lock_guard lock(mutex_);
  return requests_;
}

std::vector<HttpHead> TestHandler::heads() const {
  const std::lock_guard lock(mutex_);
  return heads_;
}

size_t TestHandler::gone() const {
  const std::lock_guard lock(mutex_);
  return gone_.size();
}

TestServer::TestServer(const std::function<void(HttpOptions&)>& change) {
  HttpOptions options;
  options.addresses = {"127.0.0.1"};
  if (change) change(options);
  http = start_http(options, handler);
  port = http->port();
}

void TestServer::wait_stats(uint64_t HttpStats::*figure, uint64_t value) const {
  while (http->stats().*figure != value) std::this_thread::sleep_for(std::chrono::milliseconds(2));
}

}  // namespace bumblebee::serve
