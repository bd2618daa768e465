// The operations of the CPU backend: each picks a partition, runs it on the pool and calls kernels.
#pragma once

#include <map>
#include <vector>

#include "backend/backend.h"
#include "backend/counted_bytes.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/kv.h"
#include "backend/cpu/memory.h"
#include "backend/cpu/placement.h"
#include "backend/cpu/row_sampler.h"
#include "base/thread_pool.h"

namespace bumblebee::cpu {

struct SoftmaxState;  // attention_span.h

/// A weight used straight from its stored bytes (decision 4): `host` keeps the mapping alive.
struct CpuWeight final : PackedWeight {
  HostWeight host;
  WeightRows rows;
  CountedBytes counted;
};

/// How the fast mode multiplies by a weight; by others as the exact one: codes of eight bits that are floats, and
/// groups that are less than a block, suit no product of bytes.
inline bool uses_int8(const WeightRows& w) { return w.bits != 0 && (!w.floats || (w.bits == 4 && w.group == 32)); }
inline bool uses_bf16(const WeightRows& w) { return w.bits == 0 && w.element == Element::bf16; }

/// One weight for each expert, or head.
struct CpuStack final : PackedWeight {
  std::vector<Weight> experts;
};
inline const WeightRows& rows_of(const Weight& stack, int expert) {
  const auto& all = static_cast<const CpuStack&>(*stack.packed);
  return static_cast<const CpuWeight&>(*all.experts[size_t(expert)].packed).rows;
}

class CpuOps final : public Ops {
  friend class CpuGradOps;  // the same threads, memory, batch, tables and plans

 public:
  CpuOps(const Kernels& kernels, ThreadPool& threads, std::shared_ptr<Pool> memory, bool fast);

  void bind(const Batch& batch, const Tensor& chosen);
  SlotTable& slots() { return slots_; }
  const RowPartition& partition() const { return partition_; }

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
  void split(const Tensor& x, const SplitParams& split, std::span<Tensor> y) override;
  Tensor causal_conv(KvStore& kv, int layer, const Tensor& x, const ConvParams& conv) override;
  Tensor delta_rule(KvStore& kv, int layer, const Tensor& qkv, const Tensor& a, const Tensor& b,
                    const DeltaParams& delta) override;
  Tensor glu(Activation activation, Tensor gate, Tensor up) override;
  void multiply(Tensor& x, float factor) override;
  void soft_cap(Tensor& x, float cap) override;
  Tensor columns(const Tensor& x, int first, int count) override;
  Routing route(const Tensor& logits, const RouterParams& router) override;
  void matmul_experts(const Tensor& x, ExpertRows rows, const Routing& routing, std::span<const Weight* const> stacks,
                      std::span<Tensor> y) override;
  void add_expert_bias(Tensor& y, const Routing& routing, const Tensor& bias) override;
  void lora_heads(const Tensor& x, int site, int heads, int rest, Tensor& y) override;
  void lora_experts(const Tensor& x, ExpertRows rows, const Routing& routing, std::span<const int> sites,
                    std::span<Tensor> y) override;
  Tensor sum_experts(const Tensor& y, const Routing& routing) override;
  Tensor matmul_heads(const Tensor& x, const Weight& heads, bool transposed, int rest) override;
  Tensor gate_rows(Tensor y, const Tensor& gate) override;
  Tensor gather_rows(const Tensor& x) override;
  void keep_logit_rows() override;
  Sampled sample(const Tensor& logits) override;
  Tensor copy(const Tensor& x) override;

 private:
  /// x as the fast mode's kernels take it, in one layout; memory is kept from call to call.
  struct QuantizedInt8 {
    explicit QuantizedInt8(QuantLayout l) : layout(l) {}
    /// For `row_count` rows that meet a weight together, or in runs of more rows than Kernels::direct_rows (`lanes`) or
    /// of at most so many.
    void make_room(int row_count, int cols, bool lanes, const Kernels& kernels);
    QuantRow row(int r) { return row_of_run(0, count, r); }
    /// Row r of `rows_in_run` rows that begin at `first` and meet a weight together.
    QuantRow row_of_run(int first, int rows_in_run, int r);
    QuantRows run(int first) const;
    void copy(const QuantRow& from, const QuantRow& to) const;
    QuantLayout layout;
    AlignedBytes values;
    size_t value_bytes = 0;
    int count = 0;
    bool by_lane = false, has_high = false;
    std::vector<float> scales, sums;
    std::vector<Outlier> outliers;
    std::vector<uint8_t> high_shifts;
    AlignedBytes tiles;
    size_t tile_bytes = 0;
    QuantRows rows;
  };
  /// What is quantized now. Operations whose result a product reads next quantize it row by row while it is in the
  /// cache, as the last product of that width wanted it; `source` keeps the result, so that no other tensor can take
  /// its place.
  struct QuantizedInput {
    std::vector<QuantizedInt8> int8;
    std::vector<uint16_t> bf16;
    std::map<int, std::vector<QuantLayout>> layouts;  // by columns of x
    Tensor source;
    std::vector<QuantLayout> done;
    QuantizedInt8& of(const QuantLayout& layout);
    const QuantRows& rows(const QuantLayout& layout) const;
  };
  struct AttentionTask;
  /// Assignments of one expert, which follow each other.
  struct ExpertRun {
    int expert = 0, first = 0, count = 0;
    int place = 0;  // of the first among those that are quantized in the same way
    bool many = false;
  };
  struct ExpertPlan {
    std::vector<ExpertRun> runs;
    std::vector<int> run_of, row_of;    // [assignments] in runs, in the batch
    const int32_t* assigned = nullptr;  // [rows, top_k] Routing::order
    int top_k = 1;
    int few = 0, many = 0;  // assignments of either kind
  };
  /// Rows of x in the forms that kernels take; those that a weight does not need are empty.
  struct ProductRows {
    FloatRows floats;
    QuantRows int8;
    const uint16_t* bf16 = nullptr;
    size_t bf16_stride = 0;
    int count = 0;
  };

