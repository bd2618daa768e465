// Which tiles and splits a product of a batch takes. The order of its sums depends on splits: a weight's own.
#include "backend/cuda/kernels/matmul_batch.cuh"

#include <limits>

#include "backend/cuda/kernels/card.h"
#include "backend/cuda/kernels/launch.h"

namespace bumblebee::cuda {
namespace {

constexpr int parts_of(int count, int size) { return (count + size - 1) / size; }

int processors() { return card_attribute<cudaDevAttrMultiProcessorCount>(); }

/// Whether rows of this many bytes, from there on, may be copied by tensor copies.
bool fits_copies(const void* from, size_t row_bytes) {
  return row_bytes % 16 == 0 && reinterpret_cast<uintptr_t>(from) % 16 == 0;
}

/// Rows of `row_bytes` bytes; a box has `box_bytes` of half a unit's.
bool make_map(TensorMap& map, const void* from, size_t row_bytes, int rows, int box_bytes, CUtensorMapSwizzle swizzle) {
  const PFN_cuTensorMapEncodeTiled_v12000 encode = tensor_map_encoder();
  const cuuint64_t size[2] = {cuuint64_t(row_bytes / 2), cuuint64_t(rows)}, pitch[1] = {cuuint64_t(row_bytes)};
  const cuuint32_t box[2] = {cuuint32_t(box_bytes / 2), kHalfUnit}, steps[2] = {1, 1};
  return encode != nullptr &&
         encode(reinterpret_cast<CUtensorMap*>(&map), CU_TENSOR_MAP_DATA_TYPE_UINT16, 2, const_cast<void*>(from), size,
                pitch, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <int Groups>
void run(BatchArgs& args, const BatchMaps& maps, bool bf16, cudaStream_t stream) {
  using Shape = BatchShape<Groups>;
  const bool adapts = args.lora.tiles != nullptr;
  auto kernel = bf16 ? batch_kernel<Groups, true, false> : batch_kernel<Groups, false, false>;
  if (adapts) kernel = bf16 ? batch_kernel<Groups, true, true> : batch_kernel<Groups, false, true>;
  args.tiles = parts_of(args.units, Groups);
  allow_shared(kernel, Shape::kShared);
  const int blocks = std::min(processors(), args.tiles * args.splits);
  launch_overlapping("matmul", kernel, {unsigned(blocks)}, {Shape::kThreads}, Shape::kShared, stream, args, maps);
}

}  // namespace

bool has_matmul_batch(const WeightView& w) {
  return has_matmul_wide(w) && w.code == Code::uint && w.bits == 4 && w.group == 64 && w.bias == w.scale &&
         fits_copies(w.codes, w.row_bytes) && fits_copies(w.scales, size_t(w.scale_row) * 2) &&
         fits_copies(w.biases, size_t(w.scale_row) * 2) && tensor_map_encoder() != nullptr;
}

int batch_splits(const WeightView& w) {
  // As many tiles as multiprocessors fill the card by themselves; blocks of splits wait for each other.
  constexpr int kMostSplits = 4;
  if (!blocks_may_wait() || parts_of(w.out, kBatchUnit) >= processors()) return 1;
  return std::min(parts_of(w.in, kSpanColumns), kMostSplits);
}

BatchPlan plan_batch(const ProductTerm* terms, int count) {
  // Tenths of a microsecond on an H100: a span of a tile of two or three units, what else a tile takes, an exchange.
  constexpr int kSpanTime[] = {46, 73}, kTileTime = 10, kExchangeTime = 45;
  int units = 0;
  for (int t = 0; t < count; ++t) units += parts_of(terms[t].weight.out, kBatchUnit);
  const int splits = batch_splits(terms[0].weight),
            spans = parts_of(parts_of(terms[0].weight.in, kSpanColumns), splits);
  BatchPlan best;
  int least = std::numeric_limits<int>::max();
  for (const int groups : {2, 3}) {
    const int tiles = parts_of(units, groups);
    const int tile = spans * kSpanTime[groups - 2] + kTileTime + (splits > 1 ? kExchangeTime : 0);
    const int time = parts_of(tiles * splits, processors()) * tile;
    if (time >= least) continue;
    least = time;
    best = {.groups = groups,
            .splits = splits,
            .partials = splits == 1 ? 0 : size_t(tiles * splits * groups) * kBatchUnit * kBatchRows * sizeof(float),
            .counters = splits == 1 ? 0 : size_t(tiles * groups) * sizeof(uint32_t)};
  }
  return best;
}

void matmul_batch(const BatchPlan& plan, const WideInput& x, const ProductTerm* terms, int count, void* partials,
                  void* counters, cudaStream_t stream, const WideLora& lora, bool paired) {
  BatchArgs args = {.x = x.tiles,
                    .steps = x.steps,
                    .term = {},
                    .terms = count,
                    .rows = x.rows,
                    .pairs = tiles_of(x.in) / 2,
                    .units = 0,
                    .splits = plan.splits,
                    .tiles = 0,
                    .paired = paired,
                    .partials = static_cast<float4*>(partials),
                    .counters = static_cast<uint32_t*>(counters),
                    .lora = lora};
  BatchMaps maps = {};
  for (int t = 0; t < count; ++t) {
    const ProductTerm& term = terms[t];
    const WeightView& w = term.weight;
    const size_t scale_bytes = size_t(w.scale_row) * 2;
    if (!make_map(maps.codes[t], w.codes, w.row_bytes, w.out, 128, CU_TENSOR_MAP_SWIZZLE_128B) ||
        !make_map(maps.scales[t], w.scales, scale_bytes, w.out, 32, CU_TENSOR_MAP_SWIZZLE_NONE) ||
        !make_map(maps.biases[t], w.biases, scale_bytes, w.out, 32, CU_TENSOR_MAP_SWIZZLE_NONE))
      check(cudaErrorInvalidValue, "matmul");
    args.term[t] = {w.units, term.bias, term.y, w.out, args.units, term.add};
    args.units += parts_of(w.out, kBatchUnit);
  }
  if (paired) args.units = parts_of(terms[0].weight.out, kHalfUnit);
  const bool bf16 = terms[0].weight.scale == Element::bf16;
  if (plan.groups == 2) return run<2>(args, maps, bf16, stream);
  run<3>(args, maps, bf16, stream);
}

}  // namespace bumblebee::cuda
