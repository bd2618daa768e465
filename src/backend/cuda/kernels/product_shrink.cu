// Rounds rows for stages with adapters, and shrinks them on the way: u = A x while x is at hand. Several blocks share a
// row; each has all of it in shared memory, rounds some stages of it, and has some of the ranks.
#include "backend/cuda/kernels/product_shrink.cuh"

#include "backend/cuda/kernels/early_launch.h"
#include "backend/cuda/kernels/product_lora.cuh"
#include "backend/cuda/kernels/product_round.cuh"

namespace bumblebee::cuda {
namespace {

constexpr int kWarps = kRoundThreads / kWarp;

struct ShrinkArgs {
  StageInput input;
  StageLora lora;
  int32_t terms, in, columns;
};

/// Places of ranks (of all terms) that a block has: every gridDim.y-th.
BB_BOTH int places_of_block(int places, int blocks, int block) { return (places - block + blocks - 1) / blocks; }

__device__ __forceinline__ const __nv_bfloat16* factors_at(const ShrinkArgs& a, int row, int place) {
  const SiteView* site = site_of_row(a.lora, row, place / a.lora.ranks);
  if (site == nullptr) return nullptr;
  const RankPlace at = place_of_rank(*site, place % a.lora.ranks);
  return at.exists() ? static_cast<const __nv_bfloat16*>(at.term->a) + int64_t(at.rank) * a.in : nullptr;
}

__global__ void __launch_bounds__(kRoundThreads) shrink_kernel(const __grid_constant__ ShrinkArgs a) {
  extern __shared__ __align__(16) float x[];  // [stages of 256 inputs], then pieces of u
  __shared__ float scratch[kWarps];
  launch_dependents();
  const int row = int(blockIdx.x), tid = int(threadIdx.x), warp = tid / kWarp, lane = tid % kWarp;
  const int blocks = int(gridDim.y), block = int(blockIdx.y);
  const int stages = stages_of(a.in), octets = a.in / 8, pieces = pieces_of(a.in);
  float* of_pieces = x + stages * kStageInputs;
  const int items = places_of_block(a.terms * a.lora.ranks, blocks, block) * pieces;
  const auto place_of = [&](int item) { return block + item / pieces * blocks; };
  if (warp < items) {  // its first piece; the others follow while this one is multiplied
    const __nv_bfloat16* from = factors_at(a, row, place_of(warp));
    if (from != nullptr && warp % pieces * kPieceInputs + lane * 64 < a.in && lane < kPieceInputs / 64)
      prefetch_l2(from + warp % pieces * kPieceInputs + lane * 64);
  }
  wait_for_inputs();
  const bool with_norm = a.input.kind == StageInput::Kind::rms_norm;
  const float* of_row = a.input.x + int64_t(row) * a.in;
  const auto octet_at = [&](int octet) { return reinterpret_cast<Eight*>(x + octet * 8); };
  float squares = 0;
  for (int octet = tid; octet < stages * (kStageInputs / 8); octet += kRoundThreads) {
    const Eight v = octet < octets ? load_eight(of_row + octet * 8) : Eight{};
    if (octet < octets) squares = sum_squares(v, squares);
    *octet_at(octet) = v;
  }
  if (with_norm) {
    store_sum(squares, scratch);
    __syncthreads();
    const float inverse = inverse_rms(scratch, a.in, a.input.eps);
    for (int octet = tid; octet < octets; octet += kRoundThreads)
      *octet_at(octet) = scaled(*octet_at(octet), a.input.norm, inverse, octet * 8);
  }
  __syncthreads();
#pragma unroll 1
  for (int item = warp; item < items; item += kWarps) {
    const int first = item % pieces * kPieceInputs;
    const __nv_bfloat16* from = factors_at(a, row, place_of(item));
    float sum = 0;
    if (from != nullptr)
      sum = dot_piece<Bf16Octet>(
          min(kPieceInputs, a.in - first) / 8, lane,
          [&](int octet, Bf16Octet& to) { load_octet(from + first + octet * 8, to); },
          [&](int octet) { return *octet_at(first / 8 + octet); });
    if (lane == 0) of_pieces[item] = sum;
  }
  const RoundTarget to = {a.input.rounded.digits, static_cast<StepGroup*>(a.input.rounded.steps), a.columns, 0};
#pragma unroll 1
  for (int stage = block * kWarps + warp; stage < stages; stage += blocks * kWarps) {
    const int octet = stage * (kStageInputs / 8) + lane;
    round_octet(*octet_at(octet), row, octet, false, to);
  }
  __syncthreads();
  float* u = a.lora.u + int64_t(row) * a.terms * a.lora.ranks;
  for (int i = tid; i * pieces < items; i += kRoundThreads) {
    float sum = 0;
    for (int piece = 0; piece < pieces; ++piece) sum += of_pieces[i * pieces + piece];
    __stcg(u + block + i * blocks, sum);
  }
}

int blocks_of_row(const ProductStage& stage, int processors) {
  constexpr int kShortInputs = 8192;  // of longer rows each block reads less of the factors than of x
  const int blocks = processors * (stage.in <= kShortInputs ? 2 : 1) / stage.rows;
  const int most = stage.terms * stage.lora.ranks;
  return blocks < 1 ? 1 : blocks < most ? blocks : most;
}

size_t shared_bytes(const ProductStage& stage, int blocks) {
  const int places = places_of_block(stage.terms * stage.lora.ranks, blocks, 0);
  return (size_t(stages_of(stage.in)) * kStageInputs + size_t(places) * size_t(pieces_of(stage.in))) * sizeof(float);
}

}  // namespace

size_t shrink_shared_bytes(const ProductStage& stage) { return shared_bytes(stage, 1); }

cudaError_t launch_shrink(const ProductStage& stage, int processors, cudaStream_t stream) {
  const int blocks = blocks_of_row(stage, processors);
  const size_t shared = shared_bytes(stage, blocks);
  const cudaError_t allowed =
      cudaFuncSetAttribute(shrink_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared));
  if (allowed != cudaSuccess) return allowed;
  const ShrinkArgs args = {stage.input, stage.lora, stage.terms, stage.in, 2 * padded_rows(stage.rows)};
  return launch_early(shrink_kernel, dim3(unsigned(stage.rows), unsigned(blocks)), kRoundThreads, shared, stream, args);
}

}  // namespace bumblebee::cuda
