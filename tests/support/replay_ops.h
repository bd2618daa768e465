// Operations on a tape: shapes and handles while it is recorded, the reference's own operations when it is played.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "backend/batch.h"
#include "backend/stream.h"

namespace bumblebee::testing_support {

/// Values of one run of a tape, by number.
using Values = std::vector<Tensor>;

struct Tape {
  std::vector<std::function<void(Values&)>> operations;
  int values = 0;
  StepOutputs outputs;  // recorded handles
};

/// A tensor that is only a number yet.
class Recorded final : public Buffer {
 public:
  explicit Recorded(int n) : number(n) {}
  const int number;
};
inline const Recorded* recorded(const Tensor& t) { return dynamic_cast<const Recorded*>(t.buffer().get()); }

/// Fills a tensor of the reference with what no test can take for a result.
void poison(const Tensor& tensor);

class ReplayOps final : public Ops {
 public:
  explicit ReplayOps(Ops& inner) : inner_(inner) {}

  /// From here on, operations go onto the tape; null: they run at once, and what they make is remembered.
  void record(Tape* tape) { tape_ = tape; }
  void bind(int rows, int logit_rows, int logprobs) {
    rows_ = rows;
    logit_rows_ = logit_rows;
    logprobs_ = logprobs;
  }
  /// Poisons what eager operations made and somebody still holds, but `kept`.
  void end_eager(const StepOutputs& kept);

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
  Tensor matmul_heads(const Tensor& x, const Weight& heads, bool transposed, int rest) override;
  Routing route(const Tensor& logits, const RouterParams& router) override;
  void matmul_experts(const Tensor& x, ExpertRows rows, const Routing& routing, std::span<const Weight* const> stacks,
                      std::span<Tensor> y) override;
  void add_expert_bias(Tensor& y, const Routing& routing, const Tensor& bias) override;
  void lora_heads(const Tensor& x, int site, int heads, int rest, Tensor& y) override;
  void lora_experts(const Tensor& x, ExpertRows rows, const Routing& routing, std::span<const int> sites,
                    std::span<Tensor> y) override;
  Tensor sum_experts(const Tensor& y, const Routing& routing) override;
  Tensor gate_rows(Tensor y, const Tensor& gate) override;
  Tensor gather_rows(const Tensor& x) override;
  void keep_logit_rows() override;
  Sampled sample(const Tensor& logits) override;
  Tensor copy(const Tensor& x) override;

  /// The tensor that a recorded handle stands for.
  static Tensor resolve(const Values& values, const Tensor& handle);
  static Routing resolve(const Values& values, const Routing& handles);

 private:
  Tensor fresh(int rows, int cols, DType dtype = DType::f64);
  Tensor made(Tensor tensor);
  void in_place(Tensor& x, std::function<void(Tensor&)> change);
  /// A tensor that an operation replaces: in place where the handle is the last one, as a backend would.
  std::function<Tensor(Values&)> replaced(const Tensor& x) const;

  Ops& inner_;
  Tape* tape_ = nullptr;
  int rows_ = 0, logit_rows_ = 0, logprobs_ = -1;
  std::vector<std::weak_ptr<Buffer>> made_;
};

}  // namespace bumblebee::testing_support
