// The interpreter of golden tests: it computes, and shows every intermediate on the way.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "nn/infer_pass.h"

namespace bumblebee::nn {

/// An InferPass that shows each intermediate by name ("layers.0.q", "layers.0.attn", "final_norm", ...), so that a
/// wrong result names the first operation that diverged. What a layer has twice is numbered ("layers.0.glu_2").
class TapPass final : public InferPass {
 public:
  using Tap = std::function<void(const std::string& name, const Tensor& value)>;
  TapPass(Ops& ops, KvStore& kv, Tap tap, const InferOptions& options = {});

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
  Tensor soft_cap(Tensor x, float cap) override;
  /// Shown of logits: elsewhere what comes of it is.
  Tensor scale(Tensor x, float factor) override;
  Tensor head(Residual& residual, const RmsNorm& norm, const Linear& head) override;

 private:
  void routed(const Routing& routing) override { show("expert_weights", routing.weights); }
  /// A name that a layer shows again gets a number.
  void show(const std::string& name, const Tensor& value);
  std::map<std::string, int> shown_;
  bool after_head_ = false;
  Tap tap_;
};

}  // namespace bumblebee::nn
