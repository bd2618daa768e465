// Words to operations. The decisions made here are about adapters: whether a step has any, and which of them make a
// bias wait or a norm an operation of its own.
#include "nn/infer_pass.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace bumblebee::nn {

InferPass::InferPass(Backend& backend, KvStore& kv, const Batch& batch, const LoraSites* lora)
    : backend_(backend), ops_(backend.ops()), kv_(kv), batch_(batch), lora_(batch.has_adapters() ? lora : nullptr) {
  BB_CHECK(lora != nullptr || !batch.has_adapters(), "rows with adapters need adapter tables");
  if (lora_ == nullptr) return;
  slots_ = batch.slot;
  std::sort(slots_.begin(), slots_.end());
  slots_.erase(std::unique(slots_.begin(), slots_.end()), slots_.end());
}

template <class Predicate>
bool InferPass::any_slot(const LoraTable& table, Predicate predicate) const {
  return std::any_of(slots_.begin(), slots_.end(), [&](int32_t slot) {
    const LoraEntry* entry = table.at(slot);
    return entry != nullptr && predicate(*entry);
  });
}

const LoraTable* InferPass::table_of(int site) const {
  if (lora_ == nullptr || site < 0) return nullptr;
  const LoraTable& table = lora_->table(site);
  return any_slot(table, [](const LoraEntry&) { return true; }) ? &table : nullptr;
}

Residual InferPass::embed(const Embedding& embedding) {
  Tensor x = ops_.embed(embedding.table);
  if (const LoraTable* table = table_of(embedding.site)) ops_.lora_embed(*table, x);
  return {this, std::move(x), {}};
}

Tensor InferPass::normed(const Tensor& x, RowSet rows, const RmsNorm& norm) {
  const LoraTable* table = table_of(norm.site);
  return table == nullptr ? ops_.rms_norm(x, norm.params) : ops_.lora_norm(x, rows, x.cols(), norm.params, *table);
}

Tensor InferPass::norm(Residual& residual, const RmsNorm& norm) {
  if (table_of(norm.site) != nullptr) {
    settle(residual);
    return normed(residual.x, RowSet::all, norm);
  }
  if (!residual.pending) return ops_.rms_norm(residual.x, norm.params);
  return ops_.add_rms_norm(residual.x, std::exchange(residual.pending, {}), norm.params);
}

void InferPass::linear(const Tensor& x, std::span<const Linear* const> linears, std::span<Tensor> y) {
  std::array<MatmulTerm, 4> terms;
  std::array<LoraModule, 4> modules;
  const size_t count = linears.size();
  BB_CHECK(count <= terms.size());
  bool adapted = false;
  for (size_t i = 0; i < count; ++i) {
    const Linear& linear = *linears[i];
    const Tensor* bias = linear.bias ? &linear.bias : nullptr;
    terms[i] = {&linear.w, bias};
    const LoraTable* table = table_of(linear.site);
    if (table == nullptr) continue;
    adapted = true;
    modules[i].table = table;
    if (bias != nullptr && any_slot(*table, [](const LoraEntry& entry) { return entry.comes_before_bias(); })) {
      terms[i].bias = nullptr;
      modules[i].bias = bias;
    }
    if (const LoraEntry* only = slots_.size() == 1 ? table->at(slots_.front()) : nullptr; only != nullptr) {
      modules[i].has_weight = bool(only->weight);
      if (only->weight) terms[i].weight = &only->weight;
    }
  }
  ops_.matmul(x, std::span<const MatmulTerm>(terms.data(), count), y);
  if (adapted) ops_.lora(x, rows_, std::span<const LoraModule>(modules.data(), count), y);
}

void InferPass::norm_rope(Tensor& q, Tensor& k, int head_dim, const HeadNorms& norms, const RopeParams& rope) {
  const NormParams *q_norm = norms.present ? &norms.q.params : nullptr,
                   *k_norm = norms.present ? &norms.k.params : nullptr;
  const auto apart = [&](Tensor& x, const RmsNorm& norm, const NormParams*& left) {
    const LoraTable* table = norms.present ? table_of(norm.site) : nullptr;
    if (table == nullptr) return;
    x = ops_.lora_norm(x, RowSet::all, head_dim, norm.params, *table);
    left = nullptr;
  };
  apart(q, norms.q, q_norm);
  apart(k, norms.k, k_norm);
  ops_.norm_rope(q, k, head_dim, q_norm, k_norm, rope);
}

Tensor InferPass::attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionParams& attention) {
  BB_CHECK(layer_ >= 0, "attend outside a layer");
  return ops_.attend(kv_, layer_, q, k, v, attention);
}

Tensor InferPass::glu(Activation activation, const Tensor& gate, const Tensor& up) {
  return ops_.glu(activation, gate, up);
}

Tensor InferPass::head(Residual& residual, const RmsNorm& norm, const Linear& head) {
  settle(residual);
  if (keep_hidden_) hidden_ = normed(residual.x, RowSet::all, norm);
  if (batch_.wanted.empty()) return {};
  const Tensor h =
      keep_hidden_ ? ops_.take_wanted(hidden_) : normed(ops_.take_wanted(residual.x), RowSet::wanted, norm);
  rows_ = RowSet::wanted;
  Tensor logits = InferPass::Pass::linear(h, head);
  rows_ = RowSet::all;
  return logits;
}

void InferPass::layer(const Model& model, int i, Residual& residual) {
  layer_ = i;
  model.block(*this, i, residual);
  layer_ = -1;
}

void InferPass::settle(Residual& residual) {
  if (residual.pending) ops_.add(residual.x, std::exchange(residual.pending, {}));
}

}  // namespace bumblebee::nn
