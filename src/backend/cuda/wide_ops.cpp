// Products of many rows as operations: rows are rounded when they are called, and what they end with is known when the
// operation after them is.
#include <algorithm>
#include <array>
#include <utility>

#include "backend/cuda/kernels/columns.h"
#include "backend/cuda/kernels/lora.h"
#include "backend/cuda/kernels/matmul_batch.h"
#include "backend/cuda/ops.h"
#include "backend/cuda/stages.h"
#include "backend/cuda/weights.h"

namespace bumblebee::cuda {
namespace {

/// A batch's adapters from module `first` on.
WideLora modules_from(WideLora lora, int first) {
  if (lora.tiles == nullptr) return lora;
  lora.tiles += size_t(first) * size_t(lora.stages) * kPairBytes;
  lora.adapters += first;
  lora.modules -= first;
  return lora;
}

}  // namespace

WideRows CudaOps::wide_rows_of(const Tensor& x) {
  settle_product();
  settle_rotation();
  if (glu_ && same(glu_->y, x)) return {.x = data(glu_->gate), .up = data(glu_->up)};
  if (norm_ && same(norm_->y, x)) return {.x = data(norm_->x), .norm = data(norm_->norm.w), .eps = norm_->norm.eps};
  settle_for(x);
  return {.x = data(x)};
}

bool CudaOps::matmul_wide(const Tensor& x, std::span<const MatmulTerm> terms, std::span<Tensor> y) {
  if (!fast_ || x.rows() <= kFewRows || terms.empty() || terms.size() > kMaxTerms) return false;
  const WeightView& one = view_of(*terms.front().weight);
  for (const MatmulTerm& term : terms) {
    const WeightView& w = view_of(*term.weight);
    if (!has_matmul_wide(w) || w.code != one.code || w.bits != one.bits || w.group != one.group) return false;
    BB_CHECK(w.in == x.cols(), "in ", w.in, " cols ", x.cols());
  }
  WaitingWide wide;
  wide.batch = x.rows() <= kBatchRows && std::all_of(terms.begin(), terms.end(), [&](const MatmulTerm& term) {
                 const WeightView& w = view_of(*term.weight);
                 return has_matmul_batch(w) && w.scale == one.scale;
               });
  wide.rounded = pool_->take(wide_bytes(x.rows(), one.in));
  wide.input = wide_input(address(*wide.rounded), x.rows(), one.in);
  round_wide(wide_rows_of(x), wide.input, stream(), {}, wide.batch ? 1 : 0);
  wide.x = x;
  for (const MatmulTerm& term : terms) {
    const size_t t = size_t(wide.count++);
    y[t] = wide.y[t] = pool_->make(x.rows(), term.weight->out);
    wide.term[t] = {
        .weight = view_of(*term.weight), .bias = term.bias != nullptr ? data(*term.bias) : nullptr, .y = data(y[t])};
  }
  wide_ = std::move(wide);
  if (!waits_) launch_wide();
  return true;
}

void CudaOps::launch_wide() {
  wide_->launched = true;
  if (!wide_->batch) {
    WideLora lora = wide_->lora;
    lora.follows = lora.tiles != nullptr && wide_->shrunk == enqueued_;
    return cuda::matmul_wide(wide_->input, wide_->term.data(), wide_->count, stream(), lora);
  }
  for (int first = 0, end = 0; first < wide_->count; first = end) {
    const ProductTerm* const terms = wide_->term.data() + first;
    const int splits = batch_splits(terms->weight);
    for (end = first + 1; end < wide_->count && batch_splits(wide_->term[size_t(end)].weight) == splits;) ++end;
    const BatchPlan plan = plan_batch(terms, end - first);
    const std::shared_ptr<Buffer> partials = plan.partials > 0 ? pool_->take(plan.partials) : nullptr;
    matmul_batch(plan, wide_->input, terms, end - first, partials ? address(*partials) : nullptr,
                 batch_counters_.at_least(plan.counters), stream(), modules_from(wide_->lora, first), wide_->paired);
  }
}

bool CudaOps::pair_wide(const Tensor& gate, const Tensor& up) {
  if (!wide_ || wide_->launched || !wide_->batch || wide_->count != 2 || gate.cols() != up.cols()) return false;
  const std::array<const Tensor*, 2> of = {&gate, &up};
  for (size_t t = 0; t < of.size(); ++t)  // one handle of the product, one of the caller
    if (!same(wide_->y[t], *of[t]) || of[t]->buffer().use_count() > 2) return false;
  wide_->paired = true;
  settle_wide();
  return true;
}

void CudaOps::settle_wide() {
  if (wide_ && !wide_->launched) launch_wide();
  wide_.reset();
}

bool CudaOps::wide_applies(const Tensor& x, RowSet rows, std::span<const LoraModule> modules,
                           std::span<const Tensor> y) {
  if (!wide_ || wide_->lora.tiles != nullptr || size_t(wide_->count) != modules.size() || !same(wide_->x, x))
    return false;
  std::array<int, kMaxTerms> sites{};
  for (size_t m = 0; m < modules.size(); ++m) {
    // One handle of the product, one of the caller.
    if (modules[m].replaced || !same(wide_->y[m], y[m]) || y[m].buffer().use_count() > 2) return false;
    if (!has_lora_many({.in = x.cols(), .out = y[m].cols()})) return false;
    sites[m] = modules[m].site;
  }
  const int ranks = std::min(slots_.bounds().ranks, kWideRanks), count = int(modules.size());
  if (ranks == 0) return true;
  const bool logit_rows = rows == RowSet::logit_rows;
  if (wide_->batch) {
    wide_->u = pool_->take(batch_lora_bytes(x.rows(), count));
    wide_->lora = shrink_batch(wide_->input, sites.data(), count, ranks, slots_room_, logit_rows, address(*wide_->u),
                               batch_, stream());
  } else {
    wide_->u = pool_->take(wide_lora_bytes(x.rows(), count));
    wide_->lora = shrink_wide(wide_->input, sites.data(), count, ranks, logit_rows, mixed_slots_, address(*wide_->u),
                              batch_, stream());
    wide_->shrunk = enqueued_;
  }
  if (wide_->launched) launch_wide();  // anew: sums with adapters are other sums
  return true;
}

bool CudaOps::add_wide(Tensor& x, const Tensor& delta) {
  // One handle of the product, one of the caller.
  if (!wide_ || wide_->launched || wide_->count != 1 || !same(wide_->y[0], delta) || delta.buffer().use_count() > 2)
    return false;
  settle_rotation();
  settle_norm();  // of x as it was
  x = make_writable(x);
  wide_->term[0].y = data(x);
  wide_->term[0].add = true;
  settle_wide();
  return true;
}

void CudaOps::settle_glu() {
  if (!glu_) return;
  const WaitingGlu waiting = *std::exchange(glu_, {});
  if (waiting.y.unique()) return;  // what nobody can read need not be computed
  gated_mul(Gate::silu,
            {.gate = data(waiting.gate),
             .up = data(waiting.up),
             .y = data(waiting.y),
             .count = size_t(waiting.y.rows()) * size_t(waiting.y.cols())},
            stream());
}

}  // namespace bumblebee::cuda
