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
/// What the 64 inputs that begin with `octet` share: sums of steps of either half of them.
__device__ __forceinline__ void store_group(const RoundTarget& to, int row, int octet, float step, int first,
                                            int second) {
  to.steps[(octet / 8 - to.first_block / 2) * (to.columns / 2) + row] = {step, step * float(first + second),
                                                                         step * float(first), step * float(second)};
}
/// f(i) for i below N, unrolled.
template <int N, class F>
__device__ __forceinline__ void for_all(F f) {
#pragma unroll
  for (int i = 0; i < N; ++i) f(i);
}

/// Where one of the octets that a thread rounds at a time goes.
struct OctetPlace {
  int octet;
  bool wanted;
};
/// Digits, and what 64 inputs share: eight lanes that follow each other hold them. What one octet waits for, the others
/// fill: no branch is between them.
template <int N, class Target>
__device__ __forceinline__ void store_steps(const Target& to, int row, const OctetPlace (&at)[N],
                                            const uint32_t (&v)[N][8], const float (&step)[N]) {
  int sum[N], other[N];
  for_all<N>([&](int i) {
    uint32_t total = 0;
    for_all<8>([&](int j) { total += v[i][j]; });
    sum[i] = int(total - 8u * kStepsBias);
  });
  for_all<N>([&](int i) { sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 1); });
  for_all<N>([&](int i) { sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 2); });
  for_all<N>([&](int i) { other[i] = __shfl_xor_sync(0xffffffffu, sum[i], 4); });
  for_all<N>([&](int i) {
    if (at[i].wanted) store_digits(to, row, at[i].octet, v[i]);
  });
  for_all<N>([&](int i) {
    if (at[i].wanted && at[i].octet % 8 == 0) store_group(to, row, at[i].octet, step[i], sum[i], other[i]);
  });
}

/// Digits and sums of octets of one row. Eight lanes that follow each other hold the 64 inputs of a step; all lanes of
/// the warp take part, also where nothing is wanted.
template <int N, class Target>
__device__ __forceinline__ void round_octets(const Eight (&x)[N], int row, bool exact, const Target& to,
                                             const OctetPlace (&at)[N]) {
  // The bits of a magnitude order as the magnitudes do, and a NaN is the largest of all, so it reaches the step.
  uint32_t largest[N];
  for_all<N>([&](int i) {
    largest[i] = 0;
    for_all<8>([&](int j) { largest[i] = max(largest[i], __float_as_uint(x[i].v[j]) & 0x7fffffffu); });
  });
#pragma unroll
  for (int lanes = 1; lanes < 8; lanes *= 2)
    for_all<N>([&](int i) { largest[i] = max(largest[i], __shfl_xor_sync(0xffffffffu, largest[i], lanes)); });
  float per_step[N], step[N];
  for_all<N>([&](int i) {
    const float magnitude = __uint_as_float(largest[i]), steps = exact ? kExactSteps : kFastSteps;
    // Below 2^-90 the reciprocal could overflow, and what is so small counts as nothing.
    per_step[i] = magnitude < 8.0e-28f ? 0.0f : __fdividef(steps, magnitude);
    step[i] = magnitude * (exact ? 1.0f / kExactSteps : 1.0f / kFastSteps);
  });
  uint32_t v[N][8];
  if (!exact) {
    for_all<N>([&](int i) { for_all<8>([&](int j) { v[i][j] = biased_steps(x[i].v[j], per_step[i]); }); });
    store_steps(to, row, at, v, step);
    return;
  }
#pragma unroll 1
  for (int part = 0; part < 2; ++part) {  // two rows of two digits each
    float of_part[N];
    for_all<N>([&](int i) {
      of_part[i] = part == 0 ? step[i] * 16384.0f : step[i];
      for_all<8>([&](int j) {
        const Digits pairs = split_pairs(to_steps(x[i].v[j], per_step[i]));
        v[i][j] = uint32_t(part == 0 ? pairs.high : pairs.low) + kStepsBias;
      });
    });
    store_steps(to, 2 * row + part, at, v, of_part);
  }
}

/// What round_one works on.
struct RoundWork {
  StageInput input;
  int in, out_row;  // out_row: the row of the target that x becomes
  bool exact;
  int blocks;  // of 32 inputs, from the target's first one; both are multiples of eight
};

