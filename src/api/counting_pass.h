// What a step reads: weights, cached keys and values, states.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "nn/infer_pass.h"

namespace bumblebee {

/// What one step reads, learnt from the step itself: no list of modules to keep in line with the models.
struct Reads {
  struct Layer {
    uint64_t token_bytes = 0;  // keys and values of one token
    int window = 0;
  };
  uint64_t weights = 0;
  uint64_t states = 0;  // of recurrent layers, of one sequence: read, and written
  std::vector<Layer> layers;

  /// Keys and values that a sequence reads when it attends to `length` tokens, itself included.
  uint64_t kv(int length) const {
    uint64_t bytes = states;
    for (const Layer& layer : layers)
      bytes += layer.token_bytes * uint64_t(layer.window > 0 ? std::min(length, layer.window) : length);
    return bytes;
  }
};

inline uint64_t stored_bytes(const Weight& weight) {
  const Format& format = weight.format;
  const uint64_t codes = row_bytes(format, weight.in) * uint64_t(weight.out);
  if (format.kind == Format::Kind::dense) return codes;
  return codes + uint64_t(weight.out) * uint64_t(weight.in / format.group) *
                     uint64_t(size_of(format.scale) + size_of(format.bias));
}

class CountingPass final : public nn::InferPass {
 public:
  CountingPass(Ops& ops, KvStore& kv, Reads& reads)
      : nn::InferPass(ops, kv), element_bytes_(uint64_t(size_of(kv.shape().dtype))), reads_(reads) {}
  using nn::InferPass::linear;
  void linear(const Tensor& x, std::span<const nn::Linear* const> linears, std::span<Tensor> y) override {
    for (const nn::Linear* linear : linears) reads_.weights += stored_bytes(linear->w);
    nn::InferPass::linear(x, linears, y);
  }
  /// A row's experts; those that rows share are read once, so several rows read less than this for each.
  Tensor experts(const Tensor& x, const Tensor& scores, const nn::Experts& experts) override {
    for (const nn::ExpertLinear* stack : {&experts.gate, &experts.up, &experts.down})
      reads_.weights += stored_bytes(stack->w) * uint64_t(experts.router.top_k);
    return nn::InferPass::experts(x, scores, experts);
  }
  Tensor matmul_heads(const Tensor& x, const nn::HeadLinear& heads, int rest) override {
    reads_.weights += stored_bytes(heads.w) * uint64_t(heads.w.experts);
    return nn::InferPass::matmul_heads(x, heads, rest);
  }
  Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionParams& attention) override {
    const uint64_t kept = attention.value_dim > 0 ? 1 : 2;
    reads_.layers.push_back(
        {kept * uint64_t(attention.kv_heads) * uint64_t(attention.head_dim) * element_bytes_, attention.window});
    return nn::InferPass::attend(q, k, v, attention);
  }

  Tensor causal_conv(const Tensor& x, const ConvParams& conv) override {
    reads_.states += 2 * uint64_t(conv.w.rows() - 1) * uint64_t(conv.w.cols()) * sizeof(float);
    return nn::InferPass::causal_conv(x, conv);
  }
  Tensor delta_rule(const Tensor& qkv, const Tensor& a, const Tensor& b, const DeltaParams& delta) override {
    reads_.states += 2 * uint64_t(delta.key_dim) * uint64_t(delta.value_cols()) * sizeof(float);
    return nn::InferPass::delta_rule(qkv, a, b, delta);
  }

 private:
  uint64_t element_bytes_;
  Reads& reads_;
};

}  // namespace bumblebee
