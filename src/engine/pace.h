// How many rows of prompts a step may have, so that those whose answers grow are not held up longer than asked for.
// Pure logic: time is an argument. Results do not depend on it, since no row depends on how prompts are cut.
#pragma once

#include <algorithm>

namespace bumblebee::engine {

class Pace {
 public:
  /// At most `most` rows; `target_s` is how long a step with decoding rows may take, 0: as long as it takes.
  Pace(int most, double target_s) : most_(most), limit_(most), target_s_(target_s) {}

  /// Rows of prompts for the next step, beside `decode_rows` of sequences that generate.
  int rows(int decode_rows) const {
    if (target_s_ <= 0 || rows_per_s_ <= 0) return limit_;
    const double rows = target(decode_rows) * rows_per_s_ - decode_rows;
    return int(std::clamp(rows, double(std::min(kLeast, limit_)), double(limit_)));
  }
  /// A step of so many rows took so long. Steps of few rows read as much of the weights as those of many, so what a
  /// step reached is the least that larger ones reach: only one with prompts that took too long lowers the figure.
  void measured(int prompt_rows, int decode_rows, double seconds) {
    if (seconds <= 0) return;
    const double now = (prompt_rows + decode_rows) / seconds;
    if (now > rows_per_s_) {
      if (prompt_rows > 0 || rows_per_s_ > 0) rows_per_s_ = now;
    } else if (prompt_rows > 0 && seconds > target(decode_rows)) {
      rows_per_s_ += (now - rows_per_s_) / 2;
    }
    limit_ = std::min(most_, limit_ + std::max(1, limit_ / 16));  // memory may be there again
  }
  /// There was no memory for a step of the size that it was.
  void halve() { limit_ = std::max(1, limit_ / 2); }

 private:
  double target(int decode_rows) const { return decode_rows > 0 ? target_s_ : std::max(target_s_, kAlone); }

  static constexpr int kLeast = 16;
  static constexpr double kAlone = 1;  // seconds: with nobody to hold up, cancelling is all that waits

  int most_, limit_;
  double target_s_, rows_per_s_ = 0;
};

}  // namespace bumblebee::engine
