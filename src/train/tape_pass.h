// The interpreter that remembers: runs a model over a packed batch, adds up the loss of the scored rows, and goes back
// to the gradients of the trained factors. A tape of coarse operations, each with the backward pass of GradOps; no
// general differentiation: a word that cannot be differentiated is refused. Ten rules cover the decoders (docs/
// architecture.md, "Training").
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "backend/grad_ops.h"
#include "nn/model.h"
#include "nn/pass.h"
#include "train/lora_params.h"

namespace bumblebee::train {

struct TapeOptions {
  bool learn = true;               // dropout, and a tape; false: the loss alone
  bool checkpoint_layers = false;  // keeps a layer's input only, and computes the layer again on the way back
  uint64_t seed = 0;               // of dropout
  uint32_t step = 0;               // of the run: another one has other masks
};

/// One forward and one backward pass over the batch that is bound to `backend`; its segments have no past.
class TapePass final : public nn::Pass {
 public:
  /// `targets` [rows]: the token that each row is to predict, negative where nothing is scored.
  TapePass(Backend& backend, LoraParams& params, std::span<const int32_t> targets, const TapeOptions& options);

  /// Runs the model. Returns the sum of the scored rows' losses in nats.
  double forward(const nn::Model& model);
  /// [rows] losses, 0 where nothing is scored.
  std::span<const float> losses() const { return losses_; }
  /// Adds the gradients of the sum to those of `params`. Once, after forward() with `learn`.
  void backward();

  nn::Residual embed(const nn::Embedding& embedding) override;
  Tensor norm(nn::Residual& residual, const nn::RmsNorm& norm) override;
  Tensor normalise(const Tensor& x, const nn::RmsNorm& norm) override;
  Tensor lookup(const nn::Embedding& table) override;
  using Pass::linear;
  void linear(const Tensor& x, std::span<const nn::Linear* const> linears, std::span<Tensor> y) override;
  void norm_rope(Tensor& q, Tensor& k, int head_dim, const nn::HeadNorms& norms, const RopeParams& rope) override;
  Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionParams& attention) override;
  Tensor glu(Activation activation, Tensor gate, Tensor up) override;
  /// Nobody comes to these: require_trainable() refuses before.
  void split(const Tensor& x, const SplitParams& split, std::span<Tensor> y) override;
  Tensor causal_conv(const Tensor& x, const ConvParams& conv) override;
  Tensor delta_rule(const Tensor& qkv, const Tensor& a, const Tensor& b, const DeltaParams& delta) override;
  Tensor experts(const Tensor& x, const Tensor& scores, const nn::Experts& experts) override;
  Tensor matmul_heads(const Tensor& x, const nn::HeadLinear& heads, int rest) override;
  Tensor gate_rows(Tensor y, const Tensor& gate) override;
  Tensor scale(Tensor x, float factor) override;
  Tensor add(Tensor a, Tensor b) override;
  Tensor columns(const Tensor& x, int first, int count) override;
  /// Nobody comes here, as with experts.
  Tensor soft_cap(Tensor x, float cap) override;
  /// Returns nothing: logits of all rows never exist.
  Tensor head(nn::Residual& residual, const nn::RmsNorm& norm, const nn::Linear& head) override;
  void layer(const nn::Model& model, int i, nn::Residual& residual) override;
  void flush_residual(nn::Residual& residual) override;

 private:
  /// Activations are known by where they begin. One that is freed and used again is no trouble: its next owner is
  /// younger, so on the way back all of its gradient has been taken before the older one's comes.
  using Key = std::pair<const Buffer*, size_t>;
  static Key key(const Tensor& tensor) { return {tensor.buffer().get(), tensor.offset_bytes()}; }

  struct Term {
    const nn::Linear* linear = nullptr;
    TrainedModule* module = nullptr;
    Key y = {};
    bool needed = false;  // a gradient flows into y
    Tensor u;             // A drop(x) [rows, rank]
    Tensor scaled;        // DoRA: y before the bias [rows, out]
  };
  void apply(const Tensor& x, Term& term, Tensor& y);
  /// What linear() keeps of its input: what is cheap to make again is not kept.
  using Input = std::function<Tensor()>;
  Input input(const Tensor& x) const;
  void linear_back(const Tensor& x, Key x_key, bool x_needed, std::vector<Term>& terms);
  void module_back(const Tensor& x, Term& term, const Tensor& dy, Tensor& dx);
  Tensor dropped(const Tensor& x, int site) const;
  void add_gradient(const Tensor& gradient, const Tensor& sum);

  /// Assignments of one expert, which follow each other.
  struct ExpertRun {
    int expert = 0, first = 0, count = 0;
  };
  struct ExpertStep {
    Routing routing;
    std::vector<ExpertRun> runs;  // where factors are trained
  };
  struct ExpertTerm {
    const nn::ExpertLinear* stack = nullptr;
    TrainedModule* module = nullptr;
    Tensor u = {};  // A drop(x) [rows·top_k, rank]
  };
  std::vector<ExpertRun> runs_of(const Routing& routing, int experts) const;
  static Tensor of_expert(const Tensor& factors, int expert, int experts);
  Tensor expert_input(const Tensor& x, ExpertRows rows, const Routing& routing, int site) const;
  void apply_experts(const Tensor& x, ExpertRows rows, const ExpertStep& step, ExpertTerm& term, Tensor& y);
  /// Adds to the module's gradients; `through`, unless null, becomes that of its input by assignment, before dropout.
  void expert_module_back(const Tensor& x, ExpertRows rows, const ExpertStep& step, const ExpertTerm& term,
                          const Tensor& dy, Tensor* through);
  Tensor expert_products_back(const Tensor& x, ExpertRows rows, const ExpertStep& step,
                              std::span<const ExpertTerm> terms, std::span<const Tensor> dy, bool x_needed);

  bool needs(const Tensor& tensor) const { return needed_.contains(key(tensor)); }
  void set_needs(const Tensor& tensor, bool needed);
  void record(std::function<void()> back) { tape_.push_back(std::move(back)); }
  /// The gradient of an activation, which is whole now; empty when none came.
  Tensor consume(Key of);
  void accumulate(Key to, Tensor gradient);
  void unwind();

  Backend& backend_;
  Ops& ops_;
  GradOps& grad_;
  LoraParams& params_;
  std::span<const int32_t> targets_;
  TapeOptions options_;
  bool recording_ = false;
  double loss_ = 0;
  std::vector<float> losses_;
  std::vector<std::function<void()>> tape_;
  std::map<Key, Tensor> gradients_;
  std::set<Key> needed_;
  std::map<Key, Input> recompute_;  // how to make an activation again from what others keep anyway
};

}  // namespace bumblebee::train
