// Which kernels an operation takes. Nothing here may depend on what is in a batch, other than its numbers of rows: a
// step that is recorded must be right for every batch of its key.
#include "backend/cuda/ops.h"

#include <algorithm>
#include <array>
#include <bit>
#include <utility>
#include <vector>

#include "backend/cuda/kernels/heads.h"
#include "backend/cuda/kernels/lora.h"
#include "backend/cuda/kernels/matmul.h"
#include "backend/cuda/kernels/rows.h"
#include "backend/cuda/kernels/sample.h"
#include "backend/cuda/weights.h"

namespace bumblebee::cuda {

CudaOps::CudaOps(std::shared_ptr<const Device> device, std::shared_ptr<Pool> pool, bool fast)
    : device_(std::move(device)),
      constants_(pool),
      pool_(pool),
      fast_(fast),
      slots_(device_, pool),
      stage_workspace_(device_),
      attend_counters_(device_),
      lora_memory_(device_),
      chain_counters_(device_),
      batch_counters_(device_) {
  auto table = std::make_unique<ExpTable>();
  fill(*table);
  exp_table_ = constant(std::as_bytes(std::span(table.get(), 1)));
}

void CudaOps::bind(const Batch& host, const BatchView& view) {
  batch_ = view;
  adapted_at_ = 0;
  kept_rows_.reset();
  if (!fast_) batch_.segment_count = 0;  // exact sums have one order in all batches
  tokens_ = host.tokens;
  first_slots_.clear();
  if (host.rows() > 0) first_slots_.push_back(host.slot.front());
  mixed_slots_ = std::any_of(host.slot.begin(), host.slot.end(), [&](int32_t slot) { return slot != host.slot[0]; });
  std::vector<int32_t> slots(host.slot.begin(), host.slot.end());
  std::sort(slots.begin(), slots.end());
  slots.erase(std::unique(slots.begin(), slots.end()), slots.end());
  const auto distinct = std::count_if(slots.begin(), slots.end(), [](int32_t slot) { return slot >= 0; });
  slots_room_ = int(std::bit_ceil(std::max(size_t(distinct), size_t{1})));
  if (!host.logit_rows.empty()) first_slots_.push_back(host.slot[size_t(host.logit_rows.front())]);
  sample_ = host.sample;
  changes_ = host.changes;
}

CudaOps::BatchKind CudaOps::kind() const {
  BatchKind kind = {.alone = batch_.alone};
  if (batch_.rows > kFewRows && slots_.bounds().ranks > 0) kind.mixed_slots = mixed_slots_, kind.slots = slots_room_;
  return kind;
}

std::shared_ptr<Buffer> CudaOps::constant(std::span<const std::byte> bytes) {
  std::shared_ptr<Buffer> buffer = constants_->take(bytes.size());
  device_->use();
  check(cudaMemcpyAsync(address(*buffer), bytes.data(), bytes.size(), cudaMemcpyHostToDevice, stream()), "constants");
  check(cudaStreamSynchronize(stream()), "constants");
  return buffer;
}

Tensor CudaOps::make_writable(Tensor& t) { return t.unique() ? t : copied(t); }

Tensor CudaOps::copy(const Tensor& x) {
  settle();
  return copied(x);
}

Tensor CudaOps::copied(const Tensor& x) {
  Tensor y = pool_->make(x.rows(), x.cols(), x.dtype());
  if (x.size_bytes() == 0) return y;
  check(cudaMemcpyAsync(elements<std::byte>(y), elements<std::byte>(x), x.size_bytes(), cudaMemcpyDeviceToDevice,
                        stream()),
        "copy");
  return y;
}

Tensor CudaOps::embed(const Weight& table) {
  settle();
  for (const int32_t token : tokens_) BB_CHECK(token < table.out, "token ", token, " of ", table.out);
  Tensor y = pool_->make(batch_.rows, table.in);
  cuda::embed(view_of(table), batch_, data(y), stream());
  return y;
}

void CudaOps::lora(const Tensor& x, RowSet rows, std::span<const LoraModule> modules, std::span<Tensor> y) {
  const CudaSlots::Bounds& bounds = slots_.bounds();
  const bool wide = wide_applies(x, rows, modules, y);
  if (wide && !bounds.rest && std::none_of(modules.begin(), modules.end(), [](const auto& m) { return m.bias; }))
    return;
  const bool within = !wide && product_applies(x, rows, modules, y);
  if (within && !bounds.more) return;
  settle();
  const bool logit_rows = rows == RowSet::logit_rows;
  std::array<LoraArgs, kLoraModules> few, many;
  std::vector<Tensor> u;  // until what reads them is enqueued
  int few_count = 0, many_count = 0;
  const auto run = [&] {
    if (few_count > 0) lora_apply(few.data(), std::exchange(few_count, 0), batch_, stream());
    if (many_count > 0) lora_apply_many(many.data(), std::exchange(many_count, 0), batch_, stream());
  };
  for (size_t m = 0; m < modules.size(); ++m) {
    const LoraModule& module = modules[m];
    BB_CHECK(bool(y[m]) != module.replaced, "module ", module.site);
    if (module.replaced) {
      const LoraEntry* entry = slots_.at(logit_rows ? first_slots_.back() : first_slots_.front(), module.site);
      BB_CHECK(entry != nullptr && entry->weight, "module ", module.site);
      y[m] = pool_->make(x.rows(), entry->weight.out);
    } else {
      y[m] = make_writable(y[m]);
    }
    u.push_back(pool_->make(x.rows(), std::max(bounds.ranks, 1)));
    const LoraArgs args = {.x = data(x),
                           .y = data(y[m]),
                           .bias = module.bias != nullptr ? data(*module.bias) : nullptr,
                           .u = data(u.back()),
                           .rows = x.rows(),
                           .in = x.cols(),
                           .out = y[m].cols(),
                           .site = module.site,
                           .ranks = bounds.ranks,
                           .logit_rows = logit_rows,
                           .rest = wide || within};
    if (bounds.weights) lora_replace(args, batch_, stream());
    if (fast_ && x.rows() > kFewRows && has_lora_many(args))
      many[size_t(many_count++)] = args;
    else
      few[size_t(few_count++)] = args;
    if (few_count + many_count == kLoraModules) run();
  }
  run();
}

void CudaOps::lora_embed(int site, Tensor& y) {
  settle();
  y = make_writable(y);
  cuda::lora_embed({.y = data(y), .rows = y.rows(), .out = y.cols(), .site = site}, batch_, stream());
}

Tensor CudaOps::lora_norm(const Tensor& x, RowSet rows, int width, const NormParams& norm, int site) {
  settle();
  Tensor y = pool_->make(x.rows(), x.cols());
  const int normed = norm.w.cols();
  cuda::rms_norm({.x = data(x),
                  .w = data(norm.w),
                  .y = data(y),
                  .rows = x.rows(),
                  .cols = x.cols(),
                  .width = width,
                  .eps = norm.eps,
                  .site = site,
                  .logit_rows = rows == RowSet::logit_rows,
                  .normed = normed < width ? normed : 0},
                 batch_, stream());
  return y;
}

void CudaOps::soft_cap(Tensor& x, float cap) {
  settle();
  x = make_writable(x);
  cuda::soft_cap(data(x), size_t(x.rows()) * size_t(x.cols()), cap, stream());
}

Tensor CudaOps::matmul_heads(const Tensor& x, const Weight& heads, bool transposed, int rest) {
  settle();
  const int in = transposed ? heads.out : heads.in, out = transposed ? heads.in : heads.out;
  BB_CHECK(x.cols() == heads.experts * (in + rest), heads.experts, " heads of ", in, " and ", rest, " in ", x.cols());
  Tensor y = pool_->make(x.rows(), heads.experts * (out + rest));
  cuda::matmul_heads({.weight = view_of(heads),
                      .x = data(x),
                      .y = data(y),
                      .rows = x.rows(),
                      .heads = heads.experts,
                      .stored_out = heads.out,
                      .rest = rest,
                      .transposed = transposed},
                     stream());
  return y;
}

void CudaOps::keep_logit_rows() {
  settle();
  const size_t count = size_t(batch_.logit_row_count), bytes = kRowArrays * count * sizeof(int32_t);
  const std::shared_ptr<Buffer> made = pool_->take(bytes);
  kept_rows_ = pool_->take(bytes);
  cuda::keep_logit_rows(batch_, reinterpret_cast<int32_t*>(address(*made)), stream());
  // Kernels read a batch before they wait for their inputs, so one that begins early must not follow the one that wrote
  // it: nothing begins before a copy has ended.
  check(cudaMemcpyAsync(address(*kept_rows_), address(*made), bytes, cudaMemcpyDeviceToDevice, stream()), "keep rows");
  int32_t* const rows = reinterpret_cast<int32_t*>(address(*kept_rows_));
  batch_.tokens = rows + kRowToken * count;
  batch_.positions = rows + kRowPosition * count;
  batch_.slot = rows + kRowSlot * count;
  batch_.cached = rows + kRowCached * count;
  batch_.first_page = rows + kRowFirstPage * count;
  batch_.stretched = rows + kRowStretched * count;
  batch_.logit_rows = rows + kRowLogit * count;
  batch_.rows = batch_.logit_row_count;
  batch_.segment_count = batch_.lone_row_count = 0;  // they are rows like those of small batches
  batch_.alone = false;                              // the last one may be there again and again
  tokens_.clear();                                   // checked when they were bound to the first layer
  if (!first_slots_.empty()) first_slots_.front() = first_slots_.back();
}

const float* CudaOps::frequencies(const std::vector<float>& inv_freq) {
  auto& known = frequencies_[inv_freq];
  if (known == nullptr) known = constant(std::as_bytes(std::span(inv_freq)));
  return reinterpret_cast<const float*>(address(*known));
}

Tensor CudaOps::gather_rows(const Tensor& x) {
  settle();
  Tensor y = pool_->make(batch_.logit_row_count, x.cols());
  cuda::gather_rows(data(x), data(y), x.cols(), batch_, stream());
  return y;
}

Sampled CudaOps::sample(const Tensor& logits) {
  settle();
  bool logprobs = false;
  int tops = 0;
  for (const SampleRow& row : sample_) {
    BB_CHECK(row.forced < logits.cols(), "forced ", row.forced, " of ", logits.cols());
    if (row.mode == SampleRow::Mode::none || !row.logprob) continue;
    logprobs = true;
    tops = std::max(tops, row.top_logprobs);
  }
  for (const LogitChange& change : changes_)
    BB_CHECK(change.token < logits.cols(), "change of token ", change.token, " of ", logits.cols());
  BB_CHECK(tops <= kMaxTops, "top logprobs ", tops);
  Sampled out{.ids = pool_->make(logits.rows(), 1, DType::i32), .logprobs = {}, .top_ids = {}};
  if (logprobs) {
    out.logprobs = pool_->make(logits.rows(), 1 + tops, DType::f64);
    out.top_ids = pool_->make(logits.rows(), tops, DType::i32);
  }
  const std::shared_ptr<Buffer> workspace = pool_->take(sample_workspace(logits.rows(), logits.cols()));
  cuda::sample({.logits = data(logits),
                .ids = elements<int32_t>(out.ids),
                .logprobs = logprobs ? elements<double>(out.logprobs) : nullptr,
                .top_ids = logprobs ? elements<int32_t>(out.top_ids) : nullptr,
                .workspace = address(*workspace),
                .table = reinterpret_cast<const ExpTable*>(address(*exp_table_)),
                .rows = logits.rows(),
                .vocab = logits.cols(),
                .tops = tops},
               batch_, stream());
  return out;
}

}  // namespace bumblebee::cuda
