// Cached keys and values. A page of one layer holds keys transposed, [kv_head][head_dim][page_size], so that scores of
// many tokens are one vector operation each, and values as they come, [kv_head][page_size][head_dim]. Rounded to int8,
// or where products take pairs of bf16 (CpuOps::Meeting), both lie in pairs that follow each other in depth,
// [kv_head][head_dim/2][page_size][2] and [kv_head][page_size/2][head_dim][2]; with int8 every head's block is followed
// by the scales of its tokens, f32 [page_size]. Keys that have values within are kept
// once, as they come, [kv_head][page_size][head_dim], in int8 followed by two scales of each token, [page_size][2]. A
// state of one recurrent layer holds the convolution's rows, then each head's matrix in stripes of kDeltaCols columns,
// [key_dim, kDeltaCols] each.
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
  /// Throws Error(unsupported) for an element type or a page size (a multiple of 16) that the kernels cannot do.
  /// Pages take turns on `nodes` of memory: heads are handed out to whichever thread is free, so that no page has a
  /// reader of its own, but all nodes' bandwidth should serve.
  explicit CpuKv(const KvShape& shape, std::span<const NodeThreads> nodes = {}, ByteCounter counter = nullptr);
  void copy_pages(std::span<const PageCopy> copies) override;
  void release_pages(std::span<const int32_t> pages) override;

  Element element() const { return element_; }
  size_t element_bytes() const { return size_t(size_of(shape().dtype)); }
  /// The keys [head_dim, page_size] or values [page_size, head_dim] of one head (int8, and some bf16: in pairs), or
  /// keys with values within [page_size, head_dim]; touch() made the page.
  std::byte* keys(int page, int layer, int head) const { return at(page, layer, 0, head); }
  std::byte* values(int page, int layer, int head) const { return at(page, layer, 1, head); }
  /// From one head's keys, or values, to the next one's: all keys of a layer's page lie behind each other, then all
  /// values.
  size_t head_bytes(int layer) const { return layers_[size_t(layer)].head_bytes; }
  /// The scales [page_size] of int8 keys or values; of keys with values within [page_size, 2].
  float* key_scales(int page, int layer, int head) const { return scales(layer, keys(page, layer, head)); }
  float* value_scales(int page, int layer, int head) const { return scales(layer, values(page, layer, head)); }
  /// Makes sure that the page exists: called from one thread before many use it.
  void touch(int page);

  /// The last inputs [conv_rows, conv_cols] of a recurrent layer's convolution; touch_state() made the state.
  float* conv(int state, int layer) const {
    return reinterpret_cast<float*>(states_[size_t(state)].get()) + size_t(shape().place(layer).index) * state_layer_;
  }
  /// Columns from stripe·kDeltaCols on of a head's matrix, [key_dim, kDeltaCols].
  float* stripe(int state, int layer, int head, int stripe) const {
    const size_t at = size_t(head) * size_t(stripes_) + size_t(stripe);
    return conv(state, layer) + conv_floats_ + at * stripe_floats_;
  }
  int stripes() const { return stripes_; }
  /// As touch(); its contents are arbitrary.
  void touch_state(int state);

 private:
  /// What a page holds of a layer; layers that share a cache have the same.
  struct Layer {
    size_t offset = 0;      // from the page's beginning
    size_t scales_at = 0;   // bytes of the elements of one head's keys or values
    size_t head_bytes = 0;  // with their scales
    int kv_heads = 0;
  };
  void lay_out_states(const KvGroup& group);
  std::byte* at(int page, int layer, int which, int head) const {
    const Layer& l = layers_[size_t(layer)];
    const size_t index = size_t(which) * size_t(l.kv_heads) + size_t(head);
    return pages_[size_t(page)].get() + l.offset + index * l.head_bytes;
  }
  float* scales(int layer, std::byte* head) const {
    return reinterpret_cast<float*>(head + layers_[size_t(layer)].scales_at);
  }
  Element element_;
  std::vector<Layer> layers_;
  int stripes_ = 0;           // of a head's state
  size_t stripe_floats_ = 0;  // of one
  size_t conv_floats_ = 0;    // of one recurrent layer's convolution, rounded up to whole cache lines
  size_t state_layer_ = 0;    // with the matrices
  size_t state_bytes_ = 0;    // of all these layers
  std::vector<AlignedBytes> pages_, states_;
  CountedBytes resident_;   // pages and states that have been written and not been released
  std::vector<int> nodes_;  // empty: wherever memory comes from
};

}  // namespace bumblebee::cpu
