// Derivatives, at the grain of ops.h, and steps of optimizers: what training low-rank factors needs and nothing more. A
// base's weights get no gradient by design. Everything is f32 (f64 in ref), and nothing depends on the number of
// threads: the same inputs give the same bits, so that a run can be resumed. The bound batch is the only state between
// calls. What each means is spelled out in backend/ref/grad_math.h and backend/ref/update_math.h.
#pragma once

#include <cstdint>
#include <span>

#include "backend/logits.h"
#include "backend/ops.h"
#include "backend/weight.h"
#include "tensor/tensor.h"

namespace bumblebee {

/// Names one mask of a run: the same key gives the same mask again, in the backward pass and after a resume.
struct DropoutKey {
  uint64_t seed = 0;
  uint32_t step = 0;  // of the run: every forward pass has its own
  uint32_t site = 0;  // of the model
};

/// y = a·y + b·x. x may be y.
struct AxpbyTerm {
  Tensor y;
  float a = 1;
  Tensor x;
  float b = 1;
};

/// y = factor·(y/divisor)
struct ScaleTerm {
  Tensor y;
  float factor = 1, divisor = 1;
};

/// m = b1·m + rest1·g; v = b2·v + rest2·g²; w = w·keep - c1·m/(sqrt(v)·c2 + eps)
struct AdamStep {
  float b1 = 0, b2 = 0, rest1 = 1, rest2 = 1, eps = 0, keep = 1, c1 = 0, c2 = 1;
};
struct AdamTerm {
  Tensor w, g, m, v;
  AdamStep step;
};

/// update = g over the root of its second moments, which take g² + eps in: s = beta·s + (1 - beta)·(g² + eps). Of a
/// matrix there are means by rows and by columns only, and the root is that of row·column/mean of rows; where `rows` is
/// empty, `cols` holds every element. `update` is made.
struct AdafactorTerm {
  Tensor g, rows, cols;  // [n, k], [1, n], [1, k]
  float eps = 0, beta = 0;
  Tensor update;
};

/// Rows of a sequence whose states of the delta rule exist at once on the way back.
inline constexpr int kDeltaChunk = 64;

class GradOps {
 public:
  enum class Op : uint8_t { plain, transposed };

  virtual ~GradOps() = default;

  /// Causal attention of each segment of the bound batch over its own rows, without a cache (every segment's past is
  /// 0). q [rows, heads·head_dim], k and v [rows, kv_heads·head_dim] -> [rows, heads·head_dim]. `lse` becomes
  /// [rows, heads]: log Σ e^score over the keys that are seen, and the head's sink.
  virtual Tensor attend_packed(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionParams& attention,
                               Tensor& lse) = 0;
  /// Gradients of attend_packed at (q, k, v), whose results were `out` and `lse`. dq, dk, dv are made in the shapes of
  /// q, k, v. Sinks get none.
  virtual void attend_packed_dqkv(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v,
                                  const Tensor& out, const Tensor& lse, const AttentionParams& attention, Tensor& dq,
                                  Tensor& dk, Tensor& dv) = 0;

  /// causal_conv over each segment of the bound batch, without a state (every segment's past is 0), and its gradient.
  virtual Tensor conv_packed(const Tensor& x, const ConvParams& conv) = 0;
  virtual Tensor conv_packed_dx(const Tensor& dy, const Tensor& x, const ConvParams& conv) = 0;

  /// delta_rule over each segment of the bound batch, from states of zeros.
  virtual Tensor delta_packed(const Tensor& qkv, const Tensor& a, const Tensor& b, const DeltaParams& delta) = 0;
  /// Its gradients at (qkv, a, b), made in their shapes. States are computed again, kDeltaChunk rows at a time: no more
  /// of them exist at once than a chunk has, and one for each chunk of a sequence.
  virtual void delta_packed_dx(const Tensor& dout, const Tensor& qkv, const Tensor& a, const Tensor& b,
                               const DeltaParams& delta, Tensor& dqkv, Tensor& da, Tensor& db) = 0;

  /// Gradient of split with respect to x: dy[i] as split made y[i], or empty where nothing flows back.
  virtual Tensor split_dx(std::span<const Tensor> dy, const SplitParams& split) = 0;

  /// Σ dy[i]·W[i] -> [rows, in]: the gradient with respect to x of products that share x. dy[i] [rows, out[i]]. In fast
  /// precision dy and W are rounded to bf16; sums are f32.
  virtual Tensor matmul_dx(std::span<const Tensor> dy, std::span<const Weight* const> weights) = 0;

  /// Gradient of route with respect to the logits, through the weights alone: dweights [rows, top_k] -> [rows,
  /// experts]. `routing` is what route gave for them.
  virtual Tensor route_dx(const Tensor& dweights, const Tensor& logits, const Routing& routing,
                          const RouterParams& router) = 0;
  /// The row of x [rows, cols] of every assignment -> [rows·top_k, cols].
  virtual Tensor spread_rows(const Tensor& x, const Routing& routing) = 0;
  /// Its gradient: Σ of a row's assignments, dy [rows·top_k, cols] -> [rows, cols].
  virtual Tensor spread_rows_dx(const Tensor& dy, const Routing& routing) = 0;
  /// Σ dy[i]·W[i][e] for every assignment -> [rows·top_k, in]: the gradient of matmul_experts with respect to the rows
  /// that assignments read. dy[i] [rows·top_k, out[i]]; precision as in matmul_dx.
  virtual Tensor matmul_experts_dx(std::span<const Tensor> dy, std::span<const Weight* const> stacks,
                                   const Routing& routing) = 0;
  /// Gradients of sum_experts at y and the weights. dy [rows·top_k, cols] and dweights [rows, top_k] are made.
  virtual void sum_experts_dx(const Tensor& dsum, const Tensor& y, const Routing& routing, Tensor& dy,
                              Tensor& dweights) = 0;
  /// Gradients of gate_rows at (y, gate). dy and dgate [rows, 1] are made.
  virtual void gate_rows_dx(const Tensor& dout, const Tensor& y, const Tensor& gate, Tensor& dy, Tensor& dgate) = 0;

