// The one pre-norm decoder: RMSNorm, grouped causal attention with rotary positions, SwiGLU, optional biases, head
// norms and windows, and experts in place of the MLP. Llama, Mistral, Qwen2 and Qwen3, Mixtral and Qwen's mixtures of
// experts differ from each other only in what a spec can say; each has a file that reads its config.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "models/feed_forward.h"
#include "nn/loader.h"
#include "nn/model.h"

namespace bumblebee::models {

/// Gated delta nets in place of attention (models/hybrid.h).
struct DeltaSpec {
  int key_heads = 0, value_heads = 0, key_dim = 0, value_dim = 0;
  int kernel = 0;      // of the convolution
  bool fused = false;  // two projections, in_proj_qkvz and in_proj_ba, in place of four

  /// Columns that the convolution takes: queries, keys and values of all heads.
  int conv_cols() const { return 2 * key_heads * key_dim + value_heads * value_dim; }
};

struct DecoderSpec {
  nn::ModelDims dims;
  double eps = 1e-6;
  bool qkv_bias = false, o_bias = false, mlp_bias = false, qk_norm = false;
  bool sinks = false;  // of attention, one for each head
  bool fused = false;  // matrices that share an input are one: qkv_proj, gate_up_proj
  /// MLPs may lie as `shared_mlp`, input_linear with gate and up in one and output_linear (Granite 4).
  bool shared_mlp = false;
  /// What the embedding, the additions to the residual stream and the logits are multiplied by.
  float embedding_factor = 1, residual_factor = 1, logits_factor = 1;
  float attention_scale = 0;  // 0: 1/sqrt(head_dim)
  MoeSpec moe;
  std::optional<DeltaSpec> delta;
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
  struct Block {
    nn::RmsNorm attn_norm, mlp_norm;
    nn::HeadNorms qk_norm;
    nn::Linear q, k, v, o;
    std::optional<nn::Linear> qkv;  // in place of the first three
    bool rotates = true;
    FeedForward feed_forward;
    AttentionParams attention;
  };
  static Block load_block(const DecoderSpec& spec, nn::Loader& load, int i);

  RopeParams rope_;
  SplitParams split_qkv_;
  float embedding_factor_, residual_factor_, logits_factor_;
  nn::Embedding embedding_;
  std::vector<Block> blocks_;
  nn::RmsNorm final_norm_;
  nn::Linear head_;
};

}  // namespace bumblebee::models
