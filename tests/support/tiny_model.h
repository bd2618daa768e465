// Small random decoders in memory: a config as a checkpoint would have it, and every weight the model asks for.
#pragma once

#include <nlohmann/json.hpp>

#include <string>

#include "base/json.h"
#include "tests/support/memory_weights.h"

namespace bumblebee::testing_support {

struct TinyModel {
  /// deepseek_v2 (with kv_b_proj), deepseek_v3 (with its halves); glm4, gpt_oss, granite, lfm2, llama, ministral3,
  /// mistral, mixtral, olmo2, olmo3, phi3, qwen2, qwen2_moe, qwen3, qwen3_5, qwen3_5_moe, qwen3_moe, qwen3_next,
  /// smollm3 (whose every second layer does not rotate here); gemma2, gemma3, gemma4, and gemma4_moe with experts and
  /// keys that are values. Every second layer of a Gemma sees everything; half of the layers of a gemma4 share keys and
  /// values, where there are four of them.
  std::string family = "qwen3";
  int layers = 2, d_model = 64, heads = 4, kv_heads = 2, head_dim = 16, d_ff = 96, vocab = 80;
  int window = 0;  // every layer's attention window
  bool tied = false;
  Format format = Format::dense(DType::f32);  // of all matrices
  uint64_t seed = 1;
  int experts = 8, of_row = 3;  // of families that have them; their inner width is d_expert
  int d_expert = 32;
  bool normalised = true;  // weights of a row's experts
  bool apart = false;      // a module for each expert, as Hugging Face's files have them

  /// Of hybrids: heads of their gated delta nets, which are all layers but every `interval`-th (lfm2: its
  /// convolutions).
  int key_heads = 2, value_heads = 4, key_dim = 16, value_dim = 24, interval = 2;
  bool by_torch = false;  // convolutions and norms as transformers saves them

  bool is_hybrid() const { return family.starts_with("qwen3_5") || family == "qwen3_next"; }
  bool has_experts() const {
    return family == "mixtral" || family == "gpt_oss" || family.ends_with("_moe") || family == "qwen3_next" ||
           has_latents();
  }
  bool has_latents() const { return family.starts_with("deepseek"); }
  static constexpr int kRank = 64, kNope = 64, kValue = 32;  // of latents, and of their heads
  bool has_shared() const { return family == "qwen2_moe" || (is_hybrid() && has_experts()); }
  /// config.json as Hugging Face writes it.
  Json config() const;
  /// All tensors, under Hugging Face's names. Sizes are chosen so that attention is sharp and norms and biases matter.
  MemoryWeights weights() const;

  static constexpr int kAside = 32;  // width of a gemma4 layer's own embedding
  bool is_gemma() const { return family.starts_with("gemma"); }
  /// How much larger scores are than those of the others: what a rotation multiplies queries and keys by, and what
  /// queries grow by in 53 tokens.
  double sharpness() const;
  bool is_lfm2() const { return family == "lfm2"; }
  bool is_olmo() const { return family.starts_with("olmo"); }

 private:
  void add_latents(MemoryWeights& weights, Random& random, const std::string& at) const;
  void add_delta_net(MemoryWeights& weights, Random& random, const std::string& at) const;
  MemoryWeights lfm2_weights() const;
  Json gemma_config() const;
  MemoryWeights gemma_weights() const;
  bool is_gemma4() const { return family.starts_with("gemma4"); }
  int shared_from() const { return family == "gemma4" && layers >= 4 ? layers / 2 : layers; }
  void add_experts(MemoryWeights& weights, Random& random, const std::string& at) const;
};

}  // namespace bumblebee::testing_support
