// Activations as whole numbers: 64 of them share a step, and each is a number of steps, written in digits of base 128
// that fit int8. Two digits (15 bits) serve fast precision, four (27 bits) exact precision.
#pragma once

#include <bit>
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

/// How many steps x is, for four digits. `per_step` is steps / largest, by a division that may be 2^-22 off.
BB_BOTH int to_steps(float x, float per_step) {
#if defined(__CUDA_ARCH__)
  return __float2int_rn(x * per_step);
#else
  return int(std::nearbyint(x * per_step));
#endif
}

/// For two digits: the number of steps plus kStepsBias, modulo 2^32. Adding 1.5·2^23 to a float rounds it to a whole
/// number that then stands in the low bits; the 64 more are what split_digits adds.
inline constexpr uint32_t kStepsBias = 0x4b400000u + 64u;
BB_BOTH uint32_t biased_steps(float x, float per_step) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(__fmaf_rn(x, per_step, 12582976.0f));
#else
  return std::bit_cast<uint32_t>(std::fma(x, per_step, 12582976.0f));
#endif
}

/// Byte `Byte` of each of four words.
template <int Byte>
BB_BOTH uint32_t pack_bytes(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
#if defined(__CUDA_ARCH__)
  constexpr uint32_t kPick = Byte | (Byte + 4) << 4;
  return __byte_perm(__byte_perm(a, b, kPick), __byte_perm(c, d, kPick), 0x5410);
#else
  const auto byte = [](uint32_t word) { return word >> (8 * Byte) & 0xffu; };
  return byte(a) | byte(b) << 8 | byte(c) << 16 | byte(d) << 24;
#endif
}
/// High and low digits of four biased numbers of steps.
BB_BOTH uint32_t high_digits(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  return pack_bytes<1>(a << 1, b << 1, c << 1, d << 1);
}
BB_BOTH uint32_t low_digits(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  const uint32_t seven = pack_bytes<0>(a, b, c, d) & 0x7f7f7f7fu;  // each less 64, as a byte:
  return (seven ^ 0x40404040u) | ((~seven & 0x40404040u) << 1);
}

/// What 64 activations of a row share. Sums are step·Σv, over all 64 and over either half.
struct alignas(16) StepGroup {
  float step, sum, first_half, second_half;
};

}  // namespace bumblebee::cuda
