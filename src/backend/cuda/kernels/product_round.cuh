// Activations to digits: the same code in quantize_rows and in the first moments of a product, so that both give the
// same bits.
#pragma once

#include "backend/cuda/kernels/digits.h"
#include "backend/cuda/kernels/maps.h"
#include "backend/cuda/kernels/product.h"
#include "backend/cuda/kernels/ptx.cuh"
#include "backend/cuda/kernels/row_norm.cuh"

namespace bumblebee::cuda {

/// So many octets of a row, by its length, stay in a thread's registers from the first load to the rounding.
inline constexpr int kKeptOctets = 2, kManyOctets = 6;
/// Barrier of the `Threads` that round a row; only the first kRoundThreads have work.
inline constexpr int kRoundBarrier = 5;

/// Where digits go: those of `first_block` come first.
struct RoundTarget {
  uint8_t* digits;
  StepGroup* steps;
  int columns, first_block;
};

/// Digits of eight biased numbers of steps.
__device__ __forceinline__ void store_digits(const RoundTarget& to, int row, int octet, const uint32_t (&v)[8]) {
  const int block = octet / 4 - to.first_block;
  uint8_t* high = to.digits + digit_offset(block, to.columns, 2 * row, octet % 4);
  *reinterpret_cast<uint2*>(high) = {high_digits(v[0], v[2], v[4], v[6]), high_digits(v[1], v[3], v[5], v[7])};
  *reinterpret_cast<uint2*>(high + 64) = {low_digits(v[0], v[2], v[4], v[6]), low_digits(v[1], v[3], v[5], v[7])};
}
/// Digits, and what 64 inputs share: eight lanes that follow each other hold them.
__device__ __forceinline__ void store_steps(const RoundTarget& to, int row, int octet, const uint32_t (&v)[8],
                                            float step, bool wanted) {
  uint32_t total = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) total += v[i];
  int sum = int(total - 8u * kStepsBias);
  if (wanted) store_digits(to, row, octet, v);
  sum += __shfl_xor_sync(0xffffffffu, sum, 1);
  sum += __shfl_xor_sync(0xffffffffu, sum, 2);
  const int other = __shfl_xor_sync(0xffffffffu, sum, 4);
  if (wanted && octet % 8 == 0)
    to.steps[(octet / 8 - to.first_block / 2) * (to.columns / 2) + row] = {step, step * float(sum + other),
                                                                           step * float(sum), step * float(other)};
}

/// Digits and sums of one row's octet `octet`. Eight lanes that follow each other hold the 64 inputs of a step; all
/// lanes of the warp take part, also where nothing is `wanted`.
__device__ __forceinline__ void round_octet(const Eight& x, int row, int octet, bool exact, const RoundTarget& to,
                                            bool wanted = true) {
  // The bits of a magnitude order as the magnitudes do, and a NaN is the largest of all, so it reaches the step.
  uint32_t largest = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) largest = max(largest, __float_as_uint(x.v[i]) & 0x7fffffffu);
#pragma unroll
  for (int i = 1; i < 8; i *= 2) largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, i));
  const float magnitude = __uint_as_float(largest), steps = exact ? kExactSteps : kFastSteps;
  // Below 2^-90 the reciprocal could overflow, and what is so small counts as nothing.
  const float per_step = magnitude < 8.0e-28f ? 0.0f : __fdividef(steps, magnitude);
  const float step = magnitude * (exact ? 1.0f / kExactSteps : 1.0f / kFastSteps);
  uint32_t v[8];
  if (!exact) {
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = biased_steps(x.v[i], per_step);
    store_steps(to, row, octet, v, step, wanted);
    return;
  }
#pragma unroll 1
  for (int part = 0; part < 2; ++part) {  // two rows of two digits each
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const Digits pairs = split_pairs(to_steps(x.v[i], per_step));
      v[i] = uint32_t(part == 0 ? pairs.high : pairs.low) + kStepsBias;
    }
    store_steps(to, 2 * row + part, octet, v, part == 0 ? step * 16384.0f : step, wanted);
  }
}