  /// c = alpha·op(a)·op(b) + beta·c [m, n], for the low-rank products and their gradients. Always f32. With beta = 0, c
  /// is never read, and is made when it is empty. Otherwise c has its shape and is written in place, whoever else holds
  /// it: gradients accumulate there. c shares no bytes with a and b.
  virtual void gemm(float alpha, const Tensor& a, Op op_a, const Tensor& b, Op op_b, float beta, Tensor& c) = 0;

  /// Gradient of rms_norm with respect to x; x as it was before the norm. [rows, cols]. The norm may be narrower than
  /// x: then it is applied to each run of norm.w.cols() features, as a norm per head is.
  virtual Tensor rms_norm_dx(const Tensor& dy, const Tensor& x, const NormParams& norm) = 0;

  /// Gradient of norm_rope: dq and dk go in as gradients of its results and come out as gradients of its inputs, in
  /// place where this is the last handle. q and k are the inputs, as they were before norm_rope; each is read only
  /// where its norm is not null, and may be empty otherwise. dk is empty where there were no keys. Of rotations, those
  /// that begin with the head.
  virtual void norm_rope_dx(Tensor& dq, Tensor& dk, const Tensor& q, const Tensor& k, int head_dim,
                            const NormParams* q_norm, const NormParams* k_norm, const RopeParams& rope) = 0;

  /// Gradients of glu at (gate, up). dgate and dup are made.
  virtual void glu_dx(Activation activation, const Tensor& dy, const Tensor& gate, const Tensor& up, Tensor& dgate,
                      Tensor& dup) = 0;

  /// Cross-entropy of the head's predictions: losses[i] = log Σ_t e^(z[t]) - z[targets[i]], in nats, where z is what
  /// `logits` makes of h[i]·Wᵀ + bias. Returns Σ weights[i]·losses[i]; `dh`, unless null, becomes its gradient, made in
  /// the shape of h [rows, in]. Rows whose target is negative cost nothing: their loss is 0 and their gradient is 0.
  /// The logits of all rows never exist at once. `bias` is f32 [1, out] or empty. Precision is that of matmul for the
  /// logits, and of matmul_dx for the gradient.
  virtual double head_loss(const Tensor& h, const Weight& head, const Tensor& bias, const LogitParams& logits,
                           std::span<const int32_t> targets, std::span<const float> weights, std::span<float> losses,
                           Tensor* dh) = 0;

  /// y += alpha·x, in place, whoever else holds y.
  virtual void axpy(float alpha, const Tensor& x, Tensor& y) = 0;

  /// x with each element zeroed with probability p (in steps of 2^-16), the others divided by 1 - p. Element (r, c) of
  /// the mask depends on the key and on r·cols + c alone: applied to a gradient with the same key, it is the
  /// derivative.
  virtual Tensor dropout(const Tensor& x, float p, const DropoutKey& key) = 0;

  /// y[r, c] *= factor[c], in place, whoever else holds y. factor [1, cols].
  virtual void multiply_columns(Tensor& y, const Tensor& factor) = 0;
  /// Σ_r x[r, c]·y[r, c] -> [1, cols]: the gradient of multiply_columns with respect to the factor.
  virtual Tensor column_dots(const Tensor& x, const Tensor& y) = 0;
  /// Lengths of the rows of W + scale·B·A -> [1, out], for DoRA, which takes no gradient of them. a [rank, in],
  /// b [out, rank].
  virtual Tensor row_lengths(const Weight& weight, const Tensor& a, const Tensor& b, float scale) = 0;
  /// y[r] += row, in place, whoever else holds y. row [1, cols].
  virtual void add_row(Tensor& y, const Tensor& row) = 0;

  // Parameters, gradients and moments: tensors made outside of a step, which stay where they are and are written in
  // place, whoever else holds them. They are f32 on every backend, in ref as well (whose operands are rounded as they
  // are read), so that a checkpoint is all of them; and each operator below rounds to f32 and none is fused, so that
  // what is elementwise has the same bits everywhere. Sums are f64. All take lists: one launch for all parameters.

  /// y = 0
  virtual void clear(std::span<const Tensor> y) = 0;
  virtual void axpby(std::span<const AxpbyTerm> terms) = 0;
  virtual void scale(std::span<const ScaleTerm> terms) = 0;
  /// y[i] /= x[i]
  virtual void divide(std::span<const Tensor> y, std::span<const Tensor> x) = 0;
  virtual void adam(std::span<const AdamTerm> terms) = 0;
  virtual void adafactor(std::span<AdafactorTerm> terms) = 0;
  /// Each x over its length + 1e-7, then `steps` times x = (a·1 + b·x·xᵀ + c·(x·xᵀ)²)·x on the shorter side: Muon's
  /// Newton-Schulz iteration.
  virtual void orthogonalize(std::span<const Tensor> x, int steps) = 0;
  /// sums[i] = Σ of the squares of x[i].
  virtual void sum_squares(std::span<const Tensor> x, std::span<double> sums) = 0;
  /// The elements of all of them, one after the other: one copy.
  virtual void read_all(std::span<const Tensor> x, std::span<float> flat) = 0;
  virtual void write_all(std::span<const float> flat, std::span<const Tensor> x) = 0;
};

}  // namespace bumblebee
