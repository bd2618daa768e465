// OLMo 2 and 3: norms follow a block's parts instead of preceding them, and queries and keys are normed over their
// whole width, before they are heads. Three layers of four of OLMo 3 have a window and the plain rotation.
#pragma once

#include <string_view>
#include <vector>

#include "models/config_reader.h"

namespace bumblebee::models {

struct OlmoSpec {
  DecoderSpec decoder;     // sizes, eps, biases, windows, and the rotation of layers without one
  RopeParams window_rope;  // of those with one
};

/// Throw as read_spec() does.
OlmoSpec read_olmo2(const Json& config, std::string_view where);
OlmoSpec read_olmo3(const Json& config, std::string_view where);

class Olmo final : public nn::Model {
 public:
  Olmo(const OlmoSpec& spec, nn::Loader& load);
  Tensor forward(nn::Pass& p) const override;
  void block(nn::Pass& p, int i, nn::Residual& r) const override;

 private:
  struct Block {
    nn::RmsNorm q_norm, k_norm, after_attention, after_mlp;
    nn::Linear q, k, v, o, gate, up, down;
    AttentionParams attention;
  };
  static Block load_block(const DecoderSpec& spec, nn::Loader& load, int i);

  RopeParams full_rope_, window_rope_;
  nn::Embedding embedding_;
  std::vector<Block> blocks_;
  nn::RmsNorm final_norm_;
  nn::Linear head_;
};

}  // namespace bumblebee::models
