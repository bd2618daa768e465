// The parts a model is made of: weights on a backend with the little that says how to use them. No behaviour.
#pragma once

#include <string>

#include "backend/ops.h"

namespace bumblebee::nn {

/// y = x·Wᵀ + b. `site` numbers the modules that adapters may attach to; -1 for none. `name` is the module's path.
struct Linear {
  Weight w;
  Tensor bias;  // f32 [1, out] or empty
  int site = -1;
  std::string name;
};

struct RmsNorm {
  NormParams params;
  std::string name;
  int site = -1;
};

/// Norms over the first features of heads of q and k, in most families that have them over all (Qwen3).
struct HeadNorms {
  bool present = false;
  RmsNorm q, k;
  bool only_k = false;  // q has none
};

/// Matrices of one size, one for each head: y = W[h]·x, or W[h]ᵀ·x. `site` and `name` as in Linear.
struct HeadLinear {
  Weight w;
  bool transposed = false;
  std::string name;
  int site = -1;
};

/// Matrices of one size, one for each expert: y = W[e]·x (+ b[e]). `site` and `name` as in Linear.
struct ExpertLinear {
  Weight w;
  Tensor bias;  // f32 [1, experts·out] or empty
  int site = -1;
  std::string name;
};

/// Experts of which each row passes a few: down(act(gate x)·up x), weighted as a router says.
struct Experts {
  RouterParams router;
  ExpertLinear gate, up, down;
  Activation activation = Activation::silu;
};

struct Embedding {
  Weight table;  // [vocab, d_model]
  std::string name;
  int site = -1;
};

}  // namespace bumblebee::nn
