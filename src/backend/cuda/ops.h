// The operations of a card: each takes memory from the pool and enqueues kernels. The bound batch is theirs.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda/batch_region.h"
#include "backend/cuda/kernels/exact_math.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/slots.h"

namespace bumblebee::cuda {

class CudaOps final : public Ops {
 public:
  CudaOps(std::shared_ptr<const Device> device, std::shared_ptr<Pool> pool, bool fast);

  /// What operations read from now on; `host` says what was bound.
  void bind(const Batch& host, const BatchView& view);
  const BatchView& batch() const { return batch_; }
  CudaSlots& slots() { return slots_; }
  /// Where results come from until this is called again.
  void use(std::shared_ptr<Pool> pool) { pool_ = std::move(pool); }

  Tensor embed(const Weight& table) override;
  void matmul(const Tensor& x, std::span<const MatmulTerm> terms, std::span<Tensor> y) override;
  void lora(const Tensor& x, RowSet rows, std::span<const LoraModule> modules, std::span<Tensor> y) override;
  void lora_embed(int site, Tensor& y) override;
  Tensor lora_norm(const Tensor& x, RowSet rows, int width, const NormParams& norm, int site) override;
  Tensor rms_norm(const Tensor& x, const NormParams& norm) override;
  Tensor add_rms_norm(Tensor& x, const Tensor& delta, const NormParams& norm) override;
  void add(Tensor& x, const Tensor& delta) override;
  void norm_rope(Tensor& q, Tensor& k, int head_dim, const NormParams* q_norm, const NormParams* k_norm,
                 const RopeParams& rope) override;
  Tensor attend(KvStore& kv, int layer, const Tensor& q, const Tensor& k, const Tensor& v,
                const AttentionParams& attention) override;
  Tensor glu(Activation activation, const Tensor& gate, const Tensor& up) override;
  Tensor gather_rows(const Tensor& x) override;
  Sampled sample(const Tensor& logits) override;
  Tensor copy(const Tensor& x) override;

 private:
  /// The same when nobody else holds it, else a copy.
  Tensor make_writable(Tensor& t);
  void rotate(Tensor& t, int head_dim, const NormParams* norm, const RopeParams& rope);
  const float* frequencies(const std::vector<float>& inv_freq);
  /// Enqueues a copy of host memory that need not live on.
  std::shared_ptr<Buffer> constant(std::span<const std::byte> bytes);
  cudaStream_t stream() const { return device_->compute(); }

  const std::shared_ptr<const Device> device_;
  const std::shared_ptr<Pool> constants_;
  std::shared_ptr<Pool> pool_;
  const bool fast_;
  CudaSlots slots_;
  BatchView batch_;
  std::vector<int32_t> tokens_, first_slots_;  // of the bound batch: what is checked, or looked up, on the host
  std::vector<SampleRow> sample_;
  std::vector<LogitChange> changes_;
  std::map<std::vector<float>, std::shared_ptr<Buffer>> frequencies_;
  std::shared_ptr<Buffer> exp_table_;
};

}  // namespace bumblebee::cuda
