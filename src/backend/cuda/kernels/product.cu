// How products are cut and launched, and the kernel that rounds rows by itself.
#include "backend/cuda/kernels/early_launch.h"
#include "backend/cuda/kernels/product.cuh"
#include "backend/cuda/kernels/product_lora.cuh"
#include "backend/cuda/kernels/product_round.cuh"

namespace bumblebee::cuda {

using ProductKernel = void (*)(ProductArgs, SharedPlan);
ProductKernel product_kernel_2bit(int group, int tiles);
ProductKernel product_kernel_3bit(int group, int tiles);
ProductKernel product_kernel_4bit(int group, int tiles);
ProductKernel product_kernel_5bit(int group, int tiles);
ProductKernel product_kernel_6bit(int group, int tiles);
ProductKernel product_kernel_8bit(int group, int tiles);

namespace {

/// Two blocks of `beside` share a multiprocessor.
/// A block of `apart` leaves room for one of `beside`, not for another like itself.
struct Card {
  static constexpr int kMargin = 256;
  int processors = 0, shared_beside = 0, shared_apart = 0, shared_alone = 0;
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

int padded_rows(int virtual_rows) {
  return virtual_rows <= 4 ? virtual_rows : virtual_rows <= 8 ? 8 : virtual_rows <= 16 ? 16 : 32;
}
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
  const int scales = a.group == 32 ? kScaleFloats<32> : kScaleFloats<64>;
  plan.scales = round_up(kConsumers * a.depth * a.slot_bytes, 128);
  plan.digits = plan.scales + kConsumers * scales * int(sizeof(float));
  plan.steps = plan.digits + blocks * a.columns * 32;
  plan.partials = plan.steps + blocks / 2 * (a.columns / 2) * int(sizeof(StepGroup));
  plan.lora = plan.partials + 2 * kConsumers * tiles_of(a.virtual_rows) * 64 * int(sizeof(float));
  plan.total = plan.lora + (a.lora.ranks > 0 ? lora_shared_bytes(a.held, a.terms * a.lora.ranks) : 0);
  return plan;
}

/// As wide as x fits beside a ring of three stages: then few blocks wait for another's sums. The ring takes the rest.
SharedPlan choose_shared(ProductArgs& a) {
  const int limit = tiles_of(a.virtual_rows) > 4 ? card().shared_alone : card().shared_beside;
  a.stages = stages_of(a.in);
  a.classes = classes_of(a.in);
  a.depth = kLeastDepth + 1;
  const auto set_width = [&](int width) {
    a.width = width, a.parts = a.classes / width;
    a.class_bits = logarithm(a.classes), a.width_bits = logarithm(width), a.part_bits = logarithm(a.parts);
  };
  for (set_width(a.classes); a.width > 1 && plan_shared(a).total > limit;) set_width(a.width / 2);
  a.depth = kMostDepth;
  while (a.depth > kLeastDepth && plan_shared(a).total > limit) --a.depth;
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

void set_units(ProductArgs& a) { a.units = (a.tiles + kConsumers / a.width - 1) / (kConsumers / a.width); }

/// Few rows: one block a multiprocessor, and room for one of the next kernel. More rows are bound by arithmetic, which
/// two blocks do better.
int share_of_processor(const ProductArgs& a, const SharedPlan& plan) {
  const int tiles = tiles_of(a.virtual_rows);
  return (tiles == 2 || tiles == 4) && plan.total <= card().shared_beside ? 2 : 1;
}
int blocks_of(const ProductArgs& a, const SharedPlan& plan) {
  const int side_by_side = share_of_processor(a, plan) * card().processors / a.parts;
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
  a.groups = stage.in / stage.group;
  a.group = stage.group;
  a.scale_bytes = stage.scale == ScaleType::f32 ? 4 : 2;
  a.scale = stage.scale;
  a.stage_scales = a.scale_bytes * (kStageInputs / stage.group);
  a.scale_copy = a.stage_scales > 16 ? 16 : a.stage_scales;
  if (a.groups * a.scale_bytes % a.scale_copy != 0) a.scale_copy = 0;
  a.copies_whole = a.row_bytes % 16 == 0 && a.scale_copy != 0;
  a.whole_stages = a.in / kStageInputs;
  a.four_rows = 4 * a.row_bytes;
  a.slot_bytes = kTileRows * stage_pitch(stage.bits) + 2 * kTileRows * a.stage_scales;
  a.exact = stage.exact;
  a.epilogue = stage.epilogue;
  a.residual = stage.residual;
  a.input = stage.input;
  a.lora = stage.lora;
  a.terms = stage.terms;
  a.pieces = pieces_of(a.in);
  a.items = a.terms * a.lora.ranks * a.pieces;
  a.held = 0;
  SharedPlan plan = choose_shared(a);
  set_units(a);
  if (a.lora.ranks == 0) return plan;
  a.held = (a.items + blocks_of(a, plan) - 1) / blocks_of(a, plan);
  plan = choose_shared(a);
  set_units(a);
  return plan;
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
  round_rows({row, in, 1, int(blockIdx.x), exact != 0, stages_of(in) * (kStageInputs / 32)}, to, scratch);
}

bool is_valid(const ProductStage& s) {
  const bool pairs = s.epilogue == ProductStage::Epilogue::silu_mul, adds = s.epilogue == ProductStage::Epilogue::add;
  const bool terms = pairs  ? s.terms == 2 && s.term[0].out == s.term[1].out
                     : adds ? s.terms == 1 && s.residual != nullptr
                            : s.terms >= 1 && s.terms <= kStageTerms;
  const bool adapts = s.lora.ranks == 0 || fits_lora(s);
  return terms && adapts && (s.group == 32 || s.group == 64 || s.group == 128) && s.in > 0 && s.in % s.group == 0;
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
  if (a.parts > 1 && (stage.workspace == nullptr || size_t(a.units) * 4 > kCounterBytes)) return cudaErrorInvalidValue;
  const cudaError_t allowed =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, card().shared_alone);
  if (allowed != cudaSuccess) return allowed;
  const int share = share_of_processor(a, plan);
  const int shared = stage.apart && share == 1 && plan.total < card().shared_apart ? card().shared_apart : plan.total;
  return launch_early(kernel, unsigned(blocks_of(a, plan)), kBlockThreads, size_t(shared), stream, a, plan);
}

}  // namespace

bool rounds_in_stage(int rows, bool exact) { return (exact ? 2 * rows : rows) <= 4; }

int rows_at_once(const ProductStage& stage) {
  for (int rows = stage.exact ? kStageRows / 2 : kStageRows; rows > 0; rows /= 2) {
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
  return a.parts == 1 && a.held <= kMostHeld && a.held * blocks_of(a, plan) >= a.items &&
         plan.total <= card().shared_beside;
}

size_t stage_lora_bytes(const ProductStage& stage) {
  return size_t(stage.terms) * size_t(stage.lora.ranks) * size_t(pieces_of(stage.in)) * sizeof(float);
}

size_t stage_workspace(const ProductStage& stage) {
  ProductArgs a = {};
  const int most = launched_rows(stage);
  fill_args(stage, stage.rows < most ? stage.rows : most, a);
  const size_t tile = size_t(tiles_of(a.virtual_rows)) * 64 * sizeof(float);
  return a.parts == 1 ? 0 : kCounterBytes + size_t(a.units) * size_t(kConsumers / a.width) * size_t(a.parts) * tile;
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
