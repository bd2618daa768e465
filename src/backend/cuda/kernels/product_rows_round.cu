// The kernel before products of product_rows.h: rows to digits, and A x of their adapters by blocks beside those.
#include "backend/cuda/kernels/early_launch.h"
#include "backend/cuda/kernels/product_rows_shrink.cuh"

namespace bumblebee::cuda {
namespace {

/// Blocks of 32 inputs that a block rounds where it need not have all of a row: an octet a thread.
constexpr int kRoundBlocks = kRoundThreads / 4;

struct RoundRows {
  ShrinkRows of;
  int32_t rows, of_group;  // of the target
  int32_t parts;           // blocks that round a row; those after them form u
};

__device__ __forceinline__ void round_part(const RoundRows& a, float* scratch) {
  const StageInput& input = a.of.input;
  StageInput row = input;
  row.x += int64_t(blockIdx.x) * a.of.in;
  const int blocks = stages_of(a.of.in) * (kStageInputs / 32), first = int(blockIdx.y) * kRoundBlocks;
  const RowTarget<false> to = {input.rounded.digits, static_cast<float2*>(input.rounded.steps), a.rows, a.of_group,
                               first};
  const RoundWork work = {row, a.of.in, int(blockIdx.x), false,
                          a.parts == 1 ? blocks : min(kRoundBlocks, blocks - first)};
  if (input.kind == StageInput::Kind::rms_norm)
    round_one<kRoundThreads>(work, to, scratch);
  else
    round_kept<kRoundThreads, 1, false>(work, to, scratch, VisitsNone{});
}

__global__ void __launch_bounds__(kRoundThreads) round_kernel(const __grid_constant__ RoundRows a) {
  __shared__ float scratch[kRoundThreads / kWarp];
  launch_dependents();
  round_part(a, scratch);
}

/// `Ranks` and `Octets` as shrink_row() has them.
template <int Ranks, int Octets>
__global__ void __launch_bounds__(kRoundThreads, 2) round_shrink_kernel(const __grid_constant__ RoundRows a) {
  __shared__ float scratch[kRoundThreads / kWarp];
  __shared__ float sums[kMostShrinkGroups][kRankOctet];
  launch_dependents();
  if (int(blockIdx.y) < a.parts)
    round_part(a, scratch);
  else
    shrink_row<Ranks, Octets>(a.of, int(blockIdx.x), (int(blockIdx.y) - a.parts) * Ranks, scratch, sums);
}

}  // namespace

cudaError_t round_row_tiles(const ProductStage& stage, cudaStream_t stream, const TileLora& lora) {
  const RowShape shape = row_shape(stage.rows);
  const int blocks = stages_of(stage.in) * (kStageInputs / 32);
  RoundRows a = {{stage.input, lora, stage.in, stage.terms}, shape.rows(), shape.of_group, 1};
  if (stage.input.kind != StageInput::Kind::rms_norm) a.parts = (blocks + kRoundBlocks - 1) / kRoundBlocks;
  const unsigned rows = unsigned(stage.rows), parts = unsigned(a.parts);
  if (lora.ranks == 0) return launch_early(round_kernel, dim3(rows, parts), kRoundThreads, 0, stream, a);
  if (!fits_row_lora(stage, lora)) return cudaErrorInvalidValue;
  const int ranks = shrink_ranks(stage.in);
  const dim3 grid(rows, parts + unsigned(stage.terms * lora.ranks / ranks));
  return launch_early(ranks == 8 ? round_shrink_kernel<8, 2> : round_shrink_kernel<4, 3>, grid, kRoundThreads, 0,
                      stream, a);
}

}  // namespace bumblebee::cuda
