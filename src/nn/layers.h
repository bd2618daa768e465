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

/// Norms over head_dim of q and k (Qwen3); absent in most families.
struct HeadNorms {
  bool present = false;
  RmsNorm q, k;
};

/// Matrices of one size, one for each expert: y = W[e]·x. `site` and `name` as in Linear.
struct ExpertLinear {
  Weight w;
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
