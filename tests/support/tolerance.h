// Where tolerances come from. Nothing here is tuned: every bound follows from sizes and from the rounding of one
// operation, as docs/internals/numerics.md, section "Tolerances", spells out.
#pragma once

#include <cmath>
#include <span>
#include <string>

namespace bumblebee::testing_support {

/// Half a unit in the last place, relative: the most that one rounding changes a value.
constexpr double kRoundF32 = 0x1p-24, kRoundF16 = 0x1p-11, kRoundBf16 = 0x1p-8;

/// Relative error of a sum of `terms` products in f32 in any order, against the sum of magnitudes. The worst case grows
/// with the number of terms, but roundings that are as often up as down grow with its root: Higham and Mary (2019) give
/// lambda·sqrt(n)·u with a chance of failure of 2n·exp(-lambda²/2) for each sum; lambda = 6 makes that 3e-8·n. `extra`
/// counts the further roundings of the operation.
inline double sum_error(int64_t terms, double extra = 0) {
  const double n = double(terms);
  return (std::fmin(n, 6 * std::sqrt(n)) + extra) * kRoundF32;
}

/// Largest |got - want| over the root mean square of `want`.
double relative_to_rms(std::span<const float> got, std::span<const double> want);

/// Empty when |got - want| <= bound everywhere; otherwise the worst place, both values and the ratio of error to bound.
/// A NaN fails.
std::string compare(std::span<const float> got, std::span<const float> want, std::span<const double> bound, int cols);

}  // namespace bumblebee::testing_support
