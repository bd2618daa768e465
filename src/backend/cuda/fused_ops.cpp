// Operations that may become one kernel with their neighbours, and which they take where they may not. Whether they do
// changes no bit: a row normed by its product is normed in the order of row_norm.cuh, and sums end in the same places.
#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "backend/cuda/kernels/columns.h"
#include "backend/cuda/kernels/matmul.h"
#include "backend/cuda/kernels/product_rows.h"
#include "backend/cuda/kernels/rows.h"
#include "backend/cuda/ops.h"
#include "backend/cuda/stages.h"
#include "backend/cuda/weights.h"

namespace bumblebee::cuda {
namespace {

Gate gate_of(Activation activation) {
  switch (activation) {
    case Activation::silu: return Gate::silu;
    case Activation::gelu: return Gate::gelu;
    case Activation::sigmoid: return Gate::sigmoid;
    case Activation::clamped_silu: return Gate::clamped_silu;
    case Activation::identity: return Gate::identity;
  }
  BB_UNREACHABLE();
}

}  // namespace

void CudaOps::drop_waiting() {
  norm_.reset();
  product_.reset();
  wide_.reset();
  glu_.reset();
  rotation_.reset();
  sum_.reset();
  links_.clear();
  ahead_ = {};  // of a step that failed between: the next chain is another's
}

void CudaOps::wait_for_next(bool waits) {
  settle();
  if (!links_.empty()) launch_links();
  waits_ = waits;
  resolved_.reset();
}

void CudaOps::settle() {
  settle_product();
  settle_rotation();
  settle_norm();
  settle_glu();
}

void CudaOps::settle_for(const Tensor& read) {
  settle_product();
  settle_rotation();
  if (norm_ && norm_->y.buffer() == read.buffer()) settle_norm();
  if (glu_ && glu_->y.buffer() == read.buffer()) settle_glu();
}

void CudaOps::settle_norm() {
  if (!norm_) return;
  const WaitingNorm waiting = *std::exchange(norm_, {});
  // One handle here, one more where the model still has it: what nobody can read need not be computed.
  if (waiting.y.unique()) return;
  cuda::rms_norm(norm_args(waiting.x, waiting.y, waiting.norm), batch_, stream());
}

Tensor CudaOps::rms_norm(const Tensor& x, const NormParams& norm) {
  settle();
  Tensor y = pool_->make(x.rows(), x.cols());
  if (norm.w.cols() != x.cols()) {  // runs of a row: products take norms of whole rows
    cuda::rms_norm(norm_args(x, y, norm), batch_, stream());
    return y;
  }
  norm_ = {.x = x, .y = y, .norm = norm};
  if (!waits_) settle();
  return y;
}

bool CudaOps::add_product(Tensor& x, Tensor& delta) {
  if (add_wide(x, delta)) return true;
  Tensor* const outputs[] = {&delta};
  if (product_ && product_->stage.experts.slots > 0) return false;  // its rows are assignments
  if (!take_product(outputs)) return false;
  settle_rotation();
  settle_norm();  // of x as it was
  x = make_writable(x);
  ProductStage& stage = product_->stage;
  stage.epilogue = ProductStage::Epilogue::add;
  stage.residual = stage.term[0].y = data(x);
  launch_product();
  return true;
}

void CudaOps::add(Tensor& x, Tensor delta) {
  Tensor none;
  if (add_product(x, delta) || add_sum(x, delta, nullptr, none) || add_norm(x, delta, nullptr, none)) return;
  settle();
  x = make_writable(x);
  cuda::add_rms_norm(data(x), data(delta), {.x = data(x), .rows = x.rows(), .cols = x.cols(), .width = x.cols()},
                     batch_, stream());
}

Tensor CudaOps::add_rms_norm(Tensor& x, Tensor delta, const NormParams& norm) {
  BB_CHECK(norm.w.cols() == x.cols(), "norm of ", norm.w.cols(), " for rows of ", x.cols());
  if (add_product(x, delta)) return rms_norm(x, norm);
  if (Tensor normed; add_sum(x, delta, &norm, normed) || add_norm(x, delta, &norm, normed)) return normed;
  settle();
  x = make_writable(x);
  Tensor y = pool_->make(x.rows(), x.cols());
  cuda::add_rms_norm(data(x), data(delta), norm_args(x, y, norm), batch_, stream());
  return y;
}

bool CudaOps::add_norm(Tensor& x, const Tensor& delta, const NormParams* norm, Tensor& y) {
  // One handle here, one of the caller; columns as add_rms_norm's first kernel wants them.
  if (!norm_ || !same(norm_->y, delta) || delta.buffer().use_count() > 2 || x.cols() % 8 != 0) return false;
  const WaitingNorm waiting = *std::exchange(norm_, {});
  settle();
  x = make_writable(x);
  NormArgs sum = {.x = data(x), .rows = x.rows(), .cols = x.cols(), .width = x.cols()};
  if (norm != nullptr) {
    y = pool_->make(x.rows(), x.cols());
    sum = norm_args(x, y, *norm);
  }
  add_normed(data(x), norm_args(waiting.x, waiting.y, waiting.norm), sum, batch_, stream());
  return true;
}

StageInput CudaOps::input_of(const Tensor& x) {
  if (norm_ && same(norm_->y, x))
    return {StageInput::Kind::rms_norm, data(norm_->x), data(norm_->norm.w), norm_->norm.eps, {}};
  settle_norm();
  return {StageInput::Kind::plain, data(x), nullptr, 0, {}};
}

void CudaOps::matmul_in_stages(const Tensor& x, std::span<const MatmulTerm> terms, std::span<Tensor* const> y) {
  const int rows = x.rows(), in = x.cols();
  WaitingProduct product;
  int at_once = kStageRows;
  for (const MatmulTerm& term : terms) at_once = std::min(at_once, rows_at_once(stage_of(view_of(*term.weight))));
  product.stage = {.in = in, .rows = rows, .at_once = at_once, .input = input_of(x)};
  product.input = product.stage.input.kind == StageInput::Kind::rms_norm ? norm_->x : x;
  product.unrounded = rows > 1;
  product.tiles = rows > 1 && std::all_of(terms.begin(), terms.end(), [&](const MatmulTerm& term) {
                    return fits_row_tiles(view_of(*term.weight), rows);
                  });
  const WeightView* last = nullptr;
  int outputs = 0;
  for (size_t t = 0; t < terms.size(); ++t) {
    const WeightView& weight = view_of(*terms[t].weight);
    if (last != nullptr &&
        (!same_format(*last, weight) || product.stage.terms == kStageTerms || outputs > kMostOutputs - weight.out)) {
      round_input(product);  // for all of them
      product_ = product;
      launch_product();
      product.stage.terms = 0;
      product.y = {};
      outputs = 0;
    }
    last = &weight;
    outputs += weight.out;
    *y[t] = pool_->make(rows, weight.out);
    ProductStage& stage = product.stage;
    stage.bits = weight.bits, stage.group = weight.group, stage.scale = scale_type(weight.scale);
    stage.scale_row = weight.scale_row;
    product.y[size_t(stage.terms)] = *y[t];
    stage.term[stage.terms++] = {.codes = weight.codes,
                                 .scales = weight.scales,
                                 .biases = weight.biases,
                                 .bias = terms[t].bias != nullptr ? data(*terms[t].bias) : nullptr,
                                 .y = data(*y[t]),
                                 .stride = weight.out,
                                 .out = weight.out};
  }
  product_ = std::move(product);
  if (!waits_) settle();
}

void CudaOps::matmul(const Tensor& x, std::span<const MatmulTerm> terms, std::span<Tensor> y) {
  settle_product();
  settle_rotation();
  if (matmul_wide(x, terms, y)) return;
  std::vector<MatmulTerm> staged;
  std::vector<Tensor*> staged_y;
  std::array<ProductTerm, kMaxTerms> few, many;
  int few_count = 0, many_count = 0;
  const auto run_few = [&] {
    if (few_count > 0) matmul_few(data(x), x.rows(), few.data(), std::exchange(few_count, 0), stream());
  };
  const auto run_many = [&] {
    if (many_count == 0) return;
    const std::shared_ptr<Buffer> workspace = pool_->take(matmul_many_workspace(x.rows(), x.cols()));
    matmul_many(data(x), x.rows(), many.data(), std::exchange(many_count, 0), address(*workspace), stream());
  };
  // Tiles of rows would take twice as many, but at 64 rows with adapters are no faster than matmul_wide.
  const bool stages = fast_ && x.rows() > 0 && x.rows() <= kStageRows;
  for (size_t t = 0; t < terms.size(); ++t) {
    const Weight& weight = *terms[t].weight;
    BB_CHECK(weight.in == x.cols(), "in ", weight.in, " cols ", x.cols());
    if (stages && fits_stage(view_of(weight))) {
      staged.push_back(terms[t]);
      staged_y.push_back(&y[t]);
      continue;
    }
    settle_norm();
    settle_glu();
    y[t] = pool_->make(x.rows(), weight.out);
    const ProductTerm term = {
        .weight = view_of(weight), .bias = terms[t].bias != nullptr ? data(*terms[t].bias) : nullptr, .y = data(y[t])};
    if (fast_ && x.rows() > kFewRows && has_matmul_many(term.weight)) {
      many[size_t(many_count++)] = term;
      if (many_count == kMaxTerms) run_many();
    } else {
      few[size_t(few_count++)] = term;
      if (few_count == kMaxTerms) run_few();
    }
  }
  if (x.rows() == 0) return;
  run_few();
  run_many();
  if (!staged.empty()) matmul_in_stages(x, staged, staged_y);
}

void CudaOps::round_input(WaitingProduct& product) {
  if (!std::exchange(product.unrounded, false)) return;
  ProductStage& stage = product.stage;
  StageInput& input = stage.input;
  const int rows = stage.rows, in = stage.in;
  const bool tiles = product.tiles;
  if (tiles && product.lora.ranks == 0 && rounds_row_tiles(stage, rows)) return;
  product.digits = pool_->take(tiles ? row_tile_bytes(rows, in) : digit_bytes(rows, in, false, stage.at_once));
  product.steps = pool_->take(tiles ? row_step_bytes(rows, in) : step_bytes(rows, in, false, stage.at_once));
  input.rounded = {reinterpret_cast<uint8_t*>(address(*product.digits)), address(*product.steps)};
  if (tiles)
    check(round_row_tiles(stage, stream(), product.lora), "round_row_tiles");
  else
    check(quantize_rows(input, rows, in, false, stage.at_once, stream()), "quantize_rows");
  input.kind = tiles ? StageInput::Kind::tiles : StageInput::Kind::digits;
}

void CudaOps::launch_product() {
  WaitingProduct waiting = *std::exchange(product_, {});
  round_input(waiting);
  ProductStage stage = waiting.stage;
  if (stage.lora.ranks > 0) {
    stage.lora.parts = lora_parts_ + (lora_second_ ? kLoraParts : 0);
    stage.lora.stale = lora_parts_ + (lora_second_ ? 0 : kLoraParts);
    lora_second_ = !lora_second_;
  }
  if (waits_ && fits_chain(stage)) {
    chain_counters_.at_least(chain_counters());  // not while a step is recorded
    if (pool_->keeps_all()) {                    // of such a step: no memory is given back meanwhile
      links_.push_back(stage);
      if (!fit_chain(links_.data(), int(links_.size()))) {  // it begins the next one
        links_.pop_back();
        launch_links();
        links_.push_back(stage);
      }
      return;
    }
  }
  // Of few rows all are (one row 4% more tokens a second, two and four rows 15%), of more every other one.
  stage.apart = apart_ = !shares_processors(stage.experts, stage.rows, stage.in) && (stage.rows <= 4 || !apart_);
  const bool tiles = has_row_tiles(stage);
  stage.workspace = stage_workspace_.at_least(tiles ? row_tile_workspace(stage) : stage_workspace(stage));
  check(
      tiles ? launch_row_tiles(stage, stream(), waiting.lora, adapters_after(waiting)) : launch_stage(stage, stream()),
      "product");
}

NextAdapters CudaOps::adapters_after(const WaitingProduct& product) {
  if (product.lora.ranks == 0) return {};
  NextAdapters own = {.terms = product.stage.terms, .in = product.stage.in};
  std::copy_n(product.lora.site, kStageTerms, own.site);
  if (adapted_at_ == adapted_.size()) adapted_.emplace_back();
  adapted_[adapted_at_++] = own;
  return adapted_[adapted_at_ % adapted_.size()];
}

void CudaOps::launch_links() {
  const std::vector<ProductStage> links = std::exchange(links_, {});
  apart_ = true;
  check(launch_chain(links.data(), int(links.size()), std::exchange(ahead_, {}),
                     chain_counters_.at_least(chain_counters()), device_->compute(), beside_),
        "products");
}

void CudaOps::settle_product() {
  if (product_) launch_product();
  settle_wide();
  settle_sum();
}

bool CudaOps::take_product(std::span<Tensor* const> outputs) {
  if (!product_ || size_t(product_->stage.terms) != outputs.size()) return false;
  for (size_t t = 0; t < outputs.size(); ++t)
    if (!same(product_->y[t], *outputs[t])) return false;
  std::array<Tensor, kStageTerms> held = std::exchange(product_->y, {});
  const bool wanted = std::any_of(outputs.begin(), outputs.end(), [&](const Tensor* y) {
    // One handle in `held`, one of the caller.
    return y->buffer().use_count() > 2;
  });
  if (wanted) product_->y = std::move(held);
  return !wanted;
}

bool CudaOps::product_applies(const Tensor& x, RowSet rows, std::span<const LoraModule> modules,
                              std::span<const Tensor> y) {
  const CudaSlots::Bounds& bounds = slots_.bounds();
  // Of the table alone: what is recorded is right for every batch. One row leaves anything but terms to the operation
  // by itself, tiles leave the rows that have it.
  if (!product_ || (bounds.more && product_->stage.rows == 1) || size_t(product_->stage.terms) != modules.size())
    return false;
  // It has those of one operation, or rows of its own.
  if (product_->stage.lora.ranks > 0 || product_->lora.ranks > 0 || product_->stage.experts.slots > 0) return false;
  ProductStage stage = product_->stage;
  const bool normed = stage.input.kind == StageInput::Kind::rms_norm;
  if (normed ? !norm_ || !same(norm_->y, x) || !same(norm_->x, product_->input) : !same(product_->input, x))
    return false;
  for (size_t m = 0; m < modules.size(); ++m) {
    // One handle of the product, one of the caller.
    if (modules[m].replaced || modules[m].bias != nullptr || !same(product_->y[m], y[m]) ||
        y[m].buffer().use_count() > 2)
      return false;
    stage.lora.site[m] = modules[m].site;
  }
  if (bounds.ranks == 0) return true;
  if (stage.rows > 1) {
    TileLora lora = {.slots = batch_.slots,
                     .slot = batch_.slot,
                     .logit_rows = rows == RowSet::logit_rows ? batch_.logit_rows : nullptr,
                     .ranks = bounds.ranks};
    std::copy_n(stage.lora.site, kStageTerms, lora.site);
    if (!product_->unrounded || !product_->tiles || !fits_row_lora(stage, lora)) return false;
    // Rows that have a B each wait for it where they are finished: with 32 adapters, 32 rows are faster apart.
    if (stage.rows > 16 && bounds.many) return false;
    product_->u = pool_->take(tile_lora_bytes(stage, lora));
    lora.u = reinterpret_cast<float*>(address(*product_->u));
    product_->lora = lora;
    return true;
  }
  stage.lora.ranks = bounds.ranks;
  if (!fits_lora(stage)) return false;
  if (stage.terms == 2 && stage.term[0].out == stage.term[1].out) {  // as glu() would have it: other tiles
    ProductStage pair = stage;
    pair.epilogue = ProductStage::Epilogue::silu_mul;
    if (!fits_lora(pair)) return false;
  }
  stage.lora.terms = resolved(rows == RowSet::logit_rows && batch_.rows > 1 ? batch_.logit_rows : nullptr);
  product_->stage = stage;
  return true;
}

const LoraTerm* CudaOps::resolved(const int32_t* row) {
  const int sites = slots_.bounds().sites;
  constexpr size_t kParts = 2 * kLoraParts * sizeof(float);
  std::byte* const memory = lora_memory_.at_least(kParts + size_t(sites) * sizeof(LoraTerm));
  auto* const terms = reinterpret_cast<LoraTerm*>(memory + kParts);
  if (const ResolvedRow of = {batch_.slot, row}; !resolved_ || *resolved_ != of) {
    resolved_ = of;
    lora_parts_ = reinterpret_cast<float*>(memory);
    check(resolve_lora(batch_.slots, batch_.slot, row, sites, terms, lora_parts_, stream()), "resolve_lora");
  }
  return terms;
}

Tensor CudaOps::glu(Activation activation, Tensor gate, Tensor up) {
  Tensor* const outputs[] = {&gate, &up};
  if (activation == Activation::silu && gate.cols() == up.cols() && take_product(outputs)) {
    product_->stage.epilogue = ProductStage::Epilogue::silu_mul;
    launch_product();
    return gate;
  }
  if (activation == Activation::silu && pair_wide(gate, up)) return gate;
  settle();
  Tensor y = pool_->make(gate.rows(), gate.cols());
  if (activation == Activation::silu && waits_ && fast_ && y.rows() > kFewRows) {
    glu_ = {.gate = std::move(gate), .up = std::move(up), .y = y};
    return y;
  }
  gated_mul(gate_of(activation),
            {.gate = data(gate),
             .up = data(up),
             .y = data(y),
             .count = size_t(y.rows()) * size_t(y.cols()),
             .limit = kClampLimit,
             .slope = kClampSlope},
            stream());
  return y;
}

}  // namespace bumblebee::cuda
