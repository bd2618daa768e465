// How products of product_rows.h are cut and launched.
#include "backend/cuda/kernels/product_rows_kernel.cuh"
#include "backend/cuda/kernels/product_rows_shrink.cuh"

#include "backend/cuda/kernels/card.h"
#include "backend/cuda/kernels/early_launch.h"
#include "backend/cuda/kernels/product_plan.h"

namespace bumblebee::cuda {

namespace {

struct Card {
  int alone = 0, clusters = 0;
  bool has = false;
};
Card read_card(int device) {
  int alone = 0, clusters = 0;
  cudaDeviceGetAttribute(&alone, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (code_major() != 9 || tensor_map_encoder() == nullptr) return {};
  const RowsKernel kernel = rows_kernel<16, 1, true, false>;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(kRowsCluster * 256);
  config.blockDim = dim3(kRowsThreads);
  config.dynamicSmemBytes = size_t(alone);
  if (cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, alone) != cudaSuccess) return {};
  if (cudaOccupancyMaxActiveClusters(&clusters, kernel, &config) != cudaSuccess) return {};
  return {alone, clusters, clusters > 0};
}
const Card& card() {
  thread_local Card known;
  thread_local int known_device = -1;
  int device = 0;
  cudaGetDevice(&device);
  if (device != known_device) known = read_card(device), known_device = device;
  return known;
}

bool encode(TensorMap& map, const void* plane, uint32_t rank, const cuuint64_t* size, const cuuint64_t* pitch,
            const cuuint32_t* box, CUtensorMapSwizzle swizzle) {
  const cuuint32_t steps[3] = {1, 1, 1};
  return tensor_map_encoder()(reinterpret_cast<CUtensorMap*>(&map), CU_TENSOR_MAP_DATA_TYPE_UINT8, rank,
                              const_cast<void*>(plane), size, pitch, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                              CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}
int scale_bytes_of_row(const ProductStage& stage) {
  return (stage.scale_row > 0 ? stage.scale_row : stage.in / stage.group) * 2;
}
bool make_maps(const ProductStage& stage, RowsMaps& maps) {
  int some = 0;
  while (stage.term[some].out == 0) ++some;
  for (int t = 0; t < stage.terms; ++t) {
    const StageWeight& w = stage.term[stage.term[t].out == 0 ? some : t];
    const cuuint64_t row_bytes = cuuint64_t(stage.in) / 2, rows = cuuint64_t(w.out);
    const cuuint64_t scale_row = cuuint64_t(scale_bytes_of_row(stage));
    const cuuint64_t code_size[3] = {kColumnBytes, rows, row_bytes / kColumnBytes};
    const cuuint64_t code_pitch[2] = {row_bytes, kColumnBytes};
    const cuuint32_t code_box[3] = {kColumnBytes, kRowsHalf, kRowsClasses};
    const cuuint64_t scale_size[2] = {scale_row, rows}, scale_pitch[1] = {scale_row};
    const cuuint32_t scale_box[2] = {kRowsScaleRow, kRowsHalf};
    if (!encode(maps.codes[t], w.codes, 3, code_size, code_pitch, code_box, CU_TENSOR_MAP_SWIZZLE_128B) ||
        !encode(maps.scales[t], w.scales, 2, scale_size, scale_pitch, scale_box, CU_TENSOR_MAP_SWIZZLE_NONE) ||
        !encode(maps.biases[t], w.biases, 2, scale_size, scale_pitch, scale_box, CU_TENSOR_MAP_SWIZZLE_NONE))
      return false;
  }
  return true;
}

/// Blocks that round x themselves keep all sections of it; else two where there are several and a ring of six slots
/// fits beside them.
RowsPlan choose_plan(int rows, int sections, int alone, RowsArgs& a) {
  const auto fits = [&](int depth, int inputs, int buffers) {
    a.depth = depth, a.inputs = inputs, a.buffers = buffers;
    return rows_plan(rows, depth, inputs, buffers, a.lora.ranks > 0 ? a.terms : 0, a.u_pitch).total <= alone;
  };
  if (a.input.kind != StageInput::Kind::tiles) {
    if (!fits(4, sections, 2)) return {.total = alone + 1};
  } else if (!fits(6, sections < 2 ? 1 : 2, 2) && !fits(4, 1, 2)) {
    fits(4, 1, 1);
  }
  int depth = kRowsMostDepth;
  while (depth > 2 && !fits(depth, a.inputs, a.buffers)) --depth;
  return rows_plan(rows, a.depth, a.inputs, a.buffers, a.lora.ranks > 0 ? a.terms : 0, a.u_pitch);
}
/// The last tiles of several sections, too few for all clusters, are cut where they have fewer sections than there are
/// clusters: each gets one at most. Clusters wait for each other then. Up to eight rows, where memory is the bound,
/// that gains nothing.
void deal_tiles(const RowShape& shape, int clusters, RowsArgs& a) {
  const int left = a.tiles % clusters, items = left * a.sections;
  const bool deals = a.sections > 1 && shape.groups == 1 && a.lora.ranks == 0 && blocks_may_wait() &&
                     a.input.kind == StageInput::Kind::tiles && items < clusters && items <= kMostItems;
  a.items = deals ? items : 0;
  a.whole = deals ? a.tiles - left : a.tiles;
}
void set_adapters(const ProductStage& stage, const TileLora& lora, RowsArgs& a) {
  a.terms = stage.terms;
  a.lora = lora;
  if (lora.ranks == 0) return;
  a.u_ranks = lora.ranks < 2 * kRankOctet ? 2 * kRankOctet : lora.ranks;
  a.u_pitch = stage.terms * a.u_ranks + 4;  // lanes that read the same place of four rows want as many banks
}

}  // namespace

bool takes_row_tiles(const ProductStage& stage, int rows) {
  return rows >= kLeastTileRows && rows <= kMostTileRows && !stage.exact && stage.bits == 4 && stage.group == 64 &&
         stage.scale != ScaleType::f32 && classes_of(stage.in) == kMaxClasses && stage.in % kStageInputs == 0 &&
         scale_bytes_of_row(stage) % 16 == 0 && card().has;
}

bool fits_row_lora(const ProductStage& stage, const TileLora& lora) {
  if (!takes_row_tiles(stage, stage.rows) || stage.experts.slots > 0) return false;
  if (lora.ranks % kRankOctet != 0 || stage.in > kMostShrinkGroups * kRoundThreads) return false;
  RowsArgs a = {};
  a.input.kind = StageInput::Kind::tiles;
  set_adapters(stage, lora, a);
  return choose_plan(row_shape(stage.rows).rows(), sections_of(stage.in), card().alone, a).total <= card().alone;
}

size_t tile_lora_bytes(const ProductStage& stage, const TileLora& lora) {
  return size_t(stage.rows) * size_t(stage.terms) * size_t(lora.ranks) * sizeof(float);
}

bool rounds_row_tiles(const ProductStage& stage, int rows) {
  RowsArgs a = {};
  a.input.kind = StageInput::Kind::plain;
  const int kept = row_shape(rows).rows();
  return kept <= kMostOwnRows && choose_plan(kept, sections_of(stage.in), card().alone, a).total <= card().alone;
}

bool has_row_tiles(const ProductStage& stage) {
  return stage.input.kind == StageInput::Kind::tiles ||
         (stage.rows > 1 && stage.experts.slots == 0 && stage.input.kind != StageInput::Kind::digits);
}

size_t row_tile_bytes(int rows, int in) { return size_t(stages_of(in)) * 2 * size_t(row_tile(row_shape(rows).rows())); }
size_t row_step_bytes(int rows, int in) { return size_t(stages_of(in)) * size_t(stage_steps(row_shape(rows).rows())); }

size_t row_tile_workspace(const ProductStage& stage) {
  if (sections_of(stage.in) < 2) return 0;
  size_t tiles = 0;
  for (int t = 0; t < stage.terms; ++t) tiles += size_t((stage.term[t].out + kRowsOut - 1) / kRowsOut);
  return kCounterBytes + (tiles + kMostItems) * kRowsOut * size_t(row_shape(stage.rows).rows()) * sizeof(float);
}

cudaError_t launch_row_tiles(const ProductStage& stage, cudaStream_t stream, const TileLora& lora,
                             const NextAdapters& next) {
  const bool adapts = lora.ranks > 0, tiles = stage.input.kind == StageInput::Kind::tiles;
  if (!takes_row_tiles(stage, stage.rows) || (adapts && !fits_row_lora(stage, lora))) return cudaErrorInvalidValue;
  if (stage.input.kind == StageInput::Kind::digits || stage.experts.slots > 0) return cudaErrorInvalidValue;
  if (stage.lora.ranks > 0 || (!tiles && (adapts || !rounds_row_tiles(stage, stage.rows))))
    return cudaErrorInvalidValue;
  const bool pairs = stage.epilogue == ProductStage::Epilogue::silu_mul;
  const RowShape shape = row_shape(stage.rows);
  RowsArgs a = {};
  for (int t = 0; t < kStageTerms; ++t) a.term[t] = stage.term[t];
  for (int t = 0; t <= kStageTerms; ++t) {
    a.first_tile[t] = t < stage.terms || t == 0 ? a.tiles : INT32_MAX;
    if (t < stage.terms) a.tiles += (stage.term[t].out + kRowsOut - 1) / kRowsOut;
  }
  if (pairs) a.tiles = (stage.term[0].out + kRowsHalf - 1) / kRowsHalf;
  if (a.tiles == 0) return cudaSuccess;
  a.in = stage.in, a.rows = stage.rows;
  set_adapters(stage, lora, a);
  a.next = next;
  a.input = stage.input;
  a.stages = stages_of(stage.in), a.slabs = slabs_of(stage.in), a.sections = sections_of(stage.in);
  a.epilogue = stage.epilogue;
  a.residual = stage.residual;
  a.digits = stage.input.rounded.digits, a.steps = static_cast<const uint8_t*>(stage.input.rounded.steps);
  if (a.sections > 1 && stage.workspace == nullptr) return cudaErrorInvalidValue;
  a.arrived = static_cast<uint32_t*>(stage.workspace);
  a.sums = reinterpret_cast<float*>(static_cast<char*>(stage.workspace) + kCounterBytes);
  const int clusters = a.tiles < card().clusters ? a.tiles : card().clusters;
  deal_tiles(shape, clusters, a);
  const RowsPlan plan = choose_plan(shape.rows(), a.sections, card().alone, a);
  if (plan.total > card().alone) return cudaErrorInvalidValue;
  RowsMaps maps = {};
  if (!make_maps(stage, maps)) return cudaErrorInvalidValue;
  const bool bf16 = stage.scale == ScaleType::bf16;
  const RowsKernel kernel = adapts ? rows_kernel_with_adapters(shape, bf16)
                            : bf16 ? find_rows_kernel<true, false>(shape)
                                   : find_rows_kernel<false, false>(shape);
  const cudaError_t allowed = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, card().alone);
  if (allowed != cudaSuccess) return allowed;
  return launch_early(kernel, unsigned(clusters * kRowsCluster), kRowsThreads, size_t(plan.total), stream, a, maps);
}

}  // namespace bumblebee::cuda
