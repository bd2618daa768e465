// A best-fit free list. Sizes are rounded up, so that the few shapes of a model meet again and again.
#include "backend/cpu/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <iterator>
#include <new>

namespace bumblebee::cpu {
namespace {

constexpr size_t kPage = 4096;
// What is larger is asked for in huge pages: keys and values are read in runs of some KiB, and looking up the address
// of each run costs a good part of reading it.
constexpr size_t kHugePage = size_t{2} << 20;
class CpuBuffer : public Buffer {
 public:
  explicit CpuBuffer(AlignedBytes b) : bytes(std::move(b)) {}
  AlignedBytes bytes;
};

}  // namespace

void AlignedFree::operator()(void* p) const { std::free(p); }

AlignedBytes aligned_bytes(size_t size) {
  const size_t alignment = size >= kHugePage ? kHugePage : 64;
  void* p = std::aligned_alloc(alignment, (std::max<size_t>(size, 1) + alignment - 1) / alignment * alignment);
#ifdef MADV_HUGEPAGE
  if (p != nullptr && alignment == kHugePage) ::madvise(p, size, MADV_HUGEPAGE);  // a wish: its failure changes nothing
#endif
  if (p == nullptr) throw Error(ErrorCode::out_of_memory, "cpu", cat("allocation failed: expected ", size, " bytes"));
  return AlignedBytes(static_cast<std::byte*>(p));
}

AlignedBytes activation_bytes(size_t size) {
  void* p = std::aligned_alloc(kPage, (std::max<size_t>(size, 1) + kPage - 1) / kPage * kPage);
  if (p == nullptr) throw Error(ErrorCode::out_of_memory, "cpu", cat("allocation failed: expected ", size, " bytes"));
#ifdef MADV_HUGEPAGE
  if (size >= kHugePage) ::madvise(p, size / kPage * kPage, MADV_HUGEPAGE);
#endif
  return AlignedBytes(static_cast<std::byte*>(p));
}

/// Sizes within an eighth share a class, so that batches of nearly the same rows share buffers.
size_t size_class(size_t size) {
  const size_t step = std::max(kPage, std::bit_floor(std::max<size_t>(size, 1)) / 8);
  return (size + step - 1) / step * step;
}

class Pool::PooledBuffer final : public CpuBuffer {
 public:
  PooledBuffer(AlignedBytes b, size_t capacity, std::shared_ptr<Pool> pool)
      : CpuBuffer(std::move(b)), capacity_(capacity), pool_(std::move(pool)) {}
  ~PooledBuffer() override { pool_->give_back(std::move(bytes), capacity_); }

 private:
  size_t capacity_;
  std::shared_ptr<Pool> pool_;
};

Tensor Pool::make(int rows, int cols, DType dtype) {
  const size_t size = size_t(rows) * size_t(cols) * size_t(size_of(dtype));
  size_t capacity = size_class(size);
  AlignedBytes bytes;
  {
    const std::lock_guard lock(mutex_);
    const auto it = free_.lower_bound(capacity);
    if (it != free_.end() && it->first <= 2 * capacity) {
      capacity = it->first;
      bytes = std::move(it->second);
      cached_ -= capacity;
      free_.erase(it);
    }
    most_used_ = std::max(most_used_, used_ + capacity);
    // Sizes come in turns within a step, so some of what is free has to stay even where it makes the whole larger.
    if (!bytes) shrink(std::max(std::min(limit_, kDefaultLimit), most_used_ - used_ - capacity));
  }
  if (!bytes) bytes = activation_bytes(capacity);
  {
    const std::lock_guard lock(mutex_);
    used_ += capacity;
  }
  Tensor tensor(std::make_shared<PooledBuffer>(std::move(bytes), capacity, shared_from_this()), dtype, rows, cols);
#ifndef NDEBUG
  std::fill_n(cpu::bytes(tensor), size, std::byte{0xFF});  // every float of these bits is NaN
#endif
  return tensor;
}

void Pool::give_back(AlignedBytes bytes, size_t capacity) {
  const std::lock_guard lock(mutex_);
  used_ -= capacity;
  if (cached_ + capacity > limit_) return;
  cached_ += capacity;
  free_.emplace(capacity, std::move(bytes));
}

void Pool::shrink(size_t bytes) {
  while (cached_ > bytes) {
    const auto largest = std::prev(free_.end());
    cached_ -= largest->first;
    free_.erase(largest);
  }
}

void Pool::limit(size_t bytes) {
  const std::lock_guard lock(mutex_);
  limit_ = bytes;
  most_used_ = used_;
  shrink(limit_);
}

size_t Pool::cached_bytes() const {
  const std::lock_guard lock(mutex_);
  return cached_;
}

std::byte* bytes(const Tensor& tensor) {
  return static_cast<CpuBuffer&>(*tensor.buffer()).bytes.get() + tensor.offset_bytes();
}

}  // namespace bumblebee::cpu
