// The decoder of Qwen3-Next, 3.5 and 3.6: most layers are gated delta nets, which keep a state in place of keys and
// values, every fourth or so is gated attention; an MLP or experts after each.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "models/decoder.h"
#include "nn/loader.h"
#include "nn/model.h"

namespace bumblebee::models {

class Hybrid final : public nn::Model {
 public:
  /// `spec.delta` is there.
  Hybrid(const DecoderSpec& spec, nn::Loader& load);
  Tensor forward(nn::Pass& p) const override;
  void block(nn::Pass& p, int i, nn::Residual& r) const override;

 private:
  struct DeltaNet {
    nn::Linear qkv, z, b, a;  // of their own
    nn::Linear qkvz, ba;      // or together, key head by key head
    ConvParams conv;
    DeltaParams rule;
    nn::RmsNorm norm;
    nn::Linear out;
  };
  struct Attention {
    nn::Linear q, k, v, o;  // q with a gate for each of its features
    nn::HeadNorms norms;
  };
  struct Block {
    nn::RmsNorm norm, mlp_norm;
    std::optional<DeltaNet> delta;  // or
    Attention attention;
    FeedForward feed_forward;
  };
  DeltaNet load_delta(nn::Loader& load, const std::string& at, ConvParams conv) const;
  Attention load_attention(nn::Loader& load, const std::string& at, float offset) const;
  Tensor delta_net(nn::Pass& p, const DeltaNet& d, const Tensor& h) const;
  Tensor attention(nn::Pass& p, const Attention& a, const Tensor& h) const;

  DecoderSpec spec_;
  AttentionParams attention_;
  SplitParams split_q_, split_qkvz_, split_ba_;
  nn::Embedding embedding_;
  std::vector<Block> blocks_;
  nn::RmsNorm final_norm_;
  nn::Linear head_;
};

}  // namespace bumblebee::models
