// Lines of the log, written by a thread of their own: a log that cannot be written holds up nobody's answer.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

namespace bumblebee::serve {

class LogQueue {
 public:
  using Sink = std::function<void(std::string_view line)>;
  static constexpr size_t kMostBytes = size_t{16} << 20;

  /// `sink` may block; empty: lines go nowhere.
  explicit LogQueue(Sink sink);
  /// Writes what waits, then ends.
  ~LogQueue();
  LogQueue(const LogQueue&) = delete;
  LogQueue& operator=(const LogQueue&) = delete;

  /// Whether lines go anywhere.
  explicit operator bool() const { return bool(sink_); }
  /// Never waits: where more than kMostBytes wait, the line is dropped and counted.
  void add(std::string line) noexcept;
  /// Of a line that could not be made or written.
  void drop() noexcept { ++dropped_; }
  uint64_t dropped() const { return dropped_; }
  /// Waits until all lines are written, at most so long. True: they are.
  bool flush(std::chrono::milliseconds most);

 private:
  void write();

  const Sink sink_;
  std::atomic<uint64_t> dropped_ = 0;
  std::mutex mutex_;
  std::condition_variable wake_, written_;
  std::deque<std::string> lines_;
  size_t bytes_ = 0;  // of lines_ and of the one that is being written
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace bumblebee::serve
