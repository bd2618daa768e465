// Gemma 2 and 3, text: norms after a block's parts as well as before them, whose weights are stored less 1; the
// embedding times the root of its width; gelu; layers with a window and layers without, each kind with a rotation of
// its own. Gemma 2 caps scores and logits, Gemma 3 norms queries and keys per head.
#pragma once

#include <string_view>
#include <vector>

#include "base/json.h"
#include "nn/loader.h"
#include "nn/model.h"

namespace bumblebee::models {

struct GemmaSpec {
  nn::ModelDims dims;
  double eps = 1e-6;
  bool attention_bias = false, head_norms = false;
  float scale = 1;                          // of scores
  float attention_cap = 0, logits_cap = 0;  // 0: none
  std::vector<int> windows;                 // [layers]; 0: the whole past
  RopeParams full_rope, window_rope;
  bool tied_known = true;  // otherwise the head is tied exactly when the checkpoint has no lm_head
};

/// Throw as read_spec() does.
GemmaSpec read_gemma2(const Json& config, std::string_view where);
GemmaSpec read_gemma3(const Json& config, std::string_view where);

/// sqrt(width) as these models multiply by it: in the type of the table's elements or scales.
float embedding_scale(const nn::Embedding& table, int width);

class Gemma final : public nn::Model {
 public:
  Gemma(const GemmaSpec& spec, nn::Loader& load);
  Tensor forward(nn::Pass& p) const override;
  void block(nn::Pass& p, int i, nn::Residual& r) const override;

 private:
  struct Block {
    nn::RmsNorm attention_norm, after_attention, mlp_norm, after_mlp;
    nn::HeadNorms head_norms;
    nn::Linear q, k, v, o, gate, up, down;
    AttentionParams attention;
  };
  static Block load_block(const GemmaSpec& spec, nn::Loader& load, int i);

  RopeParams full_rope_, window_rope_;
  float embedding_scale_, logits_cap_;
  nn::Embedding embedding_;
  std::vector<Block> blocks_;
  nn::RmsNorm final_norm_;
  nn::Linear head_;
};

}  // namespace bumblebee::models
