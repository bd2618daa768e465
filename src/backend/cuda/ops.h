// The operations of a card: each takes memory from the pool and enqueues kernels. The bound batch is theirs. A norm, a
// product, a rotation and a sum of experts wait for the operation after them, which may be one kernel with them: a norm
// is part of the product that takes it, a product adds to the residual or ends in silu(gate)·up, a rotation also fills
// the pages, a sum is added where it is formed. That is done only where nobody else holds what would have been written;
// handles say so, and results have the same bits.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda/batch_region.h"
#include "backend/cuda/kernels/attend.h"
#include "backend/cuda/kernels/exact_math.h"
#include "backend/cuda/kernels/matmul_wide.h"
#include "backend/cuda/kernels/product.h"
#include "backend/cuda/kernels/product_chain.h"
#include "backend/cuda/kernels/product_rows.h"
#include "backend/cuda/kernels/rope.h"
#include "backend/cuda/kernels/rows.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/slots.h"

namespace bumblebee::cuda {

class CudaOps final : public Ops {
 public:
  CudaOps(std::shared_ptr<const Device> device, std::shared_ptr<Pool> pool, bool fast);

  /// What operations read from now on; `host` says what was bound.
  void bind(const Batch& host, const BatchView& view);
  /// What of a batch decides which kernels there are, beside what StepKey says.
  struct BatchKind {
    bool alone = false;        // BatchView::alone
    bool mixed_slots = false;  // of more than kFewRows, where there are adapters: whether they have several,
    int slots = 0;             // and for how many adapters there is room
    friend bool operator==(const BatchKind&, const BatchKind&) = default;
  };
  BatchKind kind() const;
  CudaSlots& slots() { return slots_; }
  size_t workspace_bytes() const {
    return stage_workspace_.bytes() + attend_counters_.bytes() + lora_memory_.bytes() + chain_counters_.bytes() +
           batch_counters_.bytes();
  }
  /// Whether operations wait from now on; else each is enqueued when it is called, as who reads results in between
  /// needs.
  void wait_for_next(bool waits);
  /// Enqueues what waits.
  void settle();
  /// Forgets what waits: the step failed.
  void drop_waiting();
  /// Where results come from until this is called again.
  void use(std::shared_ptr<Pool> pool) { pool_ = std::move(pool); }

  Tensor embed(const Weight& table) override;
  void matmul(const Tensor& x, std::span<const MatmulTerm> terms, std::span<Tensor> y) override;
  void lora(const Tensor& x, RowSet rows, std::span<const LoraModule> modules, std::span<Tensor> y) override;
  void lora_embed(int site, Tensor& y) override;
  Tensor lora_norm(const Tensor& x, RowSet rows, int width, const NormParams& norm, int site) override;
  Tensor rms_norm(const Tensor& x, const NormParams& norm) override;
  Tensor add_rms_norm(Tensor& x, Tensor delta, const NormParams& norm) override;
  void add(Tensor& x, Tensor delta) override;
  void norm_rope(Tensor& q, Tensor& k, int head_dim, const NormParams* q_norm, const NormParams* k_norm,
                 const RopeParams& rope) override;
  Tensor attend(KvStore& kv, int layer, const Tensor& q, const Tensor& k, const Tensor& v,
                const AttentionParams& attention) override;
  Tensor glu(Activation activation, Tensor gate, Tensor up) override;
  void soft_cap(Tensor& x, float cap) override;
  void multiply(Tensor& x, float factor) override;
  Tensor columns(const Tensor& x, int first, int count) override;
  void split(const Tensor& x, const SplitParams& split, std::span<Tensor> y) override;
  Tensor causal_conv(KvStore& kv, int layer, const Tensor& x, const ConvParams& conv) override;
  Tensor delta_rule(KvStore& kv, int layer, const Tensor& qkv, const Tensor& a, const Tensor& b,
                    const DeltaParams& delta) override;
  Tensor matmul_heads(const Tensor& x, const Weight& heads, bool transposed, int rest) override;
  // Operation::lora_heads is lacking: nobody calls this.
  void lora_heads(const Tensor&, int, int, int, Tensor&) override { BB_UNREACHABLE(); }
  void lora_experts(const Tensor& x, ExpertRows rows, const Routing& routing, std::span<const int> sites,
                    std::span<Tensor> y) override;
  Routing route(const Tensor& logits, const RouterParams& router) override;
  void matmul_experts(const Tensor& x, ExpertRows rows, const Routing& routing, std::span<const Weight* const> stacks,
                      std::span<Tensor> y) override;
  void add_expert_bias(Tensor& y, const Routing& routing, const Tensor& bias) override;
  Tensor sum_experts(const Tensor& y, const Routing& routing) override;
  Tensor gate_rows(Tensor y, const Tensor& gate) override;
  Tensor gather_rows(const Tensor& x) override;
  void keep_logit_rows() override;
  Sampled sample(const Tensor& logits) override;
  Tensor copy(const Tensor& x) override;

