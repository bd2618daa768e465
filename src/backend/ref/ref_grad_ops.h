// GradOps of the reference: loops around grad_math.h.
#pragma once

#include "backend/batch.h"
#include "backend/grad_ops.h"

namespace bumblebee::ref {

class RefGradOps final : public GradOps {
 public:
  /// `batch` is the bound one.
  explicit RefGradOps(const Batch& batch) : batch_(batch) {}

  Tensor attend_packed(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionParams& attention,
                       Tensor& lse) override;
  void attend_packed_dqkv(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                          const Tensor& lse, const AttentionParams& attention, Tensor& dq, Tensor& dk,
                          Tensor& dv) override;
  Tensor conv_packed(const Tensor& x, const ConvParams& conv) override;
  Tensor conv_packed_dx(const Tensor& dy, const Tensor& x, const ConvParams& conv) override;
  Tensor delta_packed(const Tensor& qkv, const Tensor& a, const Tensor& b, const DeltaParams& delta) override;
  void delta_packed_dx(const Tensor& dout, const Tensor& qkv, const Tensor& a, const Tensor& b,
                       const DeltaParams& delta, Tensor& dqkv, Tensor& da, Tensor& db) override;
  Tensor split_dx(std::span<const Tensor> dy, const SplitParams& split) override;
  Tensor matmul_dx(std::span<const Tensor> dy, std::span<const Weight* const> weights) override;
  Tensor route_dx(const Tensor& dweights, const Tensor& logits, const Routing& routing,
                  const RouterParams& router) override;
  Tensor spread_rows(const Tensor& x, const Routing& routing) override;
  Tensor spread_rows_dx(const Tensor& dy, const Routing& routing) override;
  Tensor matmul_experts_dx(std::span<const Tensor> dy, std::span<const Weight* const> stacks,
                           const Routing& routing) override;
  void sum_experts_dx(const Tensor& dsum, const Tensor& y, const Routing& routing, Tensor& dy,
                      Tensor& dweights) override;
  void gate_rows_dx(const Tensor& dout, const Tensor& y, const Tensor& gate, Tensor& dy, Tensor& dgate) override;
  void gemm(float alpha, const Tensor& a, Op op_a, const Tensor& b, Op op_b, float beta, Tensor& c) override;
  Tensor rms_norm_dx(const Tensor& dy, const Tensor& x, const NormParams& norm) override;
  void norm_rope_dx(Tensor& dq, Tensor& dk, const Tensor& q, const Tensor& k, int head_dim, const NormParams* q_norm,
                    const NormParams* k_norm, const RopeParams& rope) override;
  void glu_dx(Activation activation, const Tensor& dy, const Tensor& gate, const Tensor& up, Tensor& dgate,
              Tensor& dup) override;
  double head_loss(const Tensor& h, const Weight& head, const Tensor& bias, const LogitParams& logits,
                   std::span<const int32_t> targets, std::span<const float> weights, std::span<float> losses,
                   Tensor* dh) override;
  void axpy(float alpha, const Tensor& x, Tensor& y) override;
  Tensor dropout(const Tensor& x, float p, const DropoutKey& key) override;
  void multiply_columns(Tensor& y, const Tensor& factor) override;
  Tensor column_dots(const Tensor& x, const Tensor& y) override;
  Tensor row_lengths(const Weight& weight, const Tensor& a, const Tensor& b, float scale) override;
  void add_row(Tensor& y, const Tensor& delta) override;
  void clear(std::span<const Tensor> y) override;
  void axpby(std::span<const AxpbyTerm> terms) override;
  void scale(std::span<const ScaleTerm> terms) override;
  void divide(std::span<const Tensor> y, std::span<const Tensor> x) override;
  void adam(std::span<const AdamTerm> terms) override;
  void adafactor(std::span<AdafactorTerm> terms) override;
  void orthogonalize(std::span<const Tensor> x, int steps) override;
  void sum_squares(std::span<const Tensor> x, std::span<double> sums) override;
  void read_all(std::span<const Tensor> x, std::span<float> flat) override;
  void write_all(std::span<const float> flat, std::span<const Tensor> x) override;

 private:
  /// Calls body(row, head, first, count) for every query: `count` rows of the batch from `first` on are its keys.
  template <class Body>
  void for_queries(const AttentionParams& attention, Body body) const;
  template <class Body>
  void for_delta_rows(const Segment& segment, const Tensor& qkv, const Tensor& a, const Tensor& b,
                      const DeltaParams& delta, Body body) const;
  void rotate_back(Tensor& d, const Tensor& x, int head_dim, const NormParams* norm, const RopeParams& rope) const;

  const Batch& batch_;
};

}  // namespace bumblebee::ref
