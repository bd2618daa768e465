// GLM-4 of 2025, dense: norms after a block's parts as well as before them, and the first half of a head rotates in
// pairs of neighbours.
#pragma once

#include <string_view>
#include <vector>

#include "models/config_reader.h"

namespace bumblebee::models {

/// Throws as read_spec() does.
DecoderSpec read_glm4(const Json& config, std::string_view where);

class Glm4 final : public nn::Model {
 public:
  Glm4(const DecoderSpec& spec, nn::Loader& load);
  Tensor forward(nn::Pass& p) const override;
  void block(nn::Pass& p, int i, nn::Residual& r) const override;

 private:
  struct Block {
    nn::RmsNorm attention_norm, after_attention, mlp_norm, after_mlp;
    nn::Linear q, k, v, o, gate_up, down;
  };
  static Block load_block(const DecoderSpec& spec, nn::Loader& load, int i);

  RopeParams rope_;
  AttentionParams attention_;
  SplitParams halves_;
  nn::Embedding embedding_;
  std::vector<Block> blocks_;
  nn::RmsNorm final_norm_;
  nn::Linear head_;
};

}  // namespace bumblebee::models