 private:
  struct WaitingProduct;

  /// The same when nobody else holds it, else a copy. Nothing that waits is settled.
  Tensor make_writable(Tensor& t);
  Tensor copied(const Tensor& x);
  /// x [rows, in] f32, as a stage or quantize_rows reads it; a norm that waits for it becomes part of it.
  StageInput input_of(const Tensor& x);
  void matmul_in_stages(const Tensor& x, std::span<const MatmulTerm> terms, std::span<Tensor* const> y);
  /// Rounds x of several rows by a kernel of its own, where the stage does not do so itself. Not before it is launched:
  /// with adapters that is another kernel.
  void round_input(WaitingProduct& product);
  /// Which stage with adapters came after this one in the step before, or in this one's beginning.
  NextAdapters adapters_after(const WaitingProduct& product);
  /// Enqueues the product that waits, as it is set up by now, or makes it a link of the chain.
  void launch_product();
  /// Enqueues the chain.
  void launch_links();
  /// The product or the sum of experts that waits; never both.
  void settle_product();
  void settle_sum();
  /// x += delta and norm.y = rms_norm(x), or null: x += delta, where a sum of experts waits to be added.
  bool add_sum(Tensor& x, const Tensor& delta, const NormParams* norm, Tensor& y);
  /// The same where a norm waits to be added.
  bool add_norm(Tensor& x, const Tensor& delta, const NormParams* norm, Tensor& y);
  void settle_norm();
  void settle_glu();
  void settle_rotation();
  /// Products of many rows on Hopper's tensor cores (wide_ops.cpp). False: they are not of one such format.
  bool matmul_wide(const Tensor& x, std::span<const MatmulTerm> terms, std::span<Tensor> y);
  /// x as rows that are rounded; a norm or a silu(gate)·up that waits for it becomes part of that.
  WideRows wide_rows_of(const Tensor& x);
  void launch_wide();
  void settle_wide();
  /// Lets the wide product that came last apply adapters; false: they are no part of it.
  bool wide_applies(const Tensor& x, RowSet rows, std::span<const LoraModule> modules, std::span<const Tensor> y);
  bool add_wide(Tensor& x, const Tensor& delta);
  /// gate = silu(gate)·up where the wide product that waits has these outputs and can end so.
  bool pair_wide(const Tensor& gate, const Tensor& up);
  /// The product that waits, if its outputs are these and nobody else holds them from then on.
  bool take_product(std::span<Tensor* const> outputs);
  /// Lets the product that waits apply adapters, if what they change are its outputs and nobody else sees these before.
  bool product_applies(const Tensor& x, RowSet rows, std::span<const LoraModule> modules, std::span<const Tensor> y);
  /// What the slot of the row (null: the first one) does to all modules, as stages want it; it is looked up once a
  /// step.
  const LoraTerm* resolved(const int32_t* row);
  /// x += delta where a product waits to be added.
  bool add_product(Tensor& x, Tensor& delta);
  /// Whether the rotation that waits made q and k, and v can go to the pages with it.
  bool fills_pages(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionParams& a) const;
  HeadRows heads_of(const Tensor& t, const Tensor& from, int head_dim, const NormParams* norm) const;
  /// What multiplies stacks: a stage, tensor cores with tiles of 64 rows, or what can do every format.
  enum class ExpertKernel : uint8_t { stage, wide, few };
  ExpertKernel kernel_of(const Routing& routing, const Weight& stack) const;
  void experts_in_stage(const Tensor& x, ExpertRows rows, const Routing& routing, std::span<const Weight* const> stacks,
                        std::span<Tensor> y);
  void experts_at_once(const Tensor& x, ExpertRows rows, const Routing& routing, std::span<const Weight* const> stacks,
                       std::span<Tensor> y, bool wide);
  /// Enqueues what waits and what `read` waits for; a norm that nobody has read yet goes on waiting.
  void settle_for(const Tensor& read);
  const float* frequencies(const std::vector<float>& inv_freq);
  /// Enqueues a copy of host memory that need not live on.
  std::shared_ptr<Buffer> constant(std::span<const std::byte> bytes);
  /// Where operations are enqueued, behind the products of the chain: these are the last that was called.
  cudaStream_t stream() {
    ++enqueued_;
    if (!links_.empty()) launch_links();
    return device_->compute();
  }

