// How products are cut and launched, and the kernel that rounds rows by itself.
#include <cudaTypedefs.h>

#include "backend/cuda/kernels/early_launch.h"
#include "backend/cuda/kernels/product.cuh"
#include "backend/cuda/kernels/product_lora.cuh"
#include "backend/cuda/kernels/product_round.cuh"

namespace bumblebee::cuda {

using ProductKernel = void (*)(ProductArgs, ProductMaps, SharedPlan);
ProductKernel product_kernel_2bit(int group, int tiles);
ProductKernel product_kernel_3bit(int group, int tiles);
ProductKernel product_kernel_4bit(int group, int tiles);
ProductKernel product_kernel_5bit(int group, int tiles);
ProductKernel product_kernel_6bit(int group, int tiles);
ProductKernel product_kernel_8bit(int group, int tiles);

namespace {

/// The driver's cuTensorMapEncodeTiled, asked for by name: nothing here links the driver.
PFN_cuTensorMapEncodeTiled_v12000 encoder() {
  static const PFN_cuTensorMapEncodeTiled_v12000 found = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result;
    const cudaError_t status =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result);
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(status == cudaSuccess ? function : nullptr);
  }();
  return found;
}

/// Two blocks of `beside` share a multiprocessor.
/// A block of `apart` leaves room for one of `beside`, not for another like itself.
struct Card {
  static constexpr int kMargin = 256;
  int processors = 0, shared_beside = 0, shared_apart = 0, shared_alone = 0;
  bool early = false;  // sm_90: kernels overlap, and tensor copies exist
};
Card read_card(int device) {
  Card c;
  int of_processor = 0, reserved = 0;
  cudaDeviceGetAttribute(&c.processors, cudaDevAttrMultiProcessorCount, device);
  cudaDeviceGetAttribute(&c.shared_alone, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  cudaDeviceGetAttribute(&of_processor, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
  cudaDeviceGetAttribute(&reserved, cudaDevAttrReservedSharedMemoryPerBlock, device);
  c.shared_beside = of_processor / 2 - reserved - Card::kMargin;
  c.shared_apart = of_processor / 2 - reserved + Card::kMargin;
  c.early = can_launch_early();
  return c;
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

/// Rows of digits of one launch at most: those of 4,096 inputs, a section, just fit on a multiprocessor.
constexpr int kLaunchRows = 16;
int padded_rows(int virtual_rows) { return virtual_rows <= 4 ? virtual_rows : virtual_rows <= 8 ? 8 : 16; }
int tiles_of(int virtual_rows) { return (padded_rows(virtual_rows) + 3) / 4; }
size_t digit_bytes_at_once(int rows, int in, bool exact) {
  return size_t(stages_of(in)) * kStageInputs * 2 * size_t(padded_rows(exact ? 2 * rows : rows));
}

int logarithm(int power_of_two) {
  int bits = 0;
  while (1 << bits < power_of_two) ++bits;
  return bits;
}
int round_up(int n, int unit) { return (n + unit - 1) / unit * unit; }

SharedPlan plan_shared(const ProductArgs& a) {
  int blocks = 0;
  for (int part = 0; part < a.parts; ++part) {
    const int of_part = blocks_of_part(a, part);
    blocks = of_part > blocks ? of_part : blocks;
  }
  SharedPlan plan;
  plan.digits = a.depth * a.slot_bytes;
  plan.steps = plan.digits + blocks * a.columns * 32;
  plan.partials = plan.steps + blocks / 2 * (a.columns / 2) * int(sizeof(StepGroup));
  plan.lora = plan.partials + a.buffers * kConsumers * tiles_of(a.virtual_rows) * 64 * int(sizeof(float));
  plan.gates = plan.lora + (a.lora.ranks > 0 ? lora_shared_bytes(a.held, a.terms * a.lora.ranks) : 0);
  plan.total = plan.gates + int(sizeof(Gates));
  return plan;
}

/// All of x, beside a ring that leaves room for the next kernel's block; else a multiprocessor to itself; else some
/// sections of x, as many as fit so. With one buffer of partial sums every section waits for the one before it.
SharedPlan choose_shared(ProductArgs& a) {
  const auto fits = [&](int limit, int depth, int buffers) {
    a.depth = depth, a.buffers = buffers;
    return plan_shared(a).total <= limit;
  };
  const int alone = card().shared_alone;
  int limit = alone, buffers = 1;
  for (a.parts = 1;; ++a.parts) {
    const int enough = (kEnoughBytes + a.slot_bytes - 1) / a.slot_bytes;
    if (fits(card().shared_beside, enough < kEnoughDepth ? kEnoughDepth : enough, 2)) {
      limit = card().shared_beside, buffers = 2;
      break;
    }
    if (fits(alone, kEnoughDepth, 2)) {
      buffers = 2;
      break;
    }
    if (fits(alone, kEnoughDepth, 1) || a.parts == a.sections) break;
  }
  int depth = kMostDepth;
  while (depth > kLeastDepth && !fits(limit, depth, buffers)) --depth;
  fits(limit, depth, buffers);
  return plan_shared(a);
}

int count_tiles(const ProductStage& stage, int (&first)[kStageTerms + 1]) {
  int tiles = 0;
  for (int i = 0; i <= kStageTerms; ++i) {
    first[i] = i < stage.terms || i == 0 ? tiles : INT32_MAX;
    if (i < stage.terms) tiles += (stage.term[i].out + kTileRows - 1) / kTileRows;
  }
  return stage.epilogue == ProductStage::Epilogue::silu_mul ? (stage.term[0].out + 7) / 8 : tiles;
}

/// One a multiprocessor at most.
int blocks_of(const ProductArgs& a) {
  const int side_by_side = card().processors / a.parts;
  return (a.units < side_by_side ? a.units : side_by_side) * a.parts;
}

SharedPlan fill_args(const ProductStage& stage, int rows, ProductArgs& a) {
  for (int i = 0; i < kStageTerms; ++i) a.term[i] = stage.term[i];
  a.tiles = count_tiles(stage, a.first_tile);
  a.in = stage.in;
  a.rows = rows;
  a.virtual_rows = stage.exact ? 2 * rows : rows;
  a.columns = 2 * padded_rows(a.virtual_rows);
  a.row_bytes = stage.in / 32 * 4 * stage.bits;
  a.group = stage.group;
  a.scale = stage.scale;
  const int scale_bytes = stage.scale == ScaleType::f32 ? 4 : 2;
  a.scale_row_bytes = stage.in / stage.group * scale_bytes;
  a.stage_scales = scale_bytes * (kStageInputs / stage.group);
  a.stages = stages_of(a.in), a.slabs = slabs_of(a.in), a.sections = sections_of(a.in);
  a.width = classes_of(a.in), a.width_bits = logarithm(a.width);
  a.slab_codes = a.width * 32 * stage.bits, a.slab_scales = a.width * a.stage_scales;
  a.scale_copy = a.slab_scales % 16 == 0 ? 16 : a.slab_scales % 8 == 0 ? 8 : 4;
  while (a.scale_copy > 2 && a.scale_row_bytes % a.scale_copy != 0) a.scale_copy /= 2;
  a.row_copies_bits = logarithm(a.slab_scales / a.scale_copy);
  a.code_copy = a.row_bytes % 16 == 0 ? 16 : 4;
  a.boxes = card().early && encoder() != nullptr && a.row_bytes % kColumnBytes == 0 &&
            a.slab_codes % kColumnBytes == 0 && a.scale_copy == 16;
  const int halves = 2 * kConsumers / a.width;
  a.half_bytes = columns_of_slab(stage.bits, a.width) * kHalfColumn;
  a.scales_at = halves * a.half_bytes, a.plane = halves * 8 * a.slab_scales;
  a.slab_bytes = a.scales_at + 2 * a.plane;
  a.slot_bytes = round_up(a.slab_bytes, kHalfColumn);
  a.exact = stage.exact;
  a.epilogue = stage.epilogue;
  a.residual = stage.residual;
  a.input = stage.input;
  a.lora = stage.lora;
  a.terms = stage.terms;
  a.pieces = pieces_of(a.in);
  a.items = a.terms * a.lora.ranks * a.pieces;
  a.held = 0;
  a.units = (a.tiles + kConsumers / a.width - 1) / (kConsumers / a.width);
  const SharedPlan plan = choose_shared(a);
  if (a.lora.ranks == 0) return plan;
  a.held = (a.items + blocks_of(a) - 1) / blocks_of(a);
  return choose_shared(a);
}

/// Counters come first: their place must not depend on the stage, since they are zero between stages.
constexpr size_t kCounterBytes = size_t(1) << 16;

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

bool is_valid(const ProductStage& s) {
  const bool pairs = s.epilogue == ProductStage::Epilogue::silu_mul, adds = s.epilogue == ProductStage::Epilogue::add;
  const bool terms = pairs  ? s.terms == 2 && s.term[0].out == s.term[1].out
                     : adds ? s.terms == 1 && s.residual != nullptr
                            : s.terms >= 1 && s.terms <= kStageTerms;
  const bool adapts = s.lora.ranks == 0 || fits_lora(s);
  return terms && adapts && (s.group == 32 || s.group == 64 || s.group == 128) && s.in > 0 && s.in % s.group == 0;
}

bool encode(TensorMap& map, const void* plane, uint32_t rank, const cuuint64_t* size, const cuuint64_t* pitch,
            const cuuint32_t* box, CUtensorMapSwizzle swizzle) {
  static_assert(sizeof(TensorMap) == sizeof(CUtensorMap));
  const cuuint32_t steps[3] = {1, 1, 1};
  return encoder()(reinterpret_cast<CUtensorMap*>(&map), CU_TENSOR_MAP_DATA_TYPE_UINT8, rank, const_cast<void*>(plane),
                   size, pitch, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                   CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}
/// Codes as [column][row]{128 bytes}, of which a copy takes eight rows of a slab's columns; scales and biases as they
/// are. What is outside is filled with zeros. Tiles past the last one count for the last term, so one without rows has
/// the maps of another.
bool make_maps(const ProductArgs& a, const ProductStage& stage, ProductMaps& maps) {
  int some = 0;
  while (stage.term[some].out == 0) ++some;
  for (int t = 0; t < stage.terms; ++t) {
    const StageWeight& w = stage.term[stage.term[t].out == 0 ? some : t];
    const cuuint64_t code_size[3] = {kColumnBytes, cuuint64_t(w.out), cuuint64_t(a.row_bytes / kColumnBytes)};
    const cuuint64_t code_pitch[2] = {cuuint64_t(a.row_bytes), kColumnBytes};
    const cuuint32_t code_box[3] = {kColumnBytes, 8, cuuint32_t(a.half_bytes / kHalfColumn)};
    const cuuint64_t scale_size[2] = {cuuint64_t(a.scale_row_bytes), cuuint64_t(w.out)};
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
  const SharedPlan plan = fill_args(stage, rows, a);
  if (a.tiles == 0) return cudaSuccess;
  a.arrived = static_cast<uint32_t*>(stage.workspace);
  a.partials = reinterpret_cast<float*>(static_cast<char*>(stage.workspace) + kCounterBytes);
  const int variant = a.lora.ranks > 0 ? -1 : a.virtual_rows == 1 ? 0 : tiles_of(a.virtual_rows);
  const ProductKernel kernel = find_kernel(stage.bits, stage.group, variant);
  if (kernel == nullptr || plan.total > card().shared_alone) return cudaErrorInvalidValue;
  if (a.virtual_rows > 1 && stage.input.kind != StageInput::Kind::digits) return cudaErrorInvalidValue;
  if (a.parts > 1 && stage.workspace == nullptr) return cudaErrorInvalidValue;
  const cudaError_t allowed =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, card().shared_alone);
  if (allowed != cudaSuccess) return allowed;
  ProductMaps maps = {};
  if (a.boxes && !make_maps(a, stage, maps)) return cudaErrorInvalidValue;
  const int shared = stage.apart && plan.total < card().shared_apart ? card().shared_apart : plan.total;
  return launch_early(kernel, unsigned(blocks_of(a)), unsigned(kWorkingThreads + 32 * copiers_of(card().early)),
                      size_t(shared), stream, a, maps, plan);
}

}  // namespace

bool rounds_in_stage(int rows, bool exact) { return (exact ? 2 * rows : rows) <= 1; }

int rows_at_once(const ProductStage& stage) {
  for (int rows = stage.exact ? kLaunchRows / 2 : kLaunchRows; rows > 0; rows /= 2) {
    ProductArgs a = {};
    if (fill_args(stage, rows, a).total <= card().shared_alone) return rows;
  }
  return 0;
}

size_t digit_bytes(int rows, int in, bool exact, int most) {
  size_t bytes = 0;
  for (int row = 0; row < rows; row += most)
    bytes += digit_bytes_at_once(rows - row < most ? rows - row : most, in, exact);
  return bytes;
}

size_t step_bytes(int rows, int in, bool exact, int at_once) {  // 16 bytes for 64 inputs of 2 digits
  return digit_bytes(rows, in, exact, at_once) / (2 * kStepGroup) * sizeof(StepGroup);
}

namespace {
int launched_rows(const ProductStage& stage) { return stage.at_once > 0 ? stage.at_once : rows_at_once(stage); }
}  // namespace

bool fits_lora(const ProductStage& stage) {
  constexpr int kMostPieces = 32;  // bits of LoraShared::pieces
  if (stage.rows != 1 || stage.exact || stage.input.kind == StageInput::Kind::digits) return false;
  if (stage.lora.ranks % kRankOctet != 0 || pieces_of(stage.in) > kMostPieces) return false;
  ProductArgs a = {};
  const SharedPlan plan = fill_args(stage, 1, a);
  return a.parts == 1 && a.held <= kMostHeld && a.held * blocks_of(a) >= a.items && plan.total <= card().shared_beside;
}

size_t stage_lora_bytes(const ProductStage& stage) {
  return size_t(stage.terms) * size_t(stage.lora.ranks) * size_t(pieces_of(stage.in)) * sizeof(float);
}

size_t stage_workspace(const ProductStage& stage) {
  ProductArgs a = {};
  const int most = launched_rows(stage);
  fill_args(stage, stage.rows < most ? stage.rows : most, a);
  const size_t tile = size_t(tiles_of(a.virtual_rows)) * 64 * sizeof(float);
  return a.parts == 1 ? 0 : kCounterBytes + size_t(a.units) * size_t(kConsumers / a.width) * size_t(a.sections) * tile;
}

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

cudaError_t launch_stage(const ProductStage& stage, cudaStream_t stream) {
  const int most = launched_rows(stage);
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
