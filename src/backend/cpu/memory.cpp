// A best-fit free list. Sizes are rounded up, so that the few shapes of a model meet again and again.
#include "backend/cpu/memory.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <iterator>
#include <new>

#include "base/guarded_memory.h"
#include "base/huge_pages.h"

namespace bumblebee::cpu {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kAlignment = 64;

class CpuBuffer : public Buffer {
 public:
  /// What a tensor of `used` bytes takes of `capacity`: the end, where that is guarded.
  CpuBuffer(AlignedBytes b, size_t capacity, size_t used)
      : bytes(std::move(b)),
        begin(bytes.get() + (kGuarded ? capacity - (used + kAlignment - 1) / kAlignment * kAlignment : 0)) {}
  AlignedBytes bytes;
  std::byte* begin;
};

AlignedBytes from_malloc(size_t size, size_t alignment) {
  const size_t reserved = (std::max<size_t>(size, 1) + alignment - 1) / alignment * alignment;
  void* p = std::aligned_alloc(alignment, reserved);
  if (p == nullptr) throw Error(ErrorCode::out_of_memory, "cpu", cat(size, " bytes could not be allocated"));
  // Keys and values are read in runs of some KiB, and looking up the address of each run costs a good part of reading
  // it. What was reserved behind the end becomes memory too where it is the smaller part of a huge page.
  const bool whole = reserved - size <= kHugePage / 2;
  if (size >= kHugePage) wish_huge_pages(p, whole ? reserved : size / kPage * kPage);
  return AlignedBytes(static_cast<std::byte*>(p), {size});
}

AlignedBytes guarded(size_t size) {
  try {
    return AlignedBytes(map_guarded(size, kAlignment), {size});
  } catch (const std::bad_alloc&) {
    throw Error(ErrorCode::out_of_memory, "cpu", cat(size, " bytes could not be allocated"));
  }
}

}  // namespace

void AlignedFree::operator()(std::byte* p) const {
  if (kGuarded) {
    unmap_guarded(p, size, kAlignment);
  } else {
    std::free(p);
  }
}

AlignedBytes aligned_bytes(size_t size) {
  return kGuarded ? guarded(size) : from_malloc(size, size >= kHugePage ? kHugePage : kAlignment);
}

AlignedBytes activation_bytes(size_t size) { return kGuarded ? guarded(size) : from_malloc(size, kPage); }

/// Sizes within an eighth share a class, so that batches of nearly the same rows share buffers.
size_t size_class(size_t size) {
  const size_t step = std::max(kPage, std::bit_floor(std::max<size_t>(size, 1)) / 8);
  return (size + step - 1) / step * step;
}

class Pool::PooledBuffer final : public CpuBuffer {
 public:
  PooledBuffer(AlignedBytes b, size_t capacity, size_t used, std::shared_ptr<Pool> pool)
      : CpuBuffer(std::move(b), capacity, used), capacity_(capacity), pool_(std::move(pool)) {}
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
  auto buffer = std::make_shared<PooledBuffer>(std::move(bytes), capacity, size, shared_from_this());
  Tensor tensor(std::move(buffer), dtype, rows, cols);
  if (kGuarded) std::fill_n(cpu::bytes(tensor), size, std::byte{0xFF});  // every float of these bits is NaN
  return tensor;
}

void Pool::give_back(AlignedBytes bytes, size_t capacity) {
  const std::lock_guard lock(mutex_);
  used_ -= capacity;
  if (cached_ + capacity > limit_) return;
  try {
    free_.emplace(capacity, std::move(bytes));
  } catch (const std::bad_alloc&) {  // a tensor dies here, and must not fail: its memory goes back at once
    return;
  }
  cached_ += capacity;
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

size_t Pool::used_bytes() const {
  const std::lock_guard lock(mutex_);
  return used_;
}

size_t Pool::cached_bytes() const {
  const std::lock_guard lock(mutex_);
  return cached_;
}

std::byte* bytes(const Tensor& tensor) {
  return static_cast<CpuBuffer&>(*tensor.buffer()).begin + tensor.offset_bytes();
}

}  // namespace bumblebee::cpu
