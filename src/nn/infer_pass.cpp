// Words to operations. The only decision made here is whether a step has adapters at all.
#include "nn/infer_pass.h"

#include <utility>
#include <vector>

namespace bumblebee::nn {

InferPass::InferPass(Backend& backend, KvStore& kv, const Batch& batch, const LoraSites* lora)
    : backend_(backend), ops_(backend.ops()), kv_(kv), batch_(batch), lora_(batch.has_adapters() ? lora : nullptr) {
  BB_CHECK(lora != nullptr || !batch.has_adapters(), "rows with adapters need adapter tables");
}

Residual InferPass::embed(const Embedding& embedding) { return {this, ops_.embed(embedding.table), {}}; }

Tensor InferPass::norm(Residual& residual, const RmsNorm& norm) {
  if (!residual.pending) return ops_.rms_norm(residual.x, norm.params);
  return ops_.add_rms_norm(residual.x, std::exchange(residual.pending, {}), norm.params);
}

void InferPass::linear(const Tensor& x, std::span<const Linear* const> linears, std::span<Tensor> y) {
  std::array<MatmulTerm, 4> terms;
  BB_CHECK(linears.size() <= terms.size());
  for (size_t i = 0; i < linears.size(); ++i)
    terms[i] = {&linears[i]->w, linears[i]->bias ? &linears[i]->bias : nullptr};
  ops_.matmul(x, std::span<const MatmulTerm>(terms.data(), linears.size()), y);
  if (lora_ == nullptr) return;
  std::vector<const LoraTable*> tables;
  for (const Linear* linear : linears) {
    static const LoraTable none;
    tables.push_back(linear->site < 0 ? &none : &lora_->table(linear->site));
  }
  ops_.lora(x, tables, y);
}

void InferPass::norm_rope(Tensor& q, Tensor& k, int head_dim, const HeadNorms& norms, const RopeParams& rope) {
  ops_.norm_rope(q, k, head_dim, norms.present ? &norms.q.params : nullptr, norms.present ? &norms.k.params : nullptr,
                 rope);
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
  if (keep_hidden_) hidden_ = ops_.rms_norm(residual.x, norm.params);
  if (batch_.wanted.empty()) return {};
  const Tensor h = keep_hidden_ ? ops_.take_wanted(hidden_) : ops_.rms_norm(ops_.take_wanted(residual.x), norm.params);
  return InferPass::Pass::linear(h, head);
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
