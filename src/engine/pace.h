// How many rows of prompts a step may have, so that those whose answers grow are not held up longer than asked for.
// Pure logic: time is an argument. Results do not depend on it, since no row depends on how prompts are cut.
#pragma once

#include <algorithm>

namespace bumblebee::engine {

/// Who wants the next step.
struct StepDemand {
  int decoding = 0;  // sequences that generate, a row each
  int prompts = 0;   // sequences whose prompt is not done: their users wait for a first token
};

class Pace {
 public:
  /// At most `most` rows beside sequences that generate, `alone` where none does; `target_s` is how long a step with
  /// decoding rows may take, 0: as long as it takes.
  Pace(int most, int alone, double target_s)
      : most_(std::max(most, alone)), beside_(most), alone_(alone), limit_(most_), target_s_(target_s) {}

  /// Rows of prompts for the next step, beside those of sequences that generate.
  int rows(StepDemand demand) const {
    const int limit = std::min(limit_, demand.decoding > 0 ? beside_ : alone_);
    if (target_s_ <= 0 || rows_per_s_ <= 0) return limit;
    const double rows = target(demand) * rows_per_s_ - demand.decoding;
    return int(std::clamp(rows, double(std::min(kLeast, limit)), double(limit)));
  }
  /// A step planned for `demand`, with so many rows of prompts and of answers, took so long. Steps of few rows read as
  /// much of the weights as those of many, so what a step reached is the least that larger ones reach: only one with
  /// prompts that took too long lowers the figure.
  void measured(StepDemand demand, int prompt_rows, int decode_rows, double seconds) {
    if (seconds <= 0) return;
    const double now = (prompt_rows + decode_rows) / seconds;
    if (now > rows_per_s_) {
      if (prompt_rows > 0 || rows_per_s_ > 0) rows_per_s_ = now;
    } else if (prompt_rows > 0 && seconds > target(demand)) {
      rows_per_s_ += (now - rows_per_s_) / 2;
    }
    limit_ = std::min(most_, limit_ + std::max(1, limit_ / 16));  // memory may be there again
  }
  /// There was no memory for a step of `rows` rows. What steps may have where nobody waits beside them stays below it:
  /// they would ask for as much again as soon as the limit has grown. Returns whether the step was larger than one
  /// beside sequences that generate may be, so that a smaller one is all that is needed.
  bool no_memory(int rows) {
    const bool large = rows > beside_;
    limit_ = std::max(1, std::min(limit_, rows) / 2);
    if (large) {
      alone_ = std::min(alone_, std::max(beside_, rows / 2));
      most_ = std::max(beside_, alone_);
    }
    return large;
  }

 private:
  /// Where several wait for a first token, steps are longer, by as many as wait for each that grows: a step costs its
  /// reading of the weights however few rows it has, so prompts in small steps keep everybody waiting. One prompt alone
  /// holds nobody up.
  double target(StepDemand demand) const {
    const double longest = std::max(target_s_, kAlone);
    if (demand.decoding <= 0) return longest;
    const int waiting = demand.prompts > 1 ? demand.prompts : 0;
    return std::min(longest, target_s_ * (demand.decoding + waiting) / demand.decoding);
  }

  static constexpr int kLeast = 16;
  static constexpr double kAlone = 1;  // seconds: with nobody to hold up, cancelling is all that waits

  int most_, beside_, alone_, limit_;
  double target_s_, rows_per_s_ = 0;
};

}  // namespace bumblebee::engine
