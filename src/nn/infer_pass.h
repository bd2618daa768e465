// The interpreter that computes: every word becomes one operation of a backend.
#pragma once

#include "backend/backend.h"
#include "nn/model.h"
#include "nn/pass.h"

namespace bumblebee::nn {

/// Adapter tables by site (Model::sites()), as inference sees them; an adapter bank implements it.
class LoraSites {
 public:
  virtual ~LoraSites() = default;
  virtual const LoraTable& table(int site) const = 0;
};

/// One step over the batch that is bound to `backend`. Sees `kv` for attention; `lora` may be null when no row has a
/// slot.
class InferPass : public Pass {
 public:
  InferPass(Backend& backend, KvStore& kv, const Batch& batch, const LoraSites* lora = nullptr);

  Residual embed(const Embedding& embedding) override;
  Tensor norm(Residual& residual, const RmsNorm& norm) override;
  using Pass::linear;
  void linear(const Tensor& x, std::span<const Linear* const> linears, std::span<Tensor> y) override;
  void norm_rope(Tensor& q, Tensor& k, int head_dim, const HeadNorms& norms, const RopeParams& rope) override;
  Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionParams& attention) override;
  Tensor glu(Activation activation, const Tensor& gate, const Tensor& up) override;
  Tensor head(Residual& residual, const RmsNorm& norm, const Linear& head) override;
  void layer(const Model& model, int i, Residual& residual) override;
  void settle(Residual& residual) override;

  /// Keeps the hidden states after the final norm, of all rows: contrastive search compares them. Costs one norm of all
  /// rows.
  void keep_hidden() { keep_hidden_ = true; }
  const Tensor& hidden() const { return hidden_; }  // [rows, d_model]

 protected:
  int current_layer() const { return layer_; }

 private:
  /// The table of a site when a slot of this batch has an entry there, else null.
  const LoraTable* table_of(int site) const;
  /// Of the batch's slots, whether any entry of `table` satisfies the predicate.
  template <class Predicate>
  bool any_slot(const LoraTable& table, Predicate predicate) const;
  Tensor normed(const Tensor& x, RowSet rows, const RmsNorm& norm);

  Backend& backend_;
  Ops& ops_;
  KvStore& kv_;
  const Batch& batch_;
  const LoraSites* lora_;
  std::vector<int32_t> slots_;  // of the batch, without repeats
  RowSet rows_ = RowSet::all;   // that linear() is given
  int layer_ = -1;
  bool keep_hidden_ = false;
  Tensor hidden_;
};

/// An InferPass that shows each intermediate by name ("layers.0.q", "layers.0.attn", "final_norm", ...), so that a
/// wrong result names the first operation that diverged.
class TapPass final : public InferPass {
 public:
  using Tap = std::function<void(const std::string& name, const Tensor& value)>;
  TapPass(Backend& backend, KvStore& kv, const Batch& batch, Tap tap, const LoraSites* lora = nullptr);

  Residual embed(const Embedding& embedding) override;
  Tensor norm(Residual& residual, const RmsNorm& norm) override;
  using Pass::linear;
  void linear(const Tensor& x, std::span<const Linear* const> linears, std::span<Tensor> y) override;
  void norm_rope(Tensor& q, Tensor& k, int head_dim, const HeadNorms& norms, const RopeParams& rope) override;
  Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionParams& attention) override;
  Tensor glu(Activation activation, const Tensor& gate, const Tensor& up) override;
  Tensor head(Residual& residual, const RmsNorm& norm, const Linear& head) override;

 private:
  void show(const char* name, const Tensor& value);
  Tap tap_;
};

}  // namespace bumblebee::nn