/// A norm's weights of an octet, 1 where there are none.
__device__ __forceinline__ Eight norm_octet(const float* norm, int octet, bool there) {
  Eight w = {{1, 1, 1, 1, 1, 1, 1, 1}};
  if (there && norm != nullptr) {
    const float4 a = __ldg(reinterpret_cast<const float4*>(norm) + 2 * octet),
                 b = __ldg(reinterpret_cast<const float4*>(norm) + 2 * octet + 1);
    w = {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
  }
  return w;
}

/// For the kernels before.
struct WaitsForInputs {
  __device__ __forceinline__ void operator()() const { wait_for_inputs(); }
};

/// One row. Up to 256·Octets octets of it stay in registers from the first load to the rounding; `in` may be longer.
/// Waits for x itself, by `wait`, and asks for the norm's weights before. There is no barrier at the end.
/// `visit` is shown every octet that is rounded, some at a time.
template <int Threads, int Octets, bool Norm, class Target, class Visit, class Wait = WaitsForInputs>
__device__ __forceinline__ void round_kept(const RoundWork& w, const Target& to, float* scratch, const Visit& visit,
                                           const Wait& wait = {}) {
  constexpr int kAtOnce = Octets % 3 == 0 ? 3 : Octets;
  const int tid = visit.thread(), octets = w.in / 8, first = to.first_block * 4, end = first + w.blocks * 4;
  const bool works = tid < kRoundThreads;
  const int from = Norm ? 0 : first;
  const auto octet_of = [&](int i) { return from + tid + i * kRoundThreads; };
  const auto there = [&](int i) { return works && octet_of(i) < octets; };
  constexpr bool kEarly = Norm && Octets <= kKeptOctets;
  Eight kept[Octets], norm[kEarly ? Octets : 1];
  if constexpr (kEarly) for_all<Octets>([&](int i) { norm[i] = norm_octet(w.input.norm, octet_of(i), there(i)); });
  wait();
  for_all<Octets>([&](int i) { kept[i] = there(i) ? load_eight(w.input.x + octet_of(i) * 8) : Eight{}; });
  float inverse = 1.0f;
  if constexpr (Norm) {
    if (works) {
      float sum = 0.0f;
      for_all<Octets>([&](int i) { sum = sum_squares(kept[i], sum); });
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
    for (int begin = 0; begin < Octets; begin += kAtOnce) {
      if (begin > 0 && first + begin * kRoundThreads >= end) break;
      Eight x[kAtOnce];
      OctetPlace at[kAtOnce];
      for_all<kAtOnce>([&](int i) {
        x[i] = kept[begin + i];
        at[i] = {octet_of(begin + i), octet_of(begin + i) < end};
        if constexpr (Norm) {
          const Eight scale =
              kEarly ? norm[kEarly ? begin + i : 0] : norm_octet(w.input.norm, octet_of(begin + i), there(begin + i));
          for_all<8>([&](int j) { x[i].v[j] = x[i].v[j] * inverse * scale.v[j]; });
        }
        visit(at[i].octet, x[i]);
      });
      visit.seen();
      round_octets(x, w.out_row, w.exact, to, at);
    }
    done = Octets * kRoundThreads;
  }
#pragma unroll 1
  for (int octet = first + tid + done; octet < end; octet += kRoundThreads) {
    Eight v[1] = {octet < octets ? load_eight(w.input.x + octet * 8) : Eight{}};
    if (Norm && octet < octets) v[0] = scaled(v[0], w.input.norm, inverse, octet * 8);
    visit(octet, v[0]);
    visit.seen();
    round_octets(v, w.out_row, w.exact, to, {{octet, true}});
  }
}
struct VisitsNone {
  __device__ __forceinline__ int thread() const { return int(threadIdx.x); }
  __device__ __forceinline__ void operator()(int, const Eight&) const {}
  __device__ __forceinline__ void seen() const {}
};
template <int Threads, class Target, class Visit = VisitsNone, class Wait = WaitsForInputs>
__device__ __forceinline__ void round_one(const RoundWork& w, const Target& to, float* scratch, const Visit& visit = {},
                                          const Wait& wait = {}) {
  const bool norm = w.input.kind == StageInput::Kind::rms_norm;
  if (w.in > kKeptOctets * kRoundThreads * 8) {
    if (norm)
      round_kept<Threads, kManyOctets, true>(w, to, scratch, visit, wait);
    else
      round_kept<Threads, kManyOctets, false>(w, to, scratch, visit, wait);
  } else if (norm) {
    round_kept<Threads, kKeptOctets, true>(w, to, scratch, visit, wait);
  } else {
    round_kept<Threads, kKeptOctets, false>(w, to, scratch, visit, wait);
  }
}

}  // namespace bumblebee::cuda
