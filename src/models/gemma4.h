// Gemma 4, text. As Gemma 3, and: layers without a window have heads of another size and number; the last layers read
// the keys and values of an earlier layer of their kind; values are normed; keys may serve as values; every layer adds
// what a table of its own and the embedding give for the token (per-layer embeddings), in the small models; experts
// beside the MLP, in one of the large ones.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "models/gemma.h"
#include "nn/loader.h"
#include "nn/model.h"

namespace bumblebee::models {

struct Gemma4Spec {
  nn::ModelDims dims;  // heads and width of layers with a window
  double eps = 1e-6;
  bool attention_bias = false;
  int full_head_dim = 0, full_kv_heads = 0;  // of layers without one
  bool keys_are_values = false;              // in those
  std::vector<int> windows;                  // [layers]; 0: the whole past
  int shared_from = 0;                       // layers from here on have no keys and values of their own
  bool double_wide = false;                  // their MLPs have twice the width
  RopeParams full_rope, window_rope;
  int aside = 0, aside_vocab = 0;  // width of a layer's own embedding, and rows of its table; 0: there is none
  float logits_cap = 0;
  RouterParams router;  // no experts: there are none
  int d_expert = 0;
  bool tied_known = true;

  /// The layer whose keys and values layer i reads: itself, or the last of its kind that has some.
  int source(int i) const;
};

/// Throws as read_spec() does.
Gemma4Spec read_gemma4(const Json& config, std::string_view where);

class Gemma4 final : public nn::Model {
 public:
  Gemma4(const Gemma4Spec& spec, nn::Loader& load);
  Tensor forward(nn::Pass& p) const override;
  void block(nn::Pass& p, int i, nn::Residual& r) const override;

 private:
  struct Attention {
    nn::Linear q, k, v, o;  // k and v are empty where another layer's are read, v where keys are values
    nn::HeadNorms norms;
    nn::RmsNorm v_norm;
    bool own = true, keys_are_values = false;
    AttentionParams params;
  };
  struct Moe {
    nn::RmsNorm router_norm, norm, after, after_mlp;
    nn::Linear router;
    nn::Experts experts;
  };
  struct Aside {
    nn::Linear gate, projection;
    nn::RmsNorm after;
  };
  struct Block {
    nn::RmsNorm attention_norm, after_attention, mlp_norm, after_mlp;
    Attention attention;
    nn::Linear gate, up, down;
    std::optional<Moe> moe;
    std::optional<Aside> aside;
    float scale = 1;  // of the stream at the block's end
  };
  struct AsideTable {
    nn::Embedding table;
    nn::Linear projection;
    nn::RmsNorm norm;
    float scale = 1;  // of the table's rows
  };
  Block load_block(const Gemma4Spec& spec, nn::Loader& load, int i) const;
  static Attention load_attention(const Gemma4Spec& spec, nn::Loader& load, const std::string& at, int i);
  static Moe load_moe(const Gemma4Spec& spec, nn::Loader& load, const std::string& at);
  void set_caches(const Gemma4Spec& spec);
  Tensor made_aside(nn::Pass& p, const Tensor& x) const;
  Tensor attend(nn::Pass& p, const Attention& a, const Tensor& h) const;
  Tensor feed_forward(nn::Pass& p, const Block& b, nn::Residual& r) const;

  RopeParams full_rope_, window_rope_;
  float embedding_scale_ = 1, logits_cap_;
  int aside_width_;
  int shared_from_;  // layers from here on append nothing to a cache
  nn::Embedding embedding_;
  std::optional<AsideTable> aside_;
  std::vector<Block> blocks_;
  nn::RmsNorm final_norm_;
  nn::Linear head_;
};

}  // namespace bumblebee::models