  Tensor make_writable(Tensor& t);
  void for_rows(int rows, int work_per_row, FunctionRef<void(int row)> body);
  /// Parts of rows that can be rounded to int8 by themselves, as many as keep the threads busy.
  void for_parts(int rows, int cols, FunctionRef<void(int row, int first, int last)> body);
  /// The same for ranges of columns, of what has few rows or none that could go first.
  void for_cols(int work_per_col, int cols, FunctionRef<void(int first, int last)> body);
  void quantize_input(const Tensor& x, std::span<const MatmulTerm> terms);
  /// Lays quantized x out as tiles too where a weight is multiplied so. Returns the weight rows that a piece of the
  /// product should have at least.
  int64_t tile_input(const Tensor& x, std::span<const MatmulTerm> terms);
  void begin_quantizing(const Tensor& y);
  /// Inputs [first, last) of a row, as begin_quantizing() found that they are wanted.
  void quantize_part(const Tensor& y, int r, int first, int last);
  void quantize_rows(const Tensor& y);
  /// The rows of y, which body() makes, and what begin_quantizing() wants of them.
  void make_rows(const Tensor& y, FunctionRef<void(int row)> body);
  /// y [x.count, ...] = x·Wᵀ for the weight rows [first, last).
  void multiply(const ProductRows& x, const WeightRows& w, float* y, size_t stride, int first, int last, int thread);
  void multiply_panels(const ProductRows& x, const WeightRows& w, float* y, size_t stride, int first, int last,
                       int thread);
  ExpertPlan plan_experts(const Routing& routing, int experts) const;
  void quantize_experts(const Tensor& x, ExpertRows rows, const ExpertPlan& plan, const QuantLayout& layout);
  /// What products of stacks read of x: quantized and rounded rows, and those that stay f32, in order of assignments.
  void prepare_experts(const Tensor& x, ExpertRows rows, const ExpertPlan& plan, std::span<const Weight* const> stacks);
  ProductRows rows_of_run(const ExpertRun& run, const WeightRows& w) const;
  struct LoraWork;
  int32_t slot_of(RowSet rows, int r) const;
  LoraWork lora_work(const Tensor& x, RowSet rows, std::span<const LoraModule> modules);
  void lora_shrink(const Tensor& x, const LoraWork& work);
  void lora_finish(const LoraWork& work, size_t m, const LoraModule& module, RowSet rows, const Tensor& y, int first,
                   int last);
  void lora_replace(const Tensor& x, const LoraWork& work, const LoraModule& module, Tensor& y);
  struct ExpertLora;
  std::vector<ExpertLora> expert_lora(const Tensor& x, ExpertRows rows, const Routing& routing,
                                      std::span<const int> sites);
  /// Rows of x that adapters of several rows of one expert read, where they do not follow each other.
  void gather_expert_lora(const Tensor& x, const std::vector<int>& row_of, std::vector<ExpertLora>& runs);
  /// Cosines and sines of one rope at the bound batch's positions.
  struct RopeTable {
    RopeParams rope;
    bool valid = false;
    std::vector<float> cos, sin;      // [rows, dims/2]
    std::vector<float> negative_sin;  // -sin, once a gradient was rotated back
  };
  RopeTable& rope_table(const RopeParams& rope);
  /// The same as Kernels::rotate, in pairs (2i, 2i + 1).
  static void rotate_pairs(float* head, const float* cos, const float* sin, int half);
  void rotate_heads(Tensor& t, int head_dim, const NormParams* norm, const RopeParams& rope, const RopeTable& table);
  /// RopeParams::query_growth. q is its caller's to write.
  void grow_queries(Tensor& q, const RopeParams& rope);
  /// To be called before t is changed in place: what was quantized from it is no longer so.
  void forget_quantized(const Tensor& t);
  void append_kv(CpuKv& kv, int layer, const Tensor& k, const Tensor& v, const AttentionParams& a);
  struct PageRows;
  /// One head's keys and values of these rows; `key` is room for one.
  void append_head(const CpuKv& kv, int layer, int head, const PageRows& to, const Tensor& k, const Tensor& v,
                   const AttentionParams& a, std::byte* key);
  void append_latents(const CpuKv& kv, int layer, int head, const PageRows& to, const Tensor& k,
                      const AttentionParams& a);
  /// Keys and queries of length one (queries divided by the root of key_dim as well), their products, decay and beta of
  /// each row, head by head: a stripe reads what its head has of all rows, and rows of the model's width apart would
  /// fall on the same few lines of the caches, each in a page of its own.
  struct DeltaRows {
    Tensor qk;     // [key_heads·rows, 2·key_dim]
    Tensor meet;   // [key_heads, rows]
    Tensor gates;  // [value_heads·rows, 2]
    int rows = 0;
    float* qk_of(int key_head, int r) const { return row(qk, key_head * rows + r); }
    float* gates_of(int head, int r) const { return row(gates, head * rows + r); }
  };
  DeltaRows delta_rows(const Tensor& qkv, const Tensor& a, const Tensor& b, const DeltaParams& delta);
  /// The rule for a segment's rows and the columns of a head from `first` on, but for its states.
  static DeltaRule delta_stripe(const DeltaRows& rows, const Tensor& qkv, const Tensor& y, const DeltaParams& delta,
                                const Segment& segment, int head, int first);
  /// Scores [vectors, page_size] of q with the first `tokens` keys of a page of latents, which it returns as f32
  /// [tokens, head_dim]: as they lie, or in `wide`.
  const float* latent_scores(const CpuKv& kv, int layer, int head, int page, int tokens, const float* q, int vectors,
                             const AttentionParams& a, float* wide, float* scores);
  /// How keys and values of a layer meet queries and weights.
  enum class Meeting : uint8_t {
    floats,   // f32, f16, and bf16 where no instruction multiplies it: widened in registers
    pairs,    // bf16 in pairs, in fast precision: queries are two bf16 numbers, weights one
    words,    // int8 in pairs, in fast precision: both are words of 16 bits
    parted,   // int8 in pairs, in exact precision: a page is widened to f32
    latents,  // values are a part of keys
  };
  Meeting meeting(const CpuKv& kv, const AttentionParams& a) const;
  struct SpanRoom;
  struct SpanWork;  // attention_span.cpp, as are the five after attention_tasks()
  std::vector<AttentionTask> attention_tasks(Meeting meeting, const AttentionParams& a) const;
  void prepare_queries(Meeting meeting, int vectors, int dim, const SpanRoom& room);
  /// One span of a task, for the queries of `room`; state is overwritten.
  void attend_span(const CpuKv& kv, int layer, const AttentionParams& a, const AttentionTask& task, int span,
                   const SpanRoom& room, const SoftmaxState& state);
  void stream_parts(const SpanWork& work, int parts);
  void meet_keys(const SpanWork& work, int i, int slot, const std::byte* next);
  void weigh(const SpanWork& work, int i, int slot, int v);
  void meet_values(const SpanWork& work, int i, int slot, const std::byte* next);
  /// In how many pieces each thread's share of `rows` rows of weights is handed out: each has `grain` rows or more
  /// where the share does.
  int pieces_of(int64_t rows, int64_t grain) const;
  /// 64-byte aligned, uninitialised; valid until the thread asks again.
  std::span<float> scratch(int thread, size_t floats);

  const Kernels& k_;
  ThreadPool& threads_;
  RowPartition partition_;  // of matrix products
  std::shared_ptr<Pool> memory_;
  bool fast_;
  Batch batch_;
  SlotTable slots_;
  QuantizedInput quantized_;
  /// The same for products of experts, of the one that runs.
  struct ExpertInput {
    QuantizedInput few, many;
    std::vector<uint16_t> bf16;
    Tensor floats;
    bool one = false;  // a single row, which all experts share
  } expert_input_;
  struct Scratch {
    AlignedBytes bytes;
    size_t floats = 0;
  };
  std::vector<Scratch> scratch_;        // per thread
  std::vector<RopeTable> rope_tables_;  // of as many ropes as a model has
  std::vector<float> lora_u_;           // A x of every run and term
  std::vector<float> lora_x_;           // rows of x that adapters of an expert read together
  std::vector<float> span_states_;      // of spans that are joined later
  std::vector<RowSampler> samplers_;    // per thread, or per row where there are fewer
  std::vector<int> sampled_rows_;       // rows that ask for a choice
};

}  // namespace bumblebee::cpu
