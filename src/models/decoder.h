// The one pre-norm decoder: RMSNorm, grouped causal attention with rotary positions, SwiGLU, optional biases, head
// norms and windows, and experts in place of the MLP. Llama, Mistral, Qwen2 and Qwen3, Mixtral and Qwen's mixtures of
// experts differ from each other only in what a spec can say; each has a file that reads its config.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "nn/loader.h"
#include "nn/model.h"

namespace bumblebee::models {

/// Experts in place of an MLP.
struct MoeSpec {
  std::vector<bool> layers;  // which have them; empty: none
  RouterParams router;
  int d_ff = 0;         // inner width of an expert
  int shared_d_ff = 0;  // of one that every row passes, with a gate of its own; 0: there is none
  /// Names: of the block, and of an expert's matrices in files that have each apart.
  std::string block = "mlp", gate = "gate_proj", up = "up_proj", down = "down_proj";
};

struct DecoderSpec {
  nn::ModelDims dims;
  double eps = 1e-6;
  bool qkv_bias = false, o_bias = false, mlp_bias = false, qk_norm = false;
  MoeSpec moe;
  RopeParams rope;
  double score_scale = 1;     // Rope::score_scale, which latent attention reads
  std::vector<int> windows;   // [layers] attention window, 0 for all
  std::vector<bool> rotates;  // [layers] whether queries and keys know their positions; empty: in all
  /// Whether the config says so; otherwise the head is tied exactly when the checkpoint has no lm_head.
  bool tied_known = true;
};

class Decoder final : public nn::Model {
 public:
  Decoder(const DecoderSpec& spec, nn::Loader& load);
  Tensor forward(nn::Pass& p) const override;
  void block(nn::Pass& p, int i, nn::Residual& r) const override;

 private:
  struct Mlp {
    nn::Linear gate, up, down;
  };
  struct Moe {
    nn::Linear router;
    nn::Experts experts;
    nn::Linear shared_gate;  // with a shared expert
  };
  struct Block {
    nn::RmsNorm attn_norm, mlp_norm;
    nn::HeadNorms qk_norm;
    nn::Linear q, k, v, o;
    bool rotates = true;
    std::optional<Mlp> mlp;  // of every row: beside experts, the shared one
    std::optional<Moe> moe;
    AttentionParams attention;
  };
  static Block load_block(const DecoderSpec& spec, nn::Loader& load, int i);
  static void feed_forward(nn::Pass& p, const Block& b, nn::Residual& r);
  static Moe load_moe(const DecoderSpec& spec, nn::Loader& load, const std::string& at);
  static Tensor mlp(nn::Pass& p, const Mlp& m, Tensor gate, Tensor up);

  RopeParams rope_;
  nn::Embedding embedding_;
  std::vector<Block> blocks_;
  nn::RmsNorm final_norm_;
  nn::Linear head_;
};

}  // namespace bumblebee::models
