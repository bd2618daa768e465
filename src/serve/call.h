// One request, from its head to the last byte of its answer: its way back, what runs for it, and what is said of it in
// the log and the metrics when it is over.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "bumblebee/serving.h"
#include "serve/guard.h"
#include "serve/http/http.h"
#include "serve/router.h"
#include "serve/stream.h"

namespace bumblebee::serve {

/// What the log says of a request beside its head.
struct CallFacts {
  std::string model, adapters;  // as asked for; empty: no request of a model
  bool stream = false;
  int answers = 0, input = 0, cached = 0, output = 0;
  std::string finish;  // of the first answer
  double queue_s = 0, ttft_s = 0;
  std::string error;  // code of what was refused or failed
  std::string body;   // only where prompts are logged
};

class Call {
 public:
  using Clock = std::chrono::steady_clock;

  Call(uint64_t id, HttpHead head, Match match, Caller caller, std::string request_id, Headers headers,
       std::shared_ptr<HttpExchange> exchange);

  const uint64_t id;
  const HttpHead head;
  const Match match;
  const Caller caller;
  const std::string request_id;
  const Clock::time_point started = Clock::now();
  Stream stream;

  /// Remembers what runs, to be cancelled. At once where it is too late for it.
  void running(text::Request request);
  /// Ends what runs, and what comes to run.
  void cancel() noexcept;
  /// True once: for who ends the call.
  bool finish() noexcept { return !finished_.exchange(true); }
  bool finished() const noexcept { return finished_.load(); }

  /// Of any answer to it.
  Headers headers() const;
  void add_header(std::string name, std::string value);

  CallFacts facts() const;
  template <class Change>
  void note(Change change) {
    const std::lock_guard lock(mutex_);
    change(facts_);
  }
  /// Forgets what ran; its listener goes with it.
  void release() noexcept;

 private:
  mutable std::mutex mutex_;
  Headers headers_;
  std::vector<text::Request> running_;
  bool cancelled_ = false, released_ = false;
  CallFacts facts_;
  std::atomic<bool> finished_ = false;
};

/// A request that was answered on its head: without a model.
struct Asked {
  const HttpHead& head;
  const RouteId* route = nullptr;  // null: a path that there is not, or no HTTP
  std::string_view id;
  Call::Clock::time_point started;
};

/// A line of JSON for the log: one request. `code`: of the error, or "".
std::string log_line(const Call& call, int status);
std::string log_line(const Asked& asked, int status, std::string_view code);

}  // namespace bumblebee::serve
