// An answer that goes out in pieces. What a step adds is collected and written once; a reader who does not keep up is
// let go; a quiet stream says now and then that it is alive.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "serve/http/http.h"

namespace bumblebee::serve {

/// From any thread.
class Stream {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr size_t kMostUnsent = size_t{256} << 10;  // beside the largest piece

  explicit Stream(std::shared_ptr<HttpExchange> exchange) : exchange_(std::move(exchange)) {}

  /// Sends the head, once; later calls do nothing. False: the answer was already ended or given as a whole.
  bool begin(const Headers& headers) noexcept;
  /// Collects. True where nothing was collected before: flush() is wanted.
  bool add(std::string_view piece);
  /// Writes what was collected. False: the reader is too slow, or gone, and was let go by this call.
  bool flush(Clock::time_point now) noexcept;
  /// A comment, where nothing was written for so long. False as flush().
  bool keep_alive(Clock::time_point now, std::chrono::milliseconds quiet) noexcept;
  /// The last piece and the end; only the first call counts.
  void end(std::string_view last) noexcept;
  /// Whole, in place of pieces, where nothing began. False: too late.
  bool respond(HttpResponse response) noexcept;
  /// Breaks off.
  void drop() noexcept;

 private:
  bool write_locked(std::string_view piece, Clock::time_point now) noexcept;

  mutable std::mutex mutex_;
  std::shared_ptr<HttpExchange> exchange_;  // null: over
  bool begun_ = false;
  std::string collected_;
  size_t largest_ = 0;  // of the pieces written
  Clock::time_point written_{};
};

}  // namespace bumblebee::serve
