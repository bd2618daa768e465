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
      scales_at_(size_t(s.only_group().head_dim) * size_t(s.page_size) * size_t(size_of(s.dtype))),
      head_bytes_(scales_at_ + (element_ == Element::i8 ? size_t(s.page_size) * sizeof(float) : 0)),
      kv_heads_(s.only_group().kv_heads),
      stripes_((s.state.value_dim + kDeltaCols - 1) / kDeltaCols),
      conv_floats_((size_t(s.state.conv_rows) * size_t(s.state.conv_cols) + 15) / 16 * 16),
      state_layer_(conv_floats_ + size_t(s.state.heads) * size_t(stripes_) * size_t(s.state.key_dim) * kDeltaCols),
      pages_(size_t(s.pages)),
      states_(size_t(s.states)),
      resident_(std::move(counter), 0) {
  if (nodes.size() > 1) {
    for (const NodeThreads& node : nodes) nodes_.push_back(node.node);
  }
  BB_CHECK(s.page_size > 0 && s.page_size % 16 == 0, "page size ", s.page_size);
}

std::byte* CpuKv::at(int page, int layer, int which, int head) const {
  const size_t index = (size_t(layer) * 2 + size_t(which)) * size_t(kv_heads_) + size_t(head);
  return pages_[size_t(page)].get() + index * head_bytes_;
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
  const size_t size = state_layer_ * size_t(shape().state.layers) * sizeof(float);
  bytes = aligned_bytes(size);
  resident_.add(size);
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
