// Memory is taken from the card in chunks, since each allocation may wait for the whole card.
#include "backend/cuda/kv.h"

#include <algorithm>

namespace bumblebee::cuda {
namespace {

constexpr uint64_t kChunk = uint64_t{64} << 20;

Element cached_element(DType dtype) {
  if (dtype == DType::f32) return Element::f32;
  if (dtype == DType::f16) return Element::f16;
  if (dtype == DType::bf16) return Element::bf16;
  if (dtype == DType::i8) return Element::i8;
  throw Error(ErrorCode::unsupported, "cuda", cat("KV type: expected f32, f16, bf16 or i8, got ", to_string(dtype)));
}

/// Heads begin at multiples of 16 bytes, whatever their size.
size_t aligned_head(size_t bytes) { return (bytes + 15) / 16 * 16; }

/// Of a group's first layer, which begins at byte `at` of a page.
KvView view_of(const KvShape& shape, const KvGroup& group, uint64_t at) {
  if (group.head_dim > kMaxHeadDim) {
    throw Error(ErrorCode::unsupported, "cuda",
                cat("attention with heads of ", group.head_dim, ": expected at most ", kMaxHeadDim));
  }
  const size_t elements = size_t(shape.page_size) * size_t(group.head_dim) * size_t(size_of(shape.dtype));
  const size_t scales_of_token = group.value_dim > 0 ? 2 : 1;
  const size_t scales = shape.dtype == DType::i8 ? scales_of_token * size_t(shape.page_size) * sizeof(float) : 0;
  return {.element = cached_element(shape.dtype),
          .page_size = shape.page_size,
          .kv_heads = group.kv_heads,
          .head_dim = group.head_dim,
          .head_bytes = aligned_head(aligned_head(elements) + scales),
          .scales_at = aligned_head(elements),
          .layer_at = at,
          .value_dim = group.value_dim};
}

uint64_t layer_bytes(const KvView& view) { return uint64_t(view.kept()) * uint64_t(view.kv_heads) * view.head_bytes; }

}  // namespace

CudaKv::CudaKv(std::shared_ptr<const Device> device, const KvShape& shape, ByteCounter counter)
    : KvStore(shape),
      device_(std::move(device)),
      pages_(size_t(shape.pages)),
      resident_(counter, 0),
      states_(device_, shape, std::move(counter)) {
  BB_CHECK(shape.page_size > 0 && shape.page_size % 16 == 0, "page size ", shape.page_size);
  for (const KvGroup& group : shape.groups) {
    groups_.push_back(group.kind == KvGroup::Kind::attention ? view_of(shape, group, page_bytes_) : KvView());
    page_bytes_ += uint64_t(group.layers) * layer_bytes(groups_.back());
  }
}

KvView CudaKv::view(int layer) const {
  const KvPlace place = shape().place(layer);
  KvView view = groups_[size_t(place.group)];
  BB_CHECK(view.head_dim > 0, "layer ", layer, " keeps no keys");
  view.layer_at += uint64_t(place.index) * layer_bytes(view);
  return view;
}

std::byte* CudaKv::page(int32_t number) {
  std::byte*& at = pages_[size_t(number)];
  if (at != nullptr) return at;
  if (free_.empty()) {
    const uint64_t left = uint64_t(std::count(pages_.begin(), pages_.end(), nullptr));
    const uint64_t count = std::min(left, std::max<uint64_t>(kChunk / std::max<uint64_t>(page_bytes_, 1), 1));
    const DeviceBytes& chunk = chunks_.emplace_back(device_, count * page_bytes_);
    for (uint64_t i = count; i > 0; --i) free_.push_back(chunk.data() + (i - 1) * page_bytes_);
  }
  at = free_.back();
  free_.pop_back();
  resident_.add(page_bytes_);
  return at;
}

void CudaKv::resolve(std::span<const int32_t> pages, std::vector<const uint8_t*>& addresses) {
  addresses.clear();
  for (const int32_t number : pages) addresses.push_back(reinterpret_cast<const uint8_t*>(page(number)));
}

void CudaKv::copy_pages(std::span<const PageCopy> copies) {
  device_->use();
  for (const PageCopy& copy : copies) {
    std::byte* const to = page(copy.to);
    check(cudaMemcpyAsync(to, page(copy.from), page_bytes_, cudaMemcpyDeviceToDevice, device_->compute()),
          "copy a page");
  }
}

void CudaKv::release_pages(std::span<const int32_t> pages) {
  for (const int32_t number : pages) {
    std::byte*& at = pages_[size_t(number)];
    if (at == nullptr) continue;
    free_.push_back(at);
    at = nullptr;
    resident_.remove(page_bytes_);
  }
}

}  // namespace bumblebee::cuda
