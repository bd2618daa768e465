// Cached keys and values. A page of one layer holds keys transposed, [kv_head][head_dim][page_size], so that scores of
// many tokens are one vector operation each, and values as they come, [kv_head][page_size][head_dim]. Rounded to int8,
// every head's block is followed by the scales of its tokens, f32 [page_size]. A state of one recurrent layer holds the
// convolution's rows, then each head's matrix in stripes of kDeltaCols columns, [key_dim, kDeltaCols] each.
#pragma once

#include <span>
#include <vector>

#include "backend/counted_bytes.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/memory.h"
#include "backend/kv_store.h"
#include "base/topology.h"

namespace bumblebee::cpu {

class CpuKv final : public KvStore {
 public:
  /// Throws Error(bad_config) for an element type or a page size (a multiple of 16) that the kernels cannot do.
  /// Pages take turns on `nodes` of memory: heads are handed out to whichever thread is free, so that no page has a
  /// reader of its own, but all nodes' bandwidth should serve.
  explicit CpuKv(const KvShape& shape, std::span<const NodeThreads> nodes = {}, ByteCounter counter = nullptr);
  void copy_pages(std::span<const PageCopy> copies) override;
  void release_pages(std::span<const int32_t> pages) override;

  Element element() const { return element_; }
  size_t element_bytes() const { return size_t(size_of(shape().dtype)); }
  /// The keys [head_dim, page_size] or values [page_size, head_dim] of one head; touch() made the page.
  std::byte* keys(int page, int layer, int head) const { return at(page, layer, 0, head); }
  std::byte* values(int page, int layer, int head) const { return at(page, layer, 1, head); }
  /// The scales [page_size] of int8 keys or values.
  float* key_scales(int page, int layer, int head) const { return scales(keys(page, layer, head)); }
  float* value_scales(int page, int layer, int head) const { return scales(values(page, layer, head)); }
  /// Makes sure that the page exists: called from one thread before many use it.
  void touch(int page);

  /// The last inputs [conv_rows, conv_cols] of a recurrent layer's convolution; touch_state() made the state.
  float* conv(int state, int layer) const { return states(state) + size_t(layer) * state_layer_; }
  /// Columns from stripe·kDeltaCols on of a head's matrix, [key_dim, kDeltaCols].
  float* stripe(int state, int layer, int head, int stripe) const {
    const size_t at = size_t(head) * size_t(stripes_) + size_t(stripe);
    return conv(state, layer) + conv_floats_ + at * size_t(shape().state.key_dim) * size_t(kDeltaCols);
  }
  int stripes() const { return stripes_; }
  /// As touch(); its contents are arbitrary.
  void touch_state(int state);

 private:
  std::byte* at(int page, int layer, int which, int head) const;
  float* states(int state) const { return reinterpret_cast<float*>(states_[size_t(state)].get()); }
  float* scales(std::byte* head) const { return reinterpret_cast<float*>(head + scales_at_); }
  Element element_;
  size_t scales_at_;   // bytes of the elements of one head's keys or values in one page
  size_t head_bytes_;  // with their scales
  int kv_heads_;
  int stripes_;         // of a head's state
  size_t conv_floats_;  // of one recurrent layer's state, rounded up to whole cache lines
  size_t state_layer_;  // with the matrices
  std::vector<AlignedBytes> pages_, states_;
  CountedBytes resident_;   // pages and states that have been written and not been released
  std::vector<int> nodes_;  // empty: wherever memory comes from
};

}  // namespace bumblebee::cpu
