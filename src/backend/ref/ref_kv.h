// Cached keys, values and states of the reference: vectors of double.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "backend/batch.h"
#include "backend/kv_store.h"

namespace bumblebee::ref {

/// Pages and states are allocated when first written: [group][layer][k or v][kv_head][page_size][head_dim], and of each
/// recurrent layer the convolution's rows and the heads' matrices.
class RefKv final : public KvStore {
 public:
  explicit RefKv(const KvShape& shape) : KvStore(shape), pages_(size_t(shape.pages)), states_(size_t(shape.states)) {}

  std::span<double> at(int page, int layer, int which, int head, int token) {
    const size_t tokens = size_t(shape().page_size);
    const auto of_layer = [&](const KvGroup& g) {
      return size_t(g.kept()) * size_t(g.kv_heads) * tokens * size_t(g.head_dim);
    };
    const KvPlace place = shape().place(layer);
    size_t begin = 0, all = 0;
    for (size_t g = 0; g < shape().groups.size(); ++g) {
      const KvGroup& group = shape().groups[g];
      if (g == size_t(place.group)) begin = all + size_t(place.index) * of_layer(group);
      if (group.kind == KvGroup::Kind::attention) all += size_t(group.layers) * of_layer(group);
    }
    std::vector<double>& values = pages_[size_t(page)];
    if (values.empty()) values.resize(all);
    const KvGroup& group = shape().group_of(layer);
    const size_t dim = size_t(group.head_dim);
    if (group.kept() == 1) which = 0;  // values lie within keys
    const size_t index = (size_t(which) * size_t(group.kv_heads) + size_t(head)) * tokens + size_t(token);
    return std::span(values).subspan(begin + index * dim, dim);
  }
  void copy_pages(std::span<const PageCopy> copies) override {
    for (const PageCopy& copy : copies) pages_[size_t(copy.to)] = pages_[size_t(copy.from)];
  }
  void release_pages(std::span<const int32_t> pages) override {
    for (const int32_t page : pages) pages_[size_t(page)] = {};
  }
  /// A recurrent layer's part of the state that a segment writes, with what it goes on from in it. Once for each layer
  /// and part.
  std::span<double> conv(StateSlots slots, int layer) { return part(slots, layer, false); }
  std::span<double> heads(StateSlots slots, int layer) { return part(slots, layer, true); }

 private:
  std::span<double> part(StateSlots slots, int layer, bool heads) {
    const KvGroup& group = shape().group_of(layer);
    const StateShape& s = group.state;
    const size_t conv = size_t(s.conv_rows) * size_t(s.conv_cols),
                 matrices = size_t(s.heads) * size_t(s.key_dim) * size_t(s.value_dim);
    const size_t at = size_t(shape().place(layer).index) * (conv + matrices) + (heads ? conv : 0);
    std::vector<double>& to = states_[size_t(slots.to)];
    to.resize((conv + matrices) * size_t(group.layers));
    const std::span<double> mine = std::span(to).subspan(at, heads ? matrices : conv);
    if (slots.from < 0) {
      std::fill(mine.begin(), mine.end(), 0.0);
    } else if (slots.from != slots.to) {
      std::copy_n(states_[size_t(slots.from)].begin() + int64_t(at), mine.size(), mine.begin());
    }
    return mine;
  }
  std::vector<std::vector<double>> pages_, states_;
};

}  // namespace bumblebee::ref
