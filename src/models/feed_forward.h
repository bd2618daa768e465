// The second half of a decoder's layer: an MLP, or experts that a router chooses from, with or without one more that
// every row passes.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "nn/loader.h"
#include "nn/pass.h"

namespace bumblebee::models {

/// Experts in place of an MLP.
struct MoeSpec {
  std::vector<bool> layers;  // which have them; empty: none
  RouterParams router;
  int d_ff = 0;         // inner width of an expert
  int shared_d_ff = 0;  // of one that every row passes, with a gate of its own; 0: there is none
  bool bias = false;    // the router and all matrices of experts have one
  Activation activation = Activation::silu;
  /// Names: of the block, its router and its stacks, and of an expert's matrices in files that have each apart.
  std::string block = "mlp", router_name = "gate", stack = "switch_mlp";
  std::string gate = "gate_proj", up = "up_proj", down = "down_proj";
  std::string correction = {};  // a vector of the block that is added to scores for the choice; empty: there is none
};

/// The MLP of a layer without experts.
struct MlpSpec {
  int d_ff = 0;
  bool bias = false;
  bool fused = false;  // gate and up are one matrix, gate_up
  /// Names: of the block and of its matrices.
  std::string block = "mlp", gate = "gate_proj", up = "up_proj", down = "down_proj", gate_up = "gate_up_proj";
};

class FeedForward {
 public:
  FeedForward() = default;
  /// Of layer i, whose modules' names begin with `at`. What it adds is multiplied by `factor`.
  FeedForward(const MoeSpec& moe, const MlpSpec& mlp, nn::Loader& load, int i, const std::string& at, int d_model,
              float factor = 1);
  /// Adds what the rows of norm(r) give to r.
  void operator()(nn::Pass& p, const nn::RmsNorm& norm, nn::Residual& r) const;

 private:
  struct Mlp {
    nn::Linear gate, up, down;
    std::optional<nn::Linear> gate_up;  // in place of the first two
    SplitParams halves;
  };
  struct Moe {
    nn::Linear router;
    nn::Experts experts;
    nn::Linear shared_gate;  // with a shared expert
  };
  static Moe load_moe(const MoeSpec& moe, nn::Loader& load, const std::string& at, int d_model);
  static Tensor run(nn::Pass& p, const Mlp& m, Tensor gate, Tensor up);
  void add(nn::Pass& p, nn::Residual& r, Tensor y) const;

  std::optional<Mlp> mlp_;  // of every row: beside experts, the shared one
  std::optional<Moe> moe_;
  float factor_ = 1;
};

}  // namespace bumblebee::models
