// Pages of keys and values for every layer, in whatever layout the backend's attention wants. Which page is whose is
// the engine's business (PageTable); the store only holds bytes. Grouped heads are stored once, not repeated.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/error.h"
#include "tensor/dtype.h"

namespace bumblebee {

/// What a recurrent layer keeps of a sequence, f32: the last inputs of a convolution [conv_rows, conv_cols], and for
/// each head a matrix [key_dim, value_dim].
struct StateShape {
  int conv_rows = 0, conv_cols = 0;
  int heads = 0, key_dim = 0, value_dim = 0;
};

/// Layers whose cache has one shape. `attention` keeps keys and values of each token; `state` keeps one state of a
/// recurrent layer for each sequence.
struct KvGroup {
  enum class Kind : uint8_t { attention, state };
  Kind kind = Kind::attention;
  int layers = 0, kv_heads = 0, head_dim = 0;
  int window = 0;  // tokens that stay of use; 0: all
  StateShape state = {};
  /// Values are the first so many features of keys, and kept once; 0: apart, as wide as keys.
  int value_dim = 0;

  /// How many vectors of a token a head has.
  int kept() const { return value_dim > 0 ? 1 : 2; }
};

/// Where a layer's cache lies: the `index`-th of a group. Layers may share one.
struct KvPlace {
  int group = 0, index = 0;
};

/// A page id stands for `page_size` tokens of every layer, whatever their groups.
struct KvShape {
  std::vector<KvGroup> groups;       // at most one of states
  std::vector<KvPlace> places = {};  // by layer of the model; empty: the layers of the only group, in order
  int page_size = 64;                // tokens per page, a multiple of 16
  int pages = 0;                     // memory of a page becomes resident when it is first written
  int states = 0;                    // of sequences; resident as pages are
  DType dtype = DType::f32;          // f32, f16, bf16, or i8 with one f32 scale per token and head; of keys
                                     // that have values within, one for these and one for the rest

  KvPlace place(int layer) const {
    if (!places.empty()) return places[size_t(layer)];
    BB_CHECK(groups.size() == 1 && layer < groups.front().layers, "layer ", layer);
    return {0, layer};
  }
  const KvGroup& group_of(int layer) const { return groups[size_t(place(layer).group)]; }
};

/// A page whose contents must be copied before the next step writes to `to`.
struct PageCopy {
  int32_t from = 0, to = 0;
};

class KvStore {
 public:
  explicit KvStore(const KvShape& shape) : shape_(shape) {}
  virtual ~KvStore() = default;
  const KvShape& shape() const { return shape_; }
  /// Copies pages of every layer, one after the other, for sequences that fork inside a page.
  virtual void copy_pages(std::span<const PageCopy> copies) = 0;
  /// Gives pages' memory back to the system, where that is possible; their contents are lost.
  virtual void release_pages(std::span<const int32_t> pages) = 0;

 private:
  KvShape shape_;
};

/// Bytes of one page of one layer of a group.
inline uint64_t layer_page_bytes(const KvShape& s, const KvGroup& g) {
  const uint64_t scales = s.dtype == DType::i8 ? 2 * sizeof(float) : 0;  // of keys and values, either way
  const uint64_t features = uint64_t(g.kept()) * uint64_t(g.head_dim);
  return uint64_t(g.kv_heads) * uint64_t(s.page_size) * (features * uint64_t(size_of(s.dtype)) + scales);
}

/// Bytes of one page over all layers that keep keys and values.
inline uint64_t page_bytes(const KvShape& s) {
  uint64_t bytes = 0;
  for (const KvGroup& g : s.groups) {
    if (g.kind == KvGroup::Kind::attention) bytes += uint64_t(g.layers) * layer_page_bytes(s, g);
  }
  return bytes;
}

/// Bytes of one sequence's state over all recurrent layers; 0 where there are none.
inline uint64_t state_bytes(const KvShape& shape) {
  uint64_t bytes = 0;
  for (const KvGroup& g : shape.groups) {
    const uint64_t conv = uint64_t(g.state.conv_rows) * uint64_t(g.state.conv_cols);
    const uint64_t heads = uint64_t(g.state.heads) * uint64_t(g.state.key_dim) * uint64_t(g.state.value_dim);
    if (g.kind == KvGroup::Kind::state) bytes += uint64_t(g.layers) * (conv + heads) * sizeof(float);
  }
  return bytes;
}

}  // namespace bumblebee
