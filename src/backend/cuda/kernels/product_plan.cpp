// All that product_plan.h says is worked out here, from lengths, formats and the shared memory of a card.
#include "backend/cuda/kernels/product_plan.h"

#include <algorithm>

namespace bumblebee::cuda {
namespace {

/// Rows of digits of one launch at most: those of 4,096 inputs, a section, just fit on a multiprocessor.
constexpr int kLaunchRows = 16;
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
SharedPlan choose_shared(ProductArgs& a, const ProductCard& card) {
  const auto fits = [&](int limit, int depth, int buffers) {
    a.depth = depth, a.buffers = buffers;
    return plan_shared(a).total <= limit;
  };
  // What adapters want is beside all that: such stages are apart, and nothing else has as much.
  const int adapted = a.lora.ranks > 0 ? lora_shared_bytes(a.held, a.terms * a.lora.ranks) : 0;
  const int beside = card.beside + adapted < card.alone ? card.beside + adapted : card.alone;
  int limit = card.alone, buffers = 1;
  for (a.parts = 1;; ++a.parts) {
    const int enough = (kEnoughBytes + a.slot_bytes - 1) / a.slot_bytes;
    if (fits(beside, enough < kEnoughDepth ? kEnoughDepth : enough, 2)) {
      limit = beside, buffers = 2;
      break;
    }
    if (fits(card.alone, kEnoughDepth, 2)) {
      buffers = 2;
      break;
    }
    if (fits(card.alone, kEnoughDepth, 1) || a.parts == a.sections) break;
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

int launched_rows(const ProductStage& stage, const ProductCard& card) {
  return stage.at_once > 0 ? stage.at_once : rows_at_once(stage, card);
}

}  // namespace

int padded_rows(int virtual_rows) { return virtual_rows <= 4 ? virtual_rows : virtual_rows <= 8 ? 8 : 16; }
int tiles_of(int virtual_rows) { return (padded_rows(virtual_rows) + 3) / 4; }

bool shares_processors(const StageExperts& experts, int rows, int in) {
  constexpr int kOfOneRow = 16;  // experts that a row may have and yet be dealt to all processors evenly
  return experts.slots > 0 && (rows > 1 || experts.slots > kOfOneRow || classes_of(in) < kMaxClasses);
}

int product_blocks(const ProductArgs& a, const ProductCard& card) {
  if (const int slots = a.experts.slots; slots > 0) {
    const int each = shares_processors(a.experts, a.rows, a.in) ? (2 * card.processors + slots - 1) / slots
                                                                : card.processors / slots;
    return slots * (each < 1 ? 1 : each < a.units ? each : a.units);
  }
  const int side_by_side = card.processors / a.parts;
  return (a.units < side_by_side ? a.units : side_by_side) * a.parts;
}

SharedPlan plan_product(const ProductStage& stage, int rows, const ProductCard& card, ProductArgs& a) {
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
  a.scale_row_bytes = (stage.scale_row > 0 ? stage.scale_row : stage.in / stage.group) * scale_bytes;
  a.stage_scales = scale_bytes * (kStageInputs / stage.group);
  a.stages = stages_of(a.in), a.slabs = slabs_of(a.in), a.sections = sections_of(a.in);
  a.width = classes_of(a.in), a.width_bits = logarithm(a.width);
  a.slab_codes = a.width * 32 * stage.bits, a.slab_scales = a.width * a.stage_scales;
  a.scale_copy = a.slab_scales % 16 == 0 ? 16 : a.slab_scales % 8 == 0 ? 8 : 4;
  while (a.scale_copy > 2 && a.scale_row_bytes % a.scale_copy != 0) a.scale_copy /= 2;
  a.row_copies_bits = logarithm(a.slab_scales / a.scale_copy);
  a.code_copy = a.row_bytes % 16 == 0 ? 16 : 4;
  a.boxes = card.boxes && a.row_bytes % kColumnBytes == 0 && a.slab_codes % kColumnBytes == 0 && a.scale_copy == 16;
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
  a.experts = stage.experts;
  a.terms = stage.terms;
  a.pieces = pieces_of(a.in);
  a.items = a.terms * a.lora.ranks * a.pieces;
  a.held = 0;
  a.units = (a.tiles + kConsumers / a.width - 1) / (kConsumers / a.width);
  SharedPlan plan = choose_shared(a, card);
  if (a.lora.ranks > 0) {
    a.held = (a.items + product_blocks(a, card) - 1) / product_blocks(a, card);
    plan = choose_shared(a, card);
  }
  a.asked_at_once = a.virtual_rows == 1 && a.experts.slots == 0 ? kAskedAtOnce : a.depth;
  return plan;
}

bool plan_link(const ProductStage& stage, const ProductCard& card, ProductArgs& a) {
  const bool rounds = stage.input.kind == StageInput::Kind::plain || stage.input.kind == StageInput::Kind::rms_norm;
  if (!card.boxes || !rounds || stage.rows != 1 || stage.exact || stage.experts.slots > 0 || stage.bits != 4 ||
      stage.group != 64 || stage.scale == ScaleType::f32 || (stage.lora.ranks > 0 && !fits_lora(stage, card)))
    return false;
  plan_product(stage, 1, card, a);
  a.buffers = kChainBuffers;
  if (held_runs(a, std::max(1, product_blocks(a, card))) > kMostRuns) return false;
  const ProductArgs* const alone = &a;
  return a.boxes && a.width == kMaxClasses && a.parts == 1 && a.units > 0 &&
         plan_chain({&alone, 1}, card).total <= card.alone;
}

ChainShared plan_chain(std::span<const ProductArgs* const> links, const ProductCard& card) {
  int inputs = 0, lora = 0;
  for (const ProductArgs* a : links) {
    inputs = std::max(inputs, a->slabs * a->width * kStageInputs);
    if (a->lora.ranks > 0) lora = std::max(lora, chain_lora_bytes(a->terms * a->lora.ranks));
  }
  ChainShared s = {};
  for (s.depth = kChainDepth;; --s.depth) {
    s.digits = s.depth * links[0]->slot_bytes;
    s.steps = s.digits + inputs * 2;
    s.partials = s.steps + inputs / kStepGroup * int(sizeof(StepGroup));
    s.lora = s.partials + kChainBuffers * kConsumers * 64 * int(sizeof(float));
    s.gates = s.lora + lora;
    s.total = s.gates + int(sizeof(ChainGates));
    if (s.total <= card.alone || s.depth == kEnoughDepth) return s;
  }
}

int rows_at_once(const ProductStage& stage, const ProductCard& card) {
  for (int rows = stage.exact ? kLaunchRows / 2 : kLaunchRows; rows > 0; rows /= 2) {
    ProductArgs a = {};
    if (plan_product(stage, rows, card, a).total <= card.alone) return rows;
  }
  return 0;
}

bool fits_lora(const ProductStage& stage, const ProductCard& card) {
  constexpr int kMostPieces = 32;  // bits of LoraShared::pieces
  if (stage.rows != 1 || stage.exact || stage.input.kind == StageInput::Kind::digits) return false;
  if (stage.lora.ranks % kRankOctet != 0 || pieces_of(stage.in) > kMostPieces) return false;
  ProductArgs a = {};
  const SharedPlan plan = plan_product(stage, 1, card, a);
  return a.parts == 1 && a.held <= kMostHeld && a.held * product_blocks(a, card) >= a.items &&
         a.terms * a.lora.ranks * part_stride(a.pieces) <= kLoraParts && plan.total <= card.alone;
}

bool fits_experts(const ProductStage& stage, const ProductCard& card) {
  ProductStage most = stage;
  most.rows = most.at_once = kFewTileRows;  // so that a row takes the same kernel in any company
  ProductArgs a = {};
  const SharedPlan plan = plan_product(most, kFewTileRows, card, a);
  return !stage.exact && a.parts == 1 && plan.total <= card.alone;
}

size_t stage_workspace(const ProductStage& stage, const ProductCard& card) {
  ProductArgs a = {};
  const int most = launched_rows(stage, card);
  plan_product(stage, stage.rows < most ? stage.rows : most, card, a);
  const size_t tile = size_t(tiles_of(a.virtual_rows)) * 64 * sizeof(float);
  return a.parts == 1 ? 0 : kCounterBytes + size_t(a.units) * size_t(kConsumers / a.width) * size_t(a.sections) * tile;
}

size_t digit_bytes(int rows, int in, bool exact, int at_once) {
  size_t bytes = 0;
  for (int row = 0; row < rows; row += at_once)
    bytes += digit_bytes_at_once(rows - row < at_once ? rows - row : at_once, in, exact);
  return bytes;
}

size_t step_bytes(int rows, int in, bool exact, int at_once) {  // 16 bytes for 64 inputs of 2 digits
  return digit_bytes(rows, in, exact, at_once) / (2 * kStepGroup) * sizeof(StepGroup);
}

size_t expert_digit_bytes(const StageExperts& experts, int in) {
  return size_t(experts.slots) * digit_bytes(kFewTileRows, in, false, kFewTileRows);
}
size_t expert_step_bytes(const StageExperts& experts, int in) {
  return size_t(experts.slots) * step_bytes(kFewTileRows, in, false, kFewTileRows);
}

}  // namespace bumblebee::cuda
