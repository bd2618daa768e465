// Adapters for tiny models: random ones with every option, and the float64 dense weights that they stand for.
#pragma once

#include <string>
#include <vector>

#include "lora/adapter.h"
#include "tests/support/memory_weights.h"
#include "tests/support/tiny_model.h"

namespace bumblebee::models {

/// What a random adapter contains.
struct AdapterOptions {
  lora::Dialect dialect = lora::Dialect::mlx;
  std::vector<std::string> modules = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
  int rank = 4;
  bool dora = false, inner_bias = false;
  bool full = false;    // weights in place of factors
  bool biases = false;  // of q, k and v (Qwen2), replaced
  bool norms = false;   // all of them, replaced
  bool embedding = false, head = false;
  std::vector<std::string> experts = {};  // "gate_proj", ...: factors of these stacks
  bool single = false;                    // module by module, for every expert but the second
};

/// Deltas are about as large as the weights: what goes wrong shows.
lora::Adapter random_adapter(const testing_support::TinyModel& tiny, const AdapterOptions& options, uint64_t seed);

/// One adapter with its weight.
struct Weighted {
  const lora::Adapter* adapter = nullptr;
  float weight = 1;
};

/// The base with every change applied in double and rounded once to f32; the head stands by itself (`tied` must be
/// false for the model that loads it).
testing_support::MemoryWeights merged(const testing_support::TinyModel& tiny, const std::vector<Weighted>& adapters);

}  // namespace bumblebee::models
