// Small random decoders in memory: a config as a checkpoint would have it, and every weight the model asks for.
#pragma once

#include <nlohmann/json.hpp>

#include <string>

#include "base/json.h"
#include "tests/support/memory_weights.h"

namespace bumblebee::testing_support {

struct TinyModel {
  std::string family = "qwen3";  // llama, mistral, mixtral, qwen2, qwen2_moe, qwen3, qwen3_moe, deepseek_v2 (with
                                 // kv_b_proj), deepseek_v3 (with its halves)
  int layers = 2, d_model = 64, heads = 4, kv_heads = 2, head_dim = 16, d_ff = 96, vocab = 80;
  int window = 0;  // every layer's attention window
  bool tied = false;
  Format format = Format::dense(DType::f32);  // of all matrices
  uint64_t seed = 1;
  int experts = 8, of_row = 3;  // of families that have them; their inner width is d_expert
  int d_expert = 32;
  bool normalised = true;  // weights of a row's experts
  bool apart = false;      // a module for each expert, as Hugging Face's files have them

  bool has_experts() const { return family == "mixtral" || family.ends_with("_moe") || has_latents(); }
  bool has_latents() const { return family.starts_with("deepseek"); }
  static constexpr int kRank = 64, kNope = 64, kValue = 32;  // of latents, and of their heads
  /// config.json as Hugging Face writes it.
  Json config() const;
  /// All tensors, under Hugging Face's names. Sizes are chosen so that attention is sharp and norms and biases matter.
  MemoryWeights weights() const;

 private:
  void add_latents(MemoryWeights& weights, Random& random, const std::string& at) const;
  void add_experts(MemoryWeights& weights, Random& random, const std::string& at) const;
};

}  // namespace bumblebee::testing_support
