// What every architecture promises: a forward pass written against Pass, and the facts others need to size caches and
// adapters.
#pragma once

#include <string>
#include <vector>

#include "nn/pass.h"

namespace bumblebee::nn {

/// Sizes of a decoder, read from its config.
struct ModelDims {
  int layers = 0, d_model = 0, heads = 0, kv_heads = 0, head_dim = 0, d_ff = 0, vocab = 0;
  int context = 0;  // positions the model was made for
  bool tied_head = false;
};

/// A module that an adapter may attach to.
struct Site {
  std::string name;
  int in = 0, out = 0;
};

class Model {
 public:
  virtual ~Model() = default;
  /// -> logits [wanted, vocab]. Const and thread-compatible: all state is in the pass.
  virtual Tensor forward(Pass& pass) const = 0;
  /// One layer; a checkpointing pass may run it twice.
  virtual void block(Pass& pass, int i, Residual& residual) const = 0;

  const ModelDims& dims() const { return dims_; }
  const std::vector<Site>& sites() const { return sites_; }

 protected:
  ModelDims dims_;
  std::vector<Site> sites_;
};

}  // namespace bumblebee::nn
