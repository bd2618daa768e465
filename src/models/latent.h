// Decoders with multi-head latent attention (DeepSeek-V2): what a layer caches of a token is one vector for all heads,
// the latent that keys and values are made of, and the features of keys that are rotated. Queries are taken to the
// latent's space, and what attention gives is taken back from it, so that keys and values never exist. With shared and
// routed experts in place of most MLPs.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "models/config_reader.h"

namespace bumblebee::models {

struct LatentSpec {
  nn::ModelDims dims;
  double eps = 1e-6;
  int q_rank = 0;  // of the latent of queries; 0: they have none
  int kv_rank = 0;
  int nope_dim = 0, rope_dim = 0, value_dim = 0;  // of a head: features of keys that do not rotate and do, of values
  float scale = 1;                                // of scores
  RopeParams rope;                                // of heads in the latent's space
  bool attention_bias = false, mlp_bias = false;
  std::vector<bool> sparse;  // [layers] which have experts
  RouterParams router;
  bool corrected = false;             // whether choices have a bias of their own
  int d_expert = 0, shared_d_ff = 0;  // inner widths; 0: no shared expert
  int further_layers = 0;             // that guess tokens ahead, and are left out
  bool tied_known = true;             // as in DecoderSpec
};

/// Throw as read_spec().
LatentSpec read_deepseek_v2(const Json& config, std::string_view where);
LatentSpec read_deepseek_v3(const Json& config, std::string_view where);
LatentSpec read_glm4_moe_lite(const Json& config, std::string_view where);

class Latent final : public nn::Model {
 public:
  Latent(const LatentSpec& spec, nn::Loader& load);
  Tensor forward(nn::Pass& p) const override;
  void block(nn::Pass& p, int i, nn::Residual& r) const override;

 private:
  struct Mlp {
    nn::Linear gate, up, down;
  };
  struct Moe {
    nn::Linear router;
    nn::Experts experts;
  };
  struct Block {
    nn::RmsNorm attn_norm, mlp_norm;
    std::optional<nn::Linear> q_a;
    nn::RmsNorm q_norm;  // with q_a
    nn::Linear q, kv, o;
    nn::HeadNorms norms;
    nn::HeadLinear embed_q, unembed_out;
    std::optional<Mlp> mlp;  // of every row: beside experts, the shared one
    std::optional<Moe> moe;
  };
  Block load_block(nn::Loader& load, int i) const;
  void load_attention(nn::Loader& load, const std::string& at, Block& b) const;
  Moe load_moe(nn::Loader& load, const std::string& at) const;
  Tensor attend(nn::Pass& p, const Block& b, const Tensor& h) const;
  static Tensor mlp(nn::Pass& p, const Mlp& m, Tensor gate, Tensor up);

  LatentSpec spec_;
  AttentionParams attention_;
  nn::Embedding embedding_;
  std::vector<Block> blocks_;
  nn::RmsNorm final_norm_;
  nn::Linear head_;
};

}  // namespace bumblebee::models
