// The interpreter that computes: every word becomes one operation of a backend.
#pragma once

#include "backend/kv_store.h"
#include "backend/lora.h"
#include "backend/ops.h"
#include "nn/model.h"
#include "nn/pass.h"

namespace bumblebee::nn {

/// All that the operations of a step depend on.
struct InferOptions {
  const LoraShape* lora = nullptr;  // what adapters do to the batch's rows; null or without an id: nothing
  bool logits = true;               // of the logit rows; false when there are none
  /// The hidden states after the final norm, of all rows: contrastive search compares them. Costs a norm of all rows.
  bool hidden = false;
};

/// One step over the batch that is bound to the stream of `ops`. Sees `kv` for attention.
class InferPass : public Pass {
 public:
  InferPass(Ops& ops, KvStore& kv, const InferOptions& options = {});

  Residual embed(const Embedding& embedding) override;
  Tensor norm(Residual& residual, const RmsNorm& norm) override;
  Tensor normalise(const Tensor& x, const RmsNorm& norm) override;
  Tensor lookup(const Embedding& table) override;
  using Pass::linear;
  void linear(const Tensor& x, std::span<const Linear* const> linears, std::span<Tensor> y) override;
  void norm_rope(Tensor& q, Tensor& k, int head_dim, const HeadNorms& norms, const RopeParams& rope) override;
  Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionParams& attention) override;
  void split(const Tensor& x, const SplitParams& split, std::span<Tensor> y) override;
  Tensor causal_conv(const Tensor& x, const ConvParams& conv) override;
  Tensor delta_rule(const Tensor& qkv, const Tensor& a, const Tensor& b, const DeltaParams& delta) override;
  Tensor glu(Activation activation, Tensor gate, Tensor up) override;
  Tensor experts(const Tensor& x, const Tensor& scores, const Experts& experts) override;
  Tensor matmul_heads(const Tensor& x, const HeadLinear& heads, int rest) override;
  Tensor gate_rows(Tensor y, const Tensor& gate) override;
  Tensor scale(Tensor x, float factor) override;
  Tensor add(Tensor a, Tensor b) override;
  Tensor soft_cap(Tensor x, float cap) override;
  Tensor columns(const Tensor& x, int first, int count) override;
  Tensor head(Residual& residual, const RmsNorm& norm, const Linear& head) override;
  void layer(const Model& model, int i, Residual& residual) override;
  bool keep_logit_rows(Residual& residual) override;
  void flush_residual(Residual& residual) override;

  const Tensor& hidden() const { return hidden_; }  // [rows, d_model], where asked for

 protected:
  int current_layer() const { return layer_; }
  /// Called with every choice of experts.
  virtual void routed(const Routing&) {}
  InferOptions options_;

 private:
  bool touched(int site) const { return options_.lora != nullptr && options_.lora->has(site, LoraShape::touched); }
  Tensor rows_of(const Embedding& embedding);
  Tensor normed(const Tensor& x, RowSet rows, const RmsNorm& norm);
  /// y[i] = stacks[i][e]·x for every assignment, with adapters.
  void expert_linears(const Tensor& x, ExpertRows rows, const Routing& routing,
                      std::span<const ExpertLinear* const> stacks, std::span<Tensor> y);

  Ops& ops_;
  KvStore& kv_;
  RowSet rows_ = RowSet::all;  // that linear() is given
  int layer_ = -1;
  Tensor hidden_;
};

}  // namespace bumblebee::nn
