// The one pre-norm decoder: RMSNorm, grouped causal attention with rotary positions, SwiGLU, optional biases, head
// norms and windows. Llama, Mistral, Qwen2 and Qwen3 differ from each other only in what a spec can say; each has a
// file that reads its config.
#pragma once

#include <memory>
#include <vector>

#include "nn/loader.h"
#include "nn/model.h"

namespace bumblebee::models {

struct DecoderSpec {
  nn::ModelDims dims;
  double eps = 1e-6;
  bool qkv_bias = false, o_bias = false, mlp_bias = false, qk_norm = false;
  RopeParams rope;
  std::vector<int> windows;  // [layers] attention window, 0 for all
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
    nn::Linear q, k, v, o, gate, up, down;
    AttentionParams attention;
  };
  static Block load_block(const DecoderSpec& spec, nn::Loader& load, int i);

  RopeParams rope_;
  nn::Embedding embedding_;
  std::vector<Block> blocks_;
  nn::RmsNorm final_norm_;
  nn::Linear head_;
};

}  // namespace bumblebee::models
