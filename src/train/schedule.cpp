// cosine_decay, exponential_decay, step_decay, linear_schedule, and what joins a warm-up to them.
#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"

namespace bumblebee::train {
namespace {

struct Shape {
  const char* name;
  size_t fewest, most;
  int count;  // the argument that is a number of steps; -1: none
};
constexpr Shape kShapes[] = {
    {"cosine_decay", 2, 3, 1}, {"exponential_decay", 2, 2, -1}, {"step_decay", 3, 3, 2}, {"linear_schedule", 3, 3, 2}};

[[noreturn]] void refuse_schedule(const std::string& what) { throw Error(ErrorCode::bad_request, "lr_schedule", what); }

/// init + step·slope, `end` from `steps` on.
float line(double init, double end, uint64_t steps, uint64_t step) {
  return float(std::min(step, steps)) * float((end - init) / double(steps)) + float(init);
}

}  // namespace

Schedule::Schedule(const ScheduleOptions& options, double constant) : options_(options), constant_(constant) {
  if (!(constant >= 0) || !std::isfinite(constant))
    refuse_schedule(cat("learning_rate: expected at least 0, got ", constant));
  if (options.name.empty()) {
    if (!options.arguments.empty() || options.warmup != 0)
      refuse_schedule("expected a name beside arguments and warmup");
    return;
  }
  const auto shape =
      std::find_if(std::begin(kShapes), std::end(kShapes), [&](const Shape& s) { return options.name == s.name; });
  if (shape == std::end(kShapes))
    refuse_schedule(
        cat("name: expected cosine_decay, exponential_decay, step_decay or linear_schedule, got '", options.name, "'"));
  const size_t given = options.arguments.size();
  if (given < shape->fewest || given > shape->most)
    refuse_schedule(cat(options.name, ": expected ", shape->fewest, shape->most > shape->fewest ? " or 3" : "",
                        " arguments, got ", given));
  for (const double value : options.arguments) {
    if (!std::isfinite(value)) refuse_schedule(cat(options.name, ": expected finite arguments, got ", value));
  }
  if (shape->count >= 0) {
    const double steps = options.arguments[size_t(shape->count)];
    if (!(steps >= 1) || steps != std::floor(steps) || steps > 1e15)
      refuse_schedule(cat(options.name, ": expected a whole number of steps, at least 1, got ", steps));
  }
  if (options.warmup < 0) refuse_schedule(cat("warmup: expected at least 0, got ", options.warmup));
  if (!std::isfinite(options.warmup_init))
    refuse_schedule(cat("warmup_init: expected a number, got ", options.warmup_init));
}

float Schedule::rate(uint64_t step) const {
  if (options_.name.empty()) return float(constant_);
  const uint64_t warmup = uint64_t(options_.warmup);
  // The boundary of mlx-lm is one past the warm-up, so that the full rate is there twice.
  if (warmup == 0) return base(step);
  if (step < warmup + 1) return line(options_.warmup_init, options_.arguments[0], warmup, step);
  return base(step - (warmup + 1));
}

float Schedule::base(uint64_t step) const {
  const std::vector<double>& a = options_.arguments;
  if (options_.name == "cosine_decay") {
    const double end = a.size() > 2 ? a[2] : 0.0;
    const float s = float(std::min(step, uint64_t(a[1])));
    const float decay = 0.5f * (1.0f + std::cos(float(std::numbers::pi / a[1]) * s));
    return float(end) + decay * float(a[0] - end);
  }
  if (options_.name == "exponential_decay") return float(a[0]) * std::pow(float(a[1]), float(step));
  if (options_.name == "step_decay") return float(a[0]) * std::pow(float(a[1]), float(step / uint64_t(a[2])));
  return line(a[0], a[1], uint64_t(a[2]), step);
}

}  // namespace bumblebee::train
