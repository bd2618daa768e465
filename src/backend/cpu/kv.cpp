// Pages are allocated when first written and can be given back one by one.
#include "backend/cpu/kv.h"

#include <cstring>
#include <optional>
#include <utility>

#include "base/numa.h"

namespace bumblebee::cpu {
namespace {

Element cached_element(DType dtype) {
  if (dtype == DType::f32) return Element::f32;
  if (dtype == DType::f16) return Element::f16;
  if (dtype == DType::bf16) return Element::bf16;
  if (dtype == DType::i8) return Element::i8;
  throw Error(ErrorCode::unsupported, "cpu", cat("KV type: expected f32, f16, bf16 or i8, got ", to_string(dtype)));
}

}  // namespace

CpuKv::CpuKv(const KvShape& s, std::span<const NodeThreads> nodes, ByteCounter counter)
    : KvStore(s),
      element_(cached_element(s.dtype)),
      pages_(size_t(s.pages)),
      states_(size_t(s.states)),
      resident_(std::move(counter), 0) {
  if (nodes.size() > 1) {
    for (const NodeThreads& node : nodes) nodes_.push_back(node.node);
  }
  BB_CHECK(s.page_size > 0 && s.page_size % 16 == 0, "page size ", s.page_size);
  std::vector<size_t> begins;  // of groups in a page
  size_t end = 0;
  for (const KvGroup& group : s.groups) {
    begins.push_back(end);
    if (group.kind == KvGroup::Kind::state) lay_out_states(group);
    if (group.kind == KvGroup::Kind::attention) end += size_t(group.layers) * layer_page_bytes(s, group);
  }
  const int layers = s.places.empty() ? s.groups.front().layers : int(s.places.size());
  for (int i = 0; i < layers; ++i) {
    const KvPlace place = s.place(i);
    const KvGroup& group = s.group_of(i);
    if (element_ == Element::i8 && group.kind == KvGroup::Kind::attention && group.value_dim == 0 &&
        group.head_dim % 2) {
      throw Error(ErrorCode::unsupported, "cpu",
                  cat("int8 keys of layer ", i, ": expected an even number of features, got ", group.head_dim));
    }
    const size_t elements = size_t(group.head_dim) * size_t(s.page_size) * size_t(size_of(s.dtype));
    const size_t scales = element_ == Element::i8 ? size_t(s.page_size) * size_t(3 - group.kept()) * sizeof(float) : 0;
    layers_.push_back({.offset = begins[size_t(place.group)] + size_t(place.index) * layer_page_bytes(s, group),
                       .scales_at = elements,
                       .head_bytes = elements + scales,
                       .kv_heads = group.kv_heads});
  }
}

void CpuKv::lay_out_states(const KvGroup& group) {
  const StateShape& s = group.state;
  const size_t conv = size_t(s.conv_rows) * size_t(s.conv_cols);
  stripes_ = (s.value_dim + kDeltaCols - 1) / kDeltaCols;
  stripe_floats_ = size_t(s.key_dim) * size_t(kDeltaCols);
  conv_floats_ = (conv + 15) / 16 * 16;
  state_layer_ = conv_floats_ + size_t(s.heads) * size_t(stripes_) * stripe_floats_;
  state_bytes_ = size_t(group.layers) * state_layer_ * sizeof(float);
}

void CpuKv::touch(int page) {
  AlignedBytes& bytes = pages_[size_t(page)];
  if (bytes) return;
  const size_t size = page_bytes(shape());
  bytes = aligned_bytes(size);
  std::optional<PreferNode> prefer;  // memory comes from a node when it is first written
  if (!nodes_.empty()) prefer.emplace(nodes_[size_t(page) % nodes_.size()]);
  // Attention multiplies rows beyond a sequence's end by zero: they must be numbers.
  std::memset(bytes.get(), 0, size);
  resident_.add(size);
}

void CpuKv::touch_state(int state) {
  AlignedBytes& bytes = states_[size_t(state)];
  if (bytes) return;
  bytes = aligned_bytes(state_bytes_);
  resident_.add(state_bytes_);
}

void CpuKv::copy_pages(std::span<const PageCopy> copies) {
  for (const PageCopy& copy : copies) {
    touch(copy.from);
    touch(copy.to);
    std::memcpy(pages_[size_t(copy.to)].get(), pages_[size_t(copy.from)].get(), page_bytes(shape()));
  }
}

void CpuKv::release_pages(std::span<const int32_t> pages) {
  for (const int32_t page : pages) {
    if (pages_[size_t(page)]) resident_.remove(page_bytes(shape()));
    pages_[size_t(page)].reset();
  }
}

}  // namespace bumblebee::cpu
