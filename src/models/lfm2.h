// LFM2, dense and with experts: most layers are a short causal convolution between two gates, which keeps its last
// inputs in place of keys and values; the others are attention with norms on the heads of queries and keys.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "models/config_reader.h"

namespace bumblebee::models {

struct Lfm2Spec {
  DecoderSpec decoder;  // which layers are convolutions say the caches
  int kernel = 3;
};

/// Throw as read_spec() does.
Lfm2Spec read_lfm2(const Json& config, std::string_view where);
Lfm2Spec read_lfm2_moe(const Json& config, std::string_view where);

class Lfm2 final : public nn::Model {
 public:
  Lfm2(const Lfm2Spec& spec, nn::Loader& load);
  Tensor forward(nn::Pass& p) const override;
  void block(nn::Pass& p, int i, nn::Residual& r) const override;

 private:
  struct ShortConv {
    nn::Linear in, out;
    ConvParams conv;
  };
  struct Attention {
    nn::Linear q, k, v, o;
    nn::HeadNorms norms;
  };
  struct Block {
    nn::RmsNorm norm, mlp_norm;
    std::optional<ShortConv> conv;  // or
    Attention attention;
    FeedForward feed_forward;
  };
  static ShortConv load_conv(const Lfm2Spec& spec, nn::Loader& load, const std::string& at);
  static Attention load_attention(const DecoderSpec& spec, nn::Loader& load, const std::string& at);
  Tensor short_conv(nn::Pass& p, const ShortConv& c, const Tensor& h) const;
  Tensor attention(nn::Pass& p, const Attention& a, const Tensor& h) const;

  RopeParams rope_;
  AttentionParams attention_;
  SplitParams thirds_;
  nn::Embedding embedding_;
  std::vector<Block> blocks_;
  nn::RmsNorm final_norm_;
  nn::Linear head_;
};

}  // namespace bumblebee::models
