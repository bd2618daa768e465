// The words a model is written in. One model, several interpreters: an InferPass computes, a TapPass also shows every
// intermediate, a training pass will remember how to go back. A model never knows which one runs it.
#pragma once

#include <array>
#include <concepts>
#include <span>

#include "nn/layers.h"

namespace bumblebee::nn {

class Model;
class Pass;

/// The residual stream with at most one addition not yet done, so that the addition and the next norm are one kernel
/// while the model still reads as if it added at once.
struct Residual {
  Pass* pass = nullptr;
  Tensor x, pending;  // [rows, d_model]
  Tensor aside = {};  // [rows, ...] what a model made of the tokens once, for all of its layers
  Residual& operator+=(Tensor delta);
};

class Pass {
 public:
  virtual ~Pass() = default;

  virtual Residual embed(const Embedding& embedding) = 0;  // [rows, d_model]
  /// Settles the pending addition, then normalises.
  virtual Tensor norm(Residual& residual, const RmsNorm& norm) = 0;
  /// The norm of what is no residual, over runs of the norm's width.
  virtual Tensor normalise(const Tensor& x, const RmsNorm& norm) = 0;
  /// Rows of a further table for the batch's tokens: [rows, width]. Of a large table no other row is read.
  virtual Tensor lookup(const Embedding& table) = 0;
  /// y[i] = linear[i](x), with adapters: here and nowhere else.
  virtual void linear(const Tensor& x, std::span<const Linear* const> linears, std::span<Tensor> y) = 0;
  /// `k` may be empty.
  virtual void norm_rope(Tensor& q, Tensor& k, int head_dim, const HeadNorms& norms, const RopeParams& rope) = 0;
  /// Without k and v: over what the layer whose cache this one shares has appended. Without v: values lie within keys.
  virtual Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionParams& attention) = 0;
  /// Columns of x, dealt out as the split says.
  virtual void split(const Tensor& x, const SplitParams& split, std::span<Tensor> y) = 0;
  /// The words of a recurrent layer: Ops has what they mean.
  virtual Tensor causal_conv(const Tensor& x, const ConvParams& conv) = 0;
  virtual Tensor delta_rule(const Tensor& qkv, const Tensor& a, const Tensor& b, const DeltaParams& delta) = 0;
  virtual Tensor glu(Activation activation, Tensor gate, Tensor up) = 0;
  /// The experts' answers to the rows of x, each row's mixed as its scores [rows, experts] say: [rows, d_model].
  virtual Tensor experts(const Tensor& x, const Tensor& scores, const Experts& experts) = 0;
  /// The heads' products, each followed by the `rest` features of x that follow what it multiplies.
  virtual Tensor matmul_heads(const Tensor& x, const HeadLinear& heads, int rest) = 0;
  /// y·sigmoid(gate) for each row, gate [rows, 1].
  virtual Tensor gate_rows(Tensor y, const Tensor& gate) = 0;
  /// x·factor, a + b, cap·tanh(x/cap), and columns [first, first + count) of x. What is given away may be written.
  virtual Tensor scale(Tensor x, float factor) = 0;
  virtual Tensor add(Tensor a, Tensor b) = 0;
  virtual Tensor soft_cap(Tensor x, float cap) = 0;
  virtual Tensor columns(const Tensor& x, int first, int count) = 0;
  /// Logits of the batch's logit rows: [logit_rows, vocab].
  virtual Tensor head(Residual& residual, const RmsNorm& norm, const Linear& head) = 0;
  /// Runs layer i of the model; knowing where layers begin gives the pass its cache index, its trace and its
  /// checkpoints.
  virtual void layer(const Model& model, int i, Residual& residual) = 0;
  /// Lets go of rows whose logits nobody wants, which layers from here on must not need: they append nothing to a
  /// cache. False: no row is left. Passes that look at all rows keep them.
  virtual bool keep_logit_rows(Residual& residual);
  /// Does the pending addition now, when two would meet.
  virtual void flush_residual(Residual& residual) = 0;

  Tensor linear(const Tensor& x, const Linear& w);
  void scale_residual(Residual& residual, float factor);
  template <std::same_as<Linear>... L>
    requires(sizeof...(L) > 1)
  std::array<Tensor, sizeof...(L)> linear(const Tensor& x, const L&... w) {
    const std::array<const Linear*, sizeof...(L)> linears = {&w...};
    std::array<Tensor, sizeof...(L)> y;
    linear(x, std::span<const Linear* const>(linears), std::span<Tensor>(y));
    return y;
  }
};

}  // namespace bumblebee::nn
