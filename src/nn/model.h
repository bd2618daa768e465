// What every architecture promises: a forward pass written against Pass, and the facts others need to size caches and
// adapters.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend/kv_store.h"
#include "backend/operation.h"
#include "nn/pass.h"

namespace bumblebee::nn {

/// Sizes of a decoder, read from its config.
struct ModelDims {
  int layers = 0, d_model = 0, heads = 0, kv_heads = 0, head_dim = 0, d_ff = 0, vocab = 0;
  int context = 0;  // positions the model was made for
  /// Sequences of more tokens rotate otherwise, from their first one on (Segment::stretched); 0: none does.
  int stretch_beyond = 0;
  /// Experts of a layer that has some, how many of them a row passes, and their inner width; 0: no layer has.
  int experts = 0, experts_per_token = 0, d_expert = 0;
  bool tied_head = false;
  /// Where layers keep keys and values or states, in a model whose layers are not all of one shape, kv_heads of
  /// head_dim.
  std::vector<KvGroup> kv_groups;
  std::vector<KvPlace> kv_places;

  KvShape kv_shape(int page_size, int pages, DType dtype) const {
    KvShape shape{.groups = kv_groups, .places = kv_places, .page_size = page_size, .pages = pages, .dtype = dtype};
    if (kv_groups.empty()) {
      shape.groups = {{.kind = KvGroup::Kind::attention,
                       .layers = layers,
                       .kv_heads = kv_heads,
                       .head_dim = head_dim,
                       .window = 0}};
    }
    return shape;
  }
  bool is_recurrent(int layer) const {
    return !kv_places.empty() && kv_groups[size_t(kv_places[size_t(layer)].group)].kind == KvGroup::Kind::state;
  }
};

/// A module that an adapter may change, numbered by its place in Model::target_modules(); such a number is called
/// `site`.
struct TargetModule {
  enum class Kind : uint8_t {
    linear,     // y = W x + b, W [out, in]; the head is one too
    embedding,  // W [in, out]: a row of `out` values for each of `in` tokens
    norm,       // a vector [out]; in = out
    experts,    // a stack of W [out, in], one for each of `experts`
    heads       // the same for heads of attention, all of which are computed
  };
  std::string name;
  int in = 0, out = 0;
  Kind kind = Kind::linear;
  bool bias = false;      // the base has a `<name>.bias` [out]
  bool router = false;    // chooses experts: a linear here, which other programs do not always count among them
  float offset = 0;       // a norm multiplies by what is stored and this; adapters' norms are stored so too
  int experts = 0;        // matrices of a stack; of heads 0: what a file has, of which two such modules are made
  std::string each = {};  // the name of one of them, with '#' for its number, in files that have a module for each
};

class Model {
 public:
  virtual ~Model() = default;
  /// -> logits [logit_rows, vocab]. Const and thread-compatible: all state is in the pass.
  virtual Tensor forward(Pass& pass) const = 0;
  /// One layer; a checkpointing pass may run it twice.
  virtual void block(Pass& pass, int i, Residual& residual) const = 0;

  const ModelDims& dims() const { return dims_; }
  const std::vector<TargetModule>& target_modules() const { return target_modules_; }
  /// The matrices of the target modules, in the same order; those of norms are empty.
  const std::vector<Weight>& target_weights() const { return target_weights_; }
  /// What it needs beside what every device has.
  const std::vector<Operation>& operations() const { return operations_; }

 protected:
  ModelDims dims_;
  std::vector<TargetModule> target_modules_;
  std::vector<Weight> target_weights_;
  std::vector<Operation> operations_;
};

}  // namespace bumblebee::nn
