// How products are cut and launched, and the kernel that rounds rows by itself.

#include <algorithm>

#include "backend/cuda/kernels/card.h"
#include "backend/cuda/kernels/early_launch.h"
#include "backend/cuda/kernels/product.cuh"
#include "backend/cuda/kernels/product_chain.cuh"
#include "backend/cuda/kernels/product_lora.cuh"
#include "backend/cuda/kernels/product_round.cuh"
#include "backend/cuda/kernels/product_rows.h"
#include "backend/cuda/kernels/tensor_map.h"

namespace bumblebee::cuda {

using ProductKernel = void (*)(ProductArgs, ProductMaps, SharedPlan);
ProductKernel product_kernel_2bit(int group, int tiles);
ProductKernel product_kernel_3bit(int group, int tiles);
ProductKernel product_kernel_4bit(int group, int tiles);
ProductKernel product_kernel_5bit(int group, int tiles);
ProductKernel product_kernel_6bit(int group, int tiles);
ProductKernel product_kernel_8bit(int group, int tiles);

namespace {

constexpr int kResolveThreads = 128;

struct Card {
  ProductCard plan;
  bool early = false;  // sm_90: kernels overlap
  bool whole = false;  // blocks_may_wait()
};
Card read_card(int device) {
  int processors = 0, alone = 0, of_processor = 0, reserved = 0;
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  cudaDeviceGetAttribute(&alone, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  cudaDeviceGetAttribute(&of_processor, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
  cudaDeviceGetAttribute(&reserved, cudaDevAttrReservedSharedMemoryPerBlock, device);
  const bool early = can_launch_early();
  return {ProductCard::of(processors, of_processor, reserved, alone, early && tensor_map_encoder() != nullptr), early,
          blocks_may_wait()};
}
/// The calling thread's card; what is asked for once costs a launch's time.
const Card& card() {
  thread_local Card known;
  thread_local int known_device = -1;
  int device = 0;
  cudaGetDevice(&device);
  if (device != known_device) known = read_card(device), known_device = device;
  return known;
}

ProductKernel find_kernel(int bits, int group, int tiles) {
  switch (bits) {
    case 2: return product_kernel_2bit(group, tiles);
    case 3: return product_kernel_3bit(group, tiles);
    case 4: return product_kernel_4bit(group, tiles);
    case 5: return product_kernel_5bit(group, tiles);
    case 6: return product_kernel_6bit(group, tiles);
    case 8: return product_kernel_8bit(group, tiles);
    default: return nullptr;
  }
}

__global__ void __launch_bounds__(kRoundThreads) round_kernel(StageInput input, int in, int exact, int columns) {
  __shared__ float scratch[kRoundThreads / 32];
  launch_dependents();
  StageInput row = input;
  row.x += int64_t(blockIdx.x) * in;
  const RoundTarget to = {input.rounded.digits, static_cast<StepGroup*>(input.rounded.steps), columns, 0};
  round_one<kRoundThreads>({row, in, int(blockIdx.x), exact != 0, stages_of(in) * (kStageInputs / 32)}, to, scratch);
}

/// A block for each row of each tile that there could be.
__global__ void __launch_bounds__(kRoundThreads)
    round_experts_kernel(StageInput input, StageExperts experts, int in, int columns) {
  __shared__ float scratch[kRoundThreads / 32];
  launch_dependents();
  const int number = int(blockIdx.x) / kFewTileRows, row = int(blockIdx.x) % kFewTileRows;
  wait_for_inputs();
  if (number >= __ldcg(experts.count)) return;
  const int4 tile = __ldcg(reinterpret_cast<const int4*>(experts.tile) + number);
  if (row >= tile.z) return;
  const int assignment = tile.y + row;
  const int blocks = stages_of(in) * (kStageInputs / 32);
  input.x += int64_t(experts.row_of != nullptr ? __ldcg(experts.row_of + assignment) : assignment) * in;
  const RoundTarget to = {input.rounded.digits + int64_t(number) * blocks * columns * 32,
                          static_cast<StepGroup*>(input.rounded.steps) + int64_t(number) * (blocks / 2) * (columns / 2),
                          columns, 0};
  round_one<kRoundThreads>({input, in, row, false, blocks}, to, scratch);
}

/// A thread for each module, whose chain of addresses the stages then need not follow.
__global__ void resolve_kernel(const SlotTableView* slots, const int32_t* slot, const int32_t* row, int sites,
                               LoraTerm* terms) {
  const int first = int(blockIdx.x) * kResolveThreads + int(threadIdx.x), all = int(gridDim.x) * kResolveThreads;
  for (int i = first; i < sites; i += all) {
    const SiteView* site = site_of(*slots, slot[row != nullptr ? row[0] : 0], i);
    LoraTerm found;
    if (site != nullptr && site->terms > 0) {
      const LowRankView of = site->first;
      found = {of.a, of.b, site, of.rank, padded_rank(of.rank), of.bias, of.scale, site->terms};
    }
    terms[i] = found;
  }
}

bool is_valid(const ProductStage& s) {
  const bool pairs = s.epilogue == ProductStage::Epilogue::silu_mul, adds = s.epilogue == ProductStage::Epilogue::add;
  const bool terms = pairs  ? s.terms == 2 && s.term[0].out == s.term[1].out
                     : adds ? s.terms == 1 && s.residual != nullptr
                            : s.terms >= 1 && s.terms <= kStageTerms;
  const bool adapts = s.lora.ranks == 0 || fits_lora(s);
  const bool tiled = s.experts.slots == 0 || (!adds && s.lora.ranks == 0 && fits_experts(s));
  return terms && adapts && tiled && (s.group == 32 || s.group == 64 || s.group == 128) && s.in > 0 &&
         s.in % s.group == 0;
}

bool encode(TensorMap& map, const void* plane, uint32_t rank, const cuuint64_t* size, const cuuint64_t* pitch,
            const cuuint32_t* box, CUtensorMapSwizzle swizzle) {
  const cuuint32_t steps[3] = {1, 1, 1};
  return tensor_map_encoder()(reinterpret_cast<CUtensorMap*>(&map), CU_TENSOR_MAP_DATA_TYPE_UINT8, rank,
                              const_cast<void*>(plane), size, pitch, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                              CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}
/// Codes as [column][row]{128 bytes}, of which a copy takes eight rows of a slab's columns; scales and biases as they
/// are. What is outside is filled with zeros. Tiles past the last one count for the last term, so one without rows has
/// the maps of another.
bool make_maps(const ProductArgs& a, const ProductStage& stage, ProductMaps& maps) {
  int some = 0;
  while (stage.term[some].out == 0) ++some;
  for (int t = 0; t < stage.terms; ++t) {
    const StageWeight& w = stage.term[stage.term[t].out == 0 ? some : t];
    const cuuint64_t rows = cuuint64_t(w.out) * cuuint64_t(stage.experts.slots > 0 ? stage.experts.experts : 1);
    const cuuint64_t code_size[3] = {kColumnBytes, rows, cuuint64_t(a.row_bytes / kColumnBytes)};
    const cuuint64_t code_pitch[2] = {cuuint64_t(a.row_bytes), kColumnBytes};
    const cuuint32_t code_box[3] = {kColumnBytes, 8, cuuint32_t(a.half_bytes / kHalfColumn)};
    const cuuint64_t scale_size[2] = {cuuint64_t(a.scale_row_bytes), rows};
    const cuuint64_t scale_pitch[1] = {cuuint64_t(a.scale_row_bytes)};
    const cuuint32_t scale_box[2] = {cuuint32_t(a.slab_scales), 8};
    if (!encode(maps.codes[t], w.codes, 3, code_size, code_pitch, code_box, CU_TENSOR_MAP_SWIZZLE_128B) ||
        !encode(maps.scales[t], w.scales, 2, scale_size, scale_pitch, scale_box, CU_TENSOR_MAP_SWIZZLE_NONE) ||
        !encode(maps.biases[t], w.biases, 2, scale_size, scale_pitch, scale_box, CU_TENSOR_MAP_SWIZZLE_NONE))
      return false;
  }
  return true;
}

cudaError_t launch_rows(const ProductStage& stage, int rows, cudaStream_t stream) {
  if (!is_valid(stage)) return cudaErrorInvalidValue;
  ProductArgs a = {};
  const SharedPlan plan = plan_product(stage, rows, card().plan, a);
  if (a.tiles == 0) return cudaSuccess;
  a.arrived = static_cast<uint32_t*>(stage.workspace);
  a.partials = reinterpret_cast<float*>(static_cast<char*>(stage.workspace) + kCounterBytes);
  const int variant = a.experts.slots > 0   ? (a.virtual_rows == 1 ? -2 : -3)
                      : a.lora.ranks > 0    ? -1
                      : a.virtual_rows == 1 ? 0
                                            : tiles_of(a.virtual_rows);
  const ProductKernel kernel = find_kernel(stage.bits, stage.group, variant);
  if (kernel == nullptr || plan.total > card().plan.alone) return cudaErrorInvalidValue;
  if (a.virtual_rows > 1 && stage.input.kind != StageInput::Kind::digits) return cudaErrorInvalidValue;
  if (a.parts > 1 && stage.workspace == nullptr) return cudaErrorInvalidValue;
  const cudaError_t allowed =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, card().plan.alone);
  if (allowed != cudaSuccess) return allowed;
  ProductMaps maps = {};
  if (a.boxes && !make_maps(a, stage, maps)) return cudaErrorInvalidValue;
  const int shared = stage.apart && plan.total < card().plan.apart ? card().plan.apart : plan.total;
  return launch_early(kernel, unsigned(product_blocks(a, card().plan)),
                      unsigned(kWorkingThreads + 32 * copiers_of(card().early) + (variant == -1 ? 32 : 0)),
                      size_t(shared), stream, a, maps, plan);
}

}  // namespace

bool fits_chain(const ProductStage& stage) {
  ProductArgs a = {};
  return card().whole && is_valid(stage) && plan_link(stage, card().plan, a);
}
bool fit_chain(const ProductStage* stages, int count) {
  ProductArgs a[kMostLinks];
  const ProductArgs* planned[kMostLinks] = {};
  if (!card().whole || count < 1 || count > kMostLinks) return false;
  for (int i = 0; i < count; ++i) {
    planned[i] = a + i;
    if (!is_valid(stages[i]) || !plan_link(stages[i], card().plan, a[i])) return false;
  }
  return plan_chain({planned, size_t(count)}, card().plan).total <= card().plan.alone;
}
size_t chain_counters() { return size_t(kMostLinks) * kCounterApart * sizeof(uint32_t); }

cudaError_t launch_chain(const ProductStage* stages, int count, const PastAhead& ahead, void* counters,
                         cudaStream_t stream, Beside beside) {
  if (!card().whole || count < 1 || count > kMostLinks || counters == nullptr) return cudaErrorInvalidValue;
  ChainArgs c = {};
  c.links = count;
  c.arrived = static_cast<uint32_t*>(counters);
  c.ahead = ahead;
  const ProductArgs* planned[kMostLinks] = {};
  int blocks = 0, runs = 0;
  for (int i = 0; i < count; ++i) {
    ChainLink& link = c.link[i];
    if (!is_valid(stages[i]) || !plan_link(stages[i], card().plan, link.args) ||
        !make_maps(link.args, stages[i], link.maps))
      return cudaErrorInvalidValue;
    planned[i] = &link.args;
    blocks = std::max(blocks, product_blocks(link.args, card().plan));
  }
  for (const ProductArgs* a : std::span(planned, size_t(count))) runs = std::max(runs, held_runs(*a, blocks));
  LinkShifts shifts(blocks);
  for (int i = 0; i < count; ++i) c.link[i].shift = shifts.next(c.link[i].args.units);
  c.shared = plan_chain({planned, size_t(count)}, card().plan);
  if (c.shared.total > card().plan.alone) return cudaErrorInvalidValue;
  const ChainKernel kernel = chain_kernel_4bit(runs, beside);
  const cudaError_t allowed =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, card().plan.alone);
  if (allowed != cudaSuccess) return allowed;
  const int shared = std::max(c.shared.total, card().plan.apart);  // no two of them on a multiprocessor
  return launch_early(kernel, unsigned(blocks), unsigned(chain_threads(runs > 0)), size_t(shared), stream, c);
}

bool rounds_in_stage(int rows, bool exact) { return (exact ? 2 * rows : rows) <= 1; }

int rows_at_once(const ProductStage& stage) { return rows_at_once(stage, card().plan); }
bool fits_lora(const ProductStage& stage) { return card().whole && fits_lora(stage, card().plan); }
bool fits_experts(const ProductStage& stage) { return fits_experts(stage, card().plan); }
size_t stage_workspace(const ProductStage& stage) { return stage_workspace(stage, card().plan); }

cudaError_t quantize_rows(const StageInput& input, int rows, int in, bool exact, int most, cudaStream_t stream) {
  if (most <= 0) return cudaErrorInvalidValue;
  StageInput part = input;
  for (int row = 0; row < rows; row += most) {
    const int count = rows - row < most ? rows - row : most;
    const cudaError_t status = launch_early(round_kernel, unsigned(count), kRoundThreads, 0, stream, part, in,
                                            int(exact), 2 * padded_rows(exact ? 2 * count : count));
    if (status != cudaSuccess) return status;
    part.x += int64_t(count) * in;
    part.rounded.digits += digit_bytes(count, in, exact, count);
    part.rounded.steps = static_cast<char*>(part.rounded.steps) + step_bytes(count, in, exact, count);
  }
  return cudaSuccess;
}

cudaError_t quantize_experts(const StageInput& input, const StageExperts& experts, int in, cudaStream_t stream) {
  return launch_early(round_experts_kernel, unsigned(experts.slots * kFewTileRows), kRoundThreads, 0, stream, input,
                      experts, in, 2 * padded_rows(kFewTileRows));
}

cudaError_t resolve_lora(const SlotTableView* slots, const int32_t* slot, const int32_t* row, int sites,
                         LoraTerm* terms, float* parts, cudaStream_t stream) {
  constexpr int kMost = 16;
  const int wanted = (sites + kResolveThreads - 1) / kResolveThreads, blocks = wanted < 1 ? 1 : wanted;
  resolve_kernel<<<unsigned(blocks < kMost ? blocks : kMost), kResolveThreads, 0, stream>>>(slots, slot, row, sites,
                                                                                            terms);
  const cudaError_t status = cudaGetLastError();
  // Stages read what was found before they wait for what came earlier: nothing may begin early behind this.
  return status != cudaSuccess ? status : cudaMemsetAsync(parts, 0, 2 * kLoraParts * sizeof(float), stream);
}

cudaError_t launch_stage(const ProductStage& stage, cudaStream_t stream) {
  if (has_row_tiles(stage)) return launch_row_tiles(stage, stream);
  const int most = stage.at_once > 0 ? stage.at_once : rows_at_once(stage);
  if (most <= 0) return cudaErrorInvalidValue;
  ProductStage part = stage;
  for (int row = 0; row < stage.rows; row += most) {
    const int count = stage.rows - row < most ? stage.rows - row : most;
    const cudaError_t status = launch_rows(part, count, stream);
    if (status != cudaSuccess) return status;
    for (StageWeight& term : part.term)
      if (term.y != nullptr) term.y += count * term.stride;
    if (part.residual != nullptr) part.residual += count * part.term[0].stride;
    if (part.input.kind == StageInput::Kind::digits) {
      part.input.rounded.digits += digit_bytes(count, stage.in, stage.exact, count);
      part.input.rounded.steps =
          static_cast<char*>(part.input.rounded.steps) + step_bytes(count, stage.in, stage.exact, count);
    } else {
      part.input.x += int64_t(count) * stage.in;
    }
  }
  return cudaSuccess;
}

}  // namespace bumblebee::cuda
