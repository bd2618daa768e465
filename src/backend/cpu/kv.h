// Cached keys and values. A page of one layer holds keys transposed, [kv_head][head_dim][page_size], so that scores of
// many tokens are one vector operation each, and values as they come, [kv_head][page_size][head_dim].
#pragma once

#include <vector>

#include "backend/cpu/kernels.h"
#include "backend/cpu/memory.h"
#include "backend/kv_store.h"

namespace bumblebee::cpu {

class CpuKv final : public KvStore {
 public:
  /// Throws Error(bad_config) for an element type or a page size (a multiple of 16) that the kernels cannot do.
  explicit CpuKv(const KvShape& shape);
  void copy_page(int from, int to) override;
  void release_page(int page) override;

  Element element() const { return element_; }
  size_t element_bytes() const { return element_ == Element::f32 ? 4 : 2; }
  /// The keys [head_dim, page_size] or values [page_size, head_dim] of one head; allocates the page when it is new.
  std::byte* keys(int page, int layer, int head) { return at(page, layer, 0, head); }
  std::byte* values(int page, int layer, int head) { return at(page, layer, 1, head); }
  /// Makes sure that the page exists: called from one thread before many use it.
  void touch(int page);

 private:
  std::byte* at(int page, int layer, int which, int head) const;
  Element element_;
  size_t head_bytes_;  // of one head's keys or values in one page
  std::vector<AlignedBytes> pages_;
};

}  // namespace bumblebee::cpu
