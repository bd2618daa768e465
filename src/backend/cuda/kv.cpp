// Memory is taken from the card in chunks, since each allocation may wait for the whole card.
#include "backend/cuda/kv.h"

#include <algorithm>

#include "backend/cuda/kernels/rope.h"

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

/// Of layers that are all alike: kernels know one shape.
const KvGroup& only_group(const KvShape& shape) {
  if (shape.groups.size() != 1 || shape.groups.front().kind != KvGroup::Kind::attention) {
    throw Error(ErrorCode::unsupported, "cuda",
                cat("a cache of layers that differ: expected one group of layers, got ", shape.groups.size()));
  }
  return shape.groups.front();
}

KvView view_of(const KvShape& shape) {
  const KvGroup& group = only_group(shape);
  if (group.head_dim > kMaxHeadDim) {
    throw Error(ErrorCode::unsupported, "cuda",
                cat("attention with heads of ", group.head_dim, ": expected at most ", kMaxHeadDim));
  }
  const size_t elements = size_t(shape.page_size) * size_t(group.head_dim) * size_t(size_of(shape.dtype));
  const size_t scales = shape.dtype == DType::i8 ? size_t(shape.page_size) * sizeof(float) : 0;
  return {.element = cached_element(shape.dtype),
          .page_size = shape.page_size,
          .kv_heads = group.kv_heads,
          .head_dim = group.head_dim,
          .head_bytes = aligned_head(aligned_head(elements) + scales),
          .scales_at = aligned_head(elements)};
}

}  // namespace

CudaKv::CudaKv(std::shared_ptr<const Device> device, const KvShape& shape, ByteCounter counter)
    : KvStore(shape),
      device_(std::move(device)),
      page_bytes_(uint64_t(2) * uint64_t(only_group(shape).layers) * uint64_t(only_group(shape).kv_heads) *
                  view_of(shape).head_bytes),
      view_(view_of(shape)),
      pages_(size_t(shape.pages)),
      resident_(std::move(counter), 0) {
  BB_CHECK(shape.page_size > 0 && shape.page_size % 16 == 0, "page size ", shape.page_size);
}

std::byte* CudaKv::page(int32_t number) {
  std::byte*& at = pages_[size_t(number)];
  if (at != nullptr) return at;
  if (free_.empty()) {
    const uint64_t left = uint64_t(std::count(pages_.begin(), pages_.end(), nullptr));
    const uint64_t count = std::min(left, std::max<uint64_t>(kChunk / page_bytes_, 1));
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
