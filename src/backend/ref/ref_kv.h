// The reference's cache: doubles, whatever type the shape asks for.
#pragma once

#include <span>
#include <vector>

#include "backend/kv_store.h"

namespace bumblebee::ref {

/// Pages are allocated when first written: [group][layer][k or v][kv_head][page_size][head_dim].
class RefKv final : public KvStore {
 public:
  explicit RefKv(const KvShape& shape) : KvStore(shape), pages_(size_t(shape.pages)) {}

  std::span<double> at(int page, int layer, int which, int head, int token) {
    const size_t tokens = size_t(shape().page_size);
    const auto of_layer = [&](const KvGroup& g) { return 2 * size_t(g.kv_heads) * tokens * size_t(g.head_dim); };
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
    const size_t index = (size_t(which) * size_t(group.kv_heads) + size_t(head)) * tokens + size_t(token);
    return std::span(values).subspan(begin + index * dim, dim);
  }
  void copy_pages(std::span<const PageCopy> copies) override {
    for (const PageCopy& copy : copies) pages_[size_t(copy.to)] = pages_[size_t(copy.from)];
  }
  void release_pages(std::span<const int32_t> pages) override {
    for (const int32_t page : pages) pages_[size_t(page)] = {};
  }

 private:
  std::vector<std::vector<double>> pages_;
};

}  // namespace bumblebee::ref
