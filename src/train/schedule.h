// Learning rates by update: mlx-lm's schedules with their warm-up, in f32 and in mlx's order of operations.
#pragma once

#include <cstdint>

#include "bumblebee/train.h"

namespace bumblebee::train {

class Schedule {
 public:
  /// `constant` is the rate without a schedule. Throws Error(bad_request) for names, numbers of arguments and values
  /// that mean nothing.
  Schedule(const ScheduleOptions& options, double constant);

  /// Of the update that has `step` before it.
  float rate(uint64_t step) const;

 private:
  float base(uint64_t step) const;

  ScheduleOptions options_;
  double constant_;
};

}  // namespace bumblebee::train