  const std::shared_ptr<const Device> device_;
  const std::shared_ptr<Pool> constants_;
  std::shared_ptr<Pool> pool_;
  const bool fast_;
  CudaSlots slots_;
  BatchView batch_;
  std::shared_ptr<Buffer> kept_rows_;          // where the batch's arrays are, once logit rows alone are left
  std::vector<int32_t> tokens_, first_slots_;  // of the bound batch: what is checked, or looked up, on the host
  bool mixed_slots_ = false;                   // its rows have several
  int slots_room_ = 1;                         // at least as many as they have adapters, a power of two
  std::vector<SampleRow> sample_;
  std::vector<LogitChange> changes_;
  std::map<std::vector<float>, std::shared_ptr<Buffer>> frequencies_;
  std::shared_ptr<Buffer> exp_table_;

  struct WaitingNorm {
    Tensor x, y;  // y is not written yet
    NormParams norm;
  };
  struct WaitingProduct {
    ProductStage stage;
    std::array<Tensor, kStageTerms> y;  // not written yet
    Tensor input, order;                // what the stage reads
    bool unrounded = false;             // several rows, which round_input() has not seen yet
    bool tiles = false;                 // of such, those of product_rows.h
    TileLora lora;                      // and what adapters they have
    std::shared_ptr<Buffer> digits, steps, u;
  };
  /// Where operations do not wait it was launched, and is kept for the adapters that may follow.
  struct WaitingWide {
    WideInput input;
    WideLora lora;
    Tensor x;
    std::array<ProductTerm, kMaxTerms> term;
    std::array<Tensor, kMaxTerms> y;
    int count = 0;
    bool batch = false, paired = false, launched = false;  // batch: matmul_batch.h
    uint64_t shrunk = 0;                                   // what enqueued_ was when u was formed
    std::shared_ptr<Buffer> rounded, u;
  };
  struct WaitingGlu {
    Tensor gate, up, y;  // y is not written yet
  };
  struct WaitingSum {
    Tensor y;
    Routing routing;
    Tensor out;  // not written yet
  };
  struct WaitingRotation {
    Tensor q, k;            // not rotated yet
    Tensor from_q, from_k;  // what they will be made of
    HeadRows q_heads, k_heads;
    RopeArgs rope;
    int head_dim = 0;
  };
  struct ResolvedRow {
    const int32_t *slot, *row;
    bool operator==(const ResolvedRow&) const = default;
  };
  bool waits_ = false, apart_ = false;
  uint64_t enqueued_ = 0;  // how often stream() was asked: what comes right behind what is a matter of that
  std::optional<ResolvedRow> resolved_;
  float* lora_parts_ = nullptr;  // StageLora's two
  bool lora_second_ = false;
  std::vector<NextAdapters> adapted_;  // stages with adapters of a step, in their order
  size_t adapted_at_ = 0;
  std::optional<WaitingNorm> norm_;
  std::optional<WaitingProduct> product_;
  /// Products that are set up and follow each other (product_chain.h). They hold no tensors: whoever takes memory that
  /// is free by now is enqueued after them.
  std::vector<ProductStage> links_;
  PastAhead ahead_;  // what the chain is followed by
  Beside beside_ = Beside::any;
  std::optional<WaitingWide> wide_;
  std::optional<WaitingGlu> glu_;
  std::optional<WaitingRotation> rotation_;
  std::optional<WaitingSum> sum_;
  ZeroedMemory stage_workspace_, attend_counters_, lora_memory_, chain_counters_, batch_counters_;
};

}  // namespace bumblebee::cuda
