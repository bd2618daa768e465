// A progress bar on stderr for work that takes longer than a blink. Draws only on a terminal, never into a pipe or a
// log.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace bumblebee::cli {

class ProgressBar {
 public:
  enum class Unit : unsigned char { bytes, items };
  enum class Visible : unsigned char { never, on_terminal };

  ProgressBar(std::string label, Unit unit, Visible visible);
  /// Erases the bar, so that what follows starts on a clean line.
  ~ProgressBar() { clear(); }
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  /// Draws at most twenty times a second; cheap enough to call per block. `remark` stands behind the amount; without
  /// `seconds_left`, the time left follows from what is done since the start.
  void update(uint64_t done, uint64_t total, std::string_view remark = {}, double seconds_left = -1);
  void clear();

 private:
  using Clock = std::chrono::steady_clock;
  std::string label_;
  Unit unit_;
  bool visible_;
  bool drawn_ = false;
  Clock::time_point start_ = Clock::now();
  Clock::time_point last_{};
};

}  // namespace bumblebee::cli
