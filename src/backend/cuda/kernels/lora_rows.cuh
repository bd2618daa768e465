// A product of a row of A with a row of x, in the order of low_rank.cuh, by the warps of a block.
#pragma once

#include <cstring>

#include "backend/cuda/kernels/low_rank.cuh"

namespace bumblebee::cuda {

inline constexpr int kShrinkWarps = 4;

/// Rows of A and of x by octets, also where they do not begin at multiples of one.
template <class Factor>
struct RowOfFactors {
  const Factor* at;
  int in;
  bool aligned;
  template <class Octet>
  __device__ void operator()(int first, Octet& to) const {
    if (aligned) return load_octet(at + first, to);
    Factor v[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = first + i < in ? at[first + i] : Factor(0.0f);
    memcpy(&to, v, sizeof(to));
  }
};
__device__ inline Eight octet_of_row(const float* x, int first, int in, bool aligned) {
  if (aligned) return load_eight(x + first);
  Eight v;
#pragma unroll
  for (int i = 0; i < 8; ++i) v.v[i] = first + i < in ? __ldcg(x + first + i) : 0.0f;
  return v;
}

/// Pieces of a product with a row of A: every fourth piece from `warp` on goes to `pieces`.
template <class Octet, class Factor>
__device__ inline void dot_pieces(const Factor* a, const float* x, int in, int warp, int lane, float* pieces) {
  const bool aligned = in % 8 == 0;
  const RowOfFactors<Factor> factors = {a, in, aligned};
#pragma unroll 1
  for (int piece = warp; piece * kPieceInputs < in; piece += kShrinkWarps) {
    const int first = piece * kPieceInputs, left = in - first < kPieceInputs ? in - first : kPieceInputs;
    const float sum =
        dot_piece<Octet>((left + 7) / 8, lane, [&](int octet, Octet& to) { factors(first + octet * 8, to); },
                         [&](int octet) { return octet_of_row(x, first + octet * 8, in, aligned); });
    if (lane == 0) pieces[piece] = sum;
  }
}

/// The same with a row of A of any element, in thread 0. `pieces` [pieces of x] in shared memory; all threads come.
__device__ inline float dot_of_rank(const LowRankView& term, int rank, const float* x, int in, float* pieces) {
  const int warp = int(threadIdx.x) / kWarp, lane = int(threadIdx.x) % kWarp;
  const size_t first = size_t(rank) * size_t(in);
  if (term.element == Element::bf16)
    dot_pieces<Bf16Octet>(static_cast<const __nv_bfloat16*>(term.a) + first, x, in, warp, lane, pieces);
  else
    dot_pieces<F32Octet>(static_cast<const float*>(term.a) + first, x, in, warp, lane, pieces);
  __syncthreads();
  float sum = 0;
  for (int i = 0; threadIdx.x == 0 && i < pieces_of(in); ++i) sum += pieces[i];
  return sum;
}

}  // namespace bumblebee::cuda
