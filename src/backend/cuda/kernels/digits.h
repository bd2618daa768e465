// Activations as whole numbers: 64 of them share a step, and each is a number of steps, written in digits of base 128
// that fit int8. Two digits (15 bits) serve fast precision, four (27 bits) exact precision.
#pragma once

#include <cmath>
#include <cstdint>

#include "backend/cuda/kernels/unpack.h"

namespace bumblebee::cuda {

/// So many activations share a step.
inline constexpr int kStepGroup = 64;
/// The largest magnitude of 64 becomes so many steps: 127·128 leaves the high digit within int8.
inline constexpr float kFastSteps = 16256.0f;
/// 16256·16384 less half of 16384: the upper of two pairs of digits stays within what two digits hold.
inline constexpr float kExactSteps = 266330112.0f;

/// v = 128·high + low with low in [-64, 63].
struct Digits {
  int high, low;
};
BB_BOTH Digits split_digits(int v) {
  const int high = (v + 64) >> 7;
  return {high, v - high * 128};
}

/// Four digits as two numbers of two digits each: v = 2^14·high + low, both within what split_digits takes.
BB_BOTH Digits split_pairs(int v) {
  const int high = (v + 8192) >> 14;
  return {high, v - high * 16384};
}

/// How many steps x is. `per_step` is steps / largest; the product may be off by 2^-23 of itself, which is less than
/// 1/512 of a step at two digits.
BB_BOTH int to_steps(float x, float per_step) {
#if defined(__CUDA_ARCH__)
  return __float2int_rn(x * per_step);
#else
  return int(std::nearbyint(x * per_step));
#endif
}

/// What 64 activations of a row share. Sums are step·Σv, over all 64 and over either half.
struct alignas(16) StepGroup {
  float step, sum, first_half, second_half;
};

}  // namespace bumblebee::cuda