/// What round_one works on.
struct RoundWork {
  StageInput input;
  int in, out_row;  // out_row: the row of the target that x becomes
  bool exact;
  int blocks;  // of 32 inputs, from the target's first one; both are multiples of eight
};

/// One row. Up to 256·Octets octets of it stay in registers from the first load to the rounding; `in` may be longer.
/// Waits for x itself, and asks for the norm's weights before. There is no barrier at the end.
/// `visit` is shown every octet that is rounded.
template <int Threads, int Octets, class Visit>
__device__ __forceinline__ void round_one(const RoundWork& w, const RoundTarget& to, float* scratch,
                                          const Visit& visit) {
  const int tid = int(threadIdx.x), octets = w.in / 8, first = to.first_block * 4, end = first + w.blocks * 4;
  const bool with_norm = w.input.kind == StageInput::Kind::rms_norm, works = tid < kRoundThreads;
  const int from = with_norm ? 0 : first;
  const auto there = [&](int i) { return works && from + tid + i * kRoundThreads < octets; };
  const bool scales_early = Octets <= kKeptOctets && with_norm && w.input.norm != nullptr;
  Eight kept[Octets], norm[Octets <= kKeptOctets ? Octets : 1] = {};
  if (scales_early)
#pragma unroll
    for (int i = 0; i < Octets && i < kKeptOctets; ++i)
      if (there(i)) norm[i] = load_eight(w.input.norm + (from + tid + i * kRoundThreads) * 8);
  wait_for_inputs();
#pragma unroll
  for (int i = 0; i < Octets; ++i)
    kept[i] = there(i) ? load_eight(w.input.x + (from + tid + i * kRoundThreads) * 8) : Eight{};
  float inverse = 1.0f;
  if (with_norm) {
    if (works) {
      float sum = 0.0f;
#pragma unroll
      for (int i = 0; i < Octets; ++i) sum = sum_squares(kept[i], sum);
#pragma unroll 1
      for (int octet = tid + Octets * kRoundThreads; octet < octets; octet += kRoundThreads)
        sum = sum_squares(load_eight(w.input.x + octet * 8), sum);
      store_sum(sum, scratch);
    }
    barrier_sync<kRoundBarrier>(Threads);
    inverse = inverse_rms(scratch, w.in, w.input.eps);
  }
  if (!works) return;
  int done = 0;
  if (from == first) {  // what is in registers is what is to be rounded
#pragma unroll
    for (int i = 0; i < Octets; ++i) {
      const int octet = first + tid + i * kRoundThreads;
      if (i >= kKeptOctets && first + i * kRoundThreads >= end) break;
      if (scales_early) {
#pragma unroll
        for (int j = 0; j < 8; ++j) kept[i].v[j] = kept[i].v[j] * inverse * norm[Octets <= kKeptOctets ? i : 0].v[j];
      } else if (with_norm && octet < octets) {
        kept[i] = scaled(kept[i], w.input.norm, inverse, octet * 8);
      }
      visit(octet, kept[i]);
      round_octet(kept[i], w.out_row, octet, w.exact, to, octet < end);
    }
    done = Octets * kRoundThreads;
  }
#pragma unroll 1
  for (int octet = first + tid + done; octet < end; octet += kRoundThreads) {
    Eight v = octet < octets ? load_eight(w.input.x + octet * 8) : Eight{};
    if (with_norm && octet < octets) v = scaled(v, w.input.norm, inverse, octet * 8);
    visit(octet, v);
    round_octet(v, w.out_row, octet, w.exact, to);
  }
}
struct VisitsNone {
  __device__ __forceinline__ void operator()(int, const Eight&) const {}
};
template <int Threads, class Visit = VisitsNone>
__device__ __forceinline__ void round_one(const RoundWork& w, const RoundTarget& to, float* scratch,
                                          const Visit& visit = {}) {
  if (w.in > kKeptOctets * kRoundThreads * 8)
    round_one<Threads, kManyOctets>(w, to, scratch, visit);
  else
    round_one<Threads, kKeptOctets>(w, to, scratch, visit);
}

}  // namespace bumblebee::cuda
