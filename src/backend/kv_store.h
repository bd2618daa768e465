// Pages of keys and values for every layer, in whatever layout the backend's attention wants. Which page is whose is
// the engine's business (PageTable); the store only holds bytes. Grouped heads are stored once, not repeated.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace bumblebee {

struct KvShape {
  int layers = 0, kv_heads = 0, head_dim = 0;
  int page_size = 64;        // tokens per page, a multiple of 16
  int pages = 0;             // memory of a page becomes resident when it is first written
  DType dtype = DType::f32;  // f32, f16, bf16, or i8 with one f32 scale per token and head
};

class KvStore {
 public:
  explicit KvStore(const KvShape& shape) : shape_(shape) {}
  virtual ~KvStore() = default;
  const KvShape& shape() const { return shape_; }
  /// Copies one page of every layer, for a sequence that forks inside a page.
  virtual void copy_page(int from, int to) = 0;
  /// Gives a page's memory back to the system, where that is possible; its contents are lost.
  virtual void release_page(int page) = 0;

 private:
  KvShape shape_;
};

/// Bytes of one page over all layers.
inline uint64_t page_bytes(const KvShape& s) {
  const uint64_t head = uint64_t(s.head_dim) * uint64_t(size_of(s.dtype)) + (s.dtype == DType::i8 ? 4 : 0);
  return uint64_t(2) * uint64_t(s.layers) * uint64_t(s.kv_heads) * uint64_t(s.page_size) * head;
}

}  // namespace bumblebee
