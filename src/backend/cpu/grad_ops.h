// The derivatives of the CPU backend, on the threads, memory and batch of its forward operations. Work is divided so
// that every sum is formed by one thread, in an order that does not depend on their number.
#pragma once

#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/grad_operands.h"
#include "backend/grad_ops.h"

namespace bumblebee::cpu {

class CpuGradOps final : public GradOps {
 public:
  explicit CpuGradOps(CpuOps& ops) : ops_(ops), k_(ops.k_), threads_(ops.threads_) {}

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
  /// Gradients [rows, out] that meet the rows of a weight: f32, or bf16 with an even number of columns.
  struct GradRows {
    const float* f32 = nullptr;
    const uint16_t* bf16 = nullptr;
    size_t stride = 0;  // elements
    int rows = 0;
  };
  /// A row-major matrix of f32.
  struct Matrix {
    float* data = nullptr;
    size_t stride = 0;
    int rows = 0, cols = 0;
    Tensor keep;
  };
  struct Packed;

  bool uses_bf16() const { return ops_.fast_ && k_.gemm_bf16 != nullptr; }
  int column_grain() const { return uses_bf16() ? 32 : 128; }
  /// y[:, k0..k1) = dy·W[:, k0..k1), or += when `accumulate`; k0 is a multiple of column_grain().
  void add_product(const GradRows& dy, const Weight& weight, int k0, int k1, float* y, size_t y_stride, bool accumulate,
                   int thread);

  void add_block(const GradRows& dy, const Weight& weight, int k0, int k1, float* y, size_t y_stride, bool accumulate,
                 int thread);

  static Matrix view(const Tensor& t);
  Matrix copy(const Matrix& m, bool transposed, float factor);
  void scale_or_clear(const Matrix& c, float beta);
  void multiply_wide(const Matrix& a, const Matrix& b, const Matrix& c, bool accumulate);
  void multiply_by_dots(const Matrix& a, const Matrix& b, const Matrix& c);

  Packed make_room(const AttentionParams& a, size_t (*room)(const Operands&, int rows, int dim));
  void pack_forward(Packed& packed, const Tensor& k, const Tensor& v, const AttentionParams& a);
  void pack_backward(Packed& packed, const Tensor& k, const Tensor& v, const AttentionParams& a);
  /// Queries of one head from `first` on, of a segment.
  void attend_block(const Packed& keys, const Tensor& q, const AttentionParams& a, size_t segment, int first, int head,
                    int thread, const Tensor& out, const Tensor& lse);
  struct HeadSlopes;
  void slopes_of_head(const HeadSlopes& work, size_t segment, int head, int thread);
  double loss_of_row(float* z, int vocab, int32_t target, double& total);
  void head_block(const Tensor& h, const Weight& head, const Tensor& bias, const LogitParams& logits,
                  std::span<const int> scored, std::span<const int32_t> targets, std::span<const float> weights,
                  std::span<float> losses, Tensor* dh);
  /// For each row of the batch, the first of its segment.
  std::vector<int> beginnings(int rows) const;
  struct DeltaSlopes;
  void delta_slopes(const DeltaSlopes& work, const Segment& segment, int head, int thread);
  void rotate_back(Tensor& d, const Tensor& x, int head_dim, const NormParams* norm, bool interleaved,
                   const CpuOps::RopeTable& table);

  CpuOps& ops_;
  const Kernels& k_;
  ThreadPool& threads_;
};

}  // namespace bumblebee::cpu
