// A client without a network: keeps what an exchange was told, reads as slowly as it is told to, and may leave.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>

#include "serve/http/http.h"

namespace bumblebee::serve {

class FakeExchange final : public HttpExchange {
  template <class Read>
  auto with_lock(Read read) const {
    const std::lock_guard lock(mutex_);
    return read();
  }

 public:
  void respond(HttpResponse response) noexcept override {
    const std::lock_guard lock(mutex_);
    status_ = response.status;
    headers_ = std::move(response.headers);
    body_ = std::move(response.body);
    ended_ = true;
    changed_.notify_all();
  }
  void begin(int status, const Headers& headers) noexcept override {
    const std::lock_guard lock(mutex_);
    status_ = status;
    headers_ = headers;
    streamed_ = true;
    changed_.notify_all();
  }
  void write(std::string_view piece) noexcept override {
    const std::lock_guard lock(mutex_);
    body_ += piece;
    ++writes_;
    if (!reads_) unsent_ += piece.size();
    changed_.notify_all();
  }
  void end() noexcept override {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    changed_.notify_all();
  }
  size_t unsent() const noexcept override {
    const std::lock_guard lock(mutex_);
    return unsent_;
  }
  bool gone() const noexcept override { return gone_; }

  void stop_reading() {
    const std::lock_guard lock(mutex_);
    reads_ = false;
  }
  void leave() { gone_ = true; }

  bool wait_until_ended(std::chrono::seconds most = std::chrono::seconds(60)) const {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, most, [this] { return ended_; });
  }
  bool wait_for_text(std::string_view text, std::chrono::seconds most = std::chrono::seconds(60)) const {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, most, [&] { return body_.find(text) != std::string::npos; });
  }
  int status() const {
    return with_lock([this] { return status_; });
  }
  std::string body() const {
    return with_lock([this] { return body_; });
  }
  int writes() const {
    return with_lock([this] { return writes_; });
  }
  bool ended() const {
    return with_lock([this] { return ended_; });
  }
  bool streamed() const {
    return with_lock([this] { return streamed_; });
  }
  Headers headers() const {
    return with_lock([this] { return headers_; });
  }

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  int status_ = 0, writes_ = 0;
  Headers headers_;
  std::string body_;
  size_t unsent_ = 0;
  bool ended_ = false, streamed_ = false, reads_ = true;
  std::atomic<bool> gone_ = false;
};

}  // namespace bumblebee::serve
