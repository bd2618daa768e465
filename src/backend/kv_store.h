// Pages of keys and values for every layer, in whatever layout the backend's attention wants. Which page is whose is
// the engine's business (PageTable); the store only holds bytes. Grouped heads are stored once, not repeated.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/error.h"
#include "tensor/dtype.h"

namespace bumblebee {

/// Layers whose cache has one shape. `attention` keeps keys and values of each token; `state` keeps one state of a
/// recurrent layer for each sequence.
struct KvGroup {
  enum class Kind : uint8_t { attention, state };
  Kind kind = Kind::attention;
  int layers = 0, kv_heads = 0, head_dim = 0;
  int window = 0;  // tokens that stay of use; 0: all
};

/// What recurrent layers keep of a sequence, f32: the last inputs of a convolution [conv_rows, conv_cols], and for each
/// head a matrix [key_dim, value_dim].
struct StateShape {
  int layers = 0;
  int conv_rows = 0, conv_cols = 0;
  int heads = 0, key_dim = 0, value_dim = 0;
};

struct KvShape {
  std::vector<KvGroup> groups;
  StateShape state = {};
  int states = 0;            // of all recurrent layers each; memory of one becomes resident when it is first written
  int page_size = 64;        // tokens per page, a multiple of 16
  int pages = 0;             // memory of a page becomes resident when it is first written
  DType dtype = DType::f32;  // f32, f16, bf16, or i8 with one f32 scale per token and head

  /// The group of a store whose layers are all alike, as all are today: several groups need a page table each.
  const KvGroup& only_group() const {
    BB_CHECK(groups.size() == 1 && groups.front().kind == KvGroup::Kind::attention, "groups ", groups.size());
    return groups.front();
  }
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

/// Bytes of one page over all layers.
inline uint64_t page_bytes(const KvShape& s) {
  uint64_t bytes = 0;
  for (const KvGroup& g : s.groups) {
    const uint64_t head = uint64_t(g.head_dim) * uint64_t(size_of(s.dtype)) + (s.dtype == DType::i8 ? 4 : 0);
    bytes += uint64_t(2) * uint64_t(g.layers) * uint64_t(g.kv_heads) * uint64_t(s.page_size) * head;
  }
  return bytes;
}

/// Bytes of one sequence's state over all recurrent layers.
inline uint64_t state_bytes(const StateShape& s) {
  const uint64_t conv = uint64_t(s.conv_rows) * uint64_t(s.conv_cols);
  const uint64_t heads = uint64_t(s.heads) * uint64_t(s.key_dim) * uint64_t(s.value_dim);
  return uint64_t(s.layers) * (conv + heads) * sizeof(float);
}

}  // namespace bumblebee
