// Best fit, and nothing finer: the sizes of a model's activations are few.
#include "backend/cuda/memory.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <utility>

namespace bumblebee::cuda {
namespace {

/// Sizes of long steps differ by a row; rounded, one buffer serves them all.
size_t rounded(size_t size) {
  const size_t step = size <= (size_t{1} << 20) ? 512 : size_t{256} << 10;
  return (std::max<size_t>(size, 1) + step - 1) / step * step;
}

}  // namespace

class Pool::PooledBuffer final : public Buffer {
 public:
  PooledBuffer(std::shared_ptr<Pool> pool, std::byte* data, size_t capacity)
      : pool_(std::move(pool)), data_(data), capacity_(capacity) {}
  ~PooledBuffer() override { pool_->give_back(data_, capacity_); }
  std::byte* data() const { return data_; }

 private:
  const std::shared_ptr<Pool> pool_;
  std::byte* const data_;
  const size_t capacity_;
};

std::byte* address(const Buffer& buffer) { return static_cast<const Pool::PooledBuffer&>(buffer).data(); }

Pool::~Pool() {
  (void)cudaSetDevice(device_->index());
  for (const auto& [size, data] : free_) release(data);
}

std::shared_ptr<Buffer> Pool::take(size_t size) {
  const size_t wanted = rounded(size);
  const std::lock_guard lock(mutex_);
  std::byte* data = nullptr;
  size_t capacity = wanted;
  if (const auto at = free_.lower_bound(wanted); at != free_.end() && at->first <= 2 * wanted) {
    capacity = at->first;
    data = at->second;
    free_.erase(at);
    cached_ -= capacity;
  } else {
    device_->use();
    data = try_allocate(wanted);
    if (data == nullptr && !keeps_all_) {
      shrink(0);
      data = try_allocate(wanted);
    }
    if (data == nullptr) throw_out_of_memory(wanted);
  }
  used_ += capacity;
  return std::make_shared<PooledBuffer>(shared_from_this(), data, capacity);
}

Tensor Pool::make(int rows, int cols, DType dtype) {
  return Tensor(take(size_t(rows) * size_t(cols) * size_t(size_of(dtype))), dtype, rows, cols);
}

void Pool::give_back(std::byte* data, size_t capacity) {
  const std::lock_guard lock(mutex_);
  used_ -= capacity;
  free_.emplace(capacity, data);
  cached_ += capacity;
  if (cached_ > limit_ && !keeps_all_) shrink(limit_);
}

void Pool::shrink(size_t bytes) {
  (void)cudaSetDevice(device_->index());
  while (cached_ > bytes && !free_.empty()) {
    const auto largest = std::prev(free_.end());
    release(largest->second);
    cached_ -= largest->first;
    free_.erase(largest);
  }
}

void Pool::limit(size_t bytes) {
  const std::lock_guard lock(mutex_);
  limit_ = bytes;
  if (cached_ > limit_ && !keeps_all_) shrink(limit_);
}

void Pool::release_free() {
  const std::lock_guard lock(mutex_);
  shrink(0);
}

size_t Pool::cached_bytes() const {
  const std::lock_guard lock(mutex_);
  return cached_;
}

size_t Pool::used_bytes() const {
  const std::lock_guard lock(mutex_);
  return used_;
}

std::byte* ZeroedMemory::at_least(size_t size) {
  if (size == 0) return nullptr;
  if (grown_.empty() || grown_.back().size() < size) {
    const size_t generous = grown_.empty() ? size : std::max(size, 2 * grown_.back().size());
    DeviceBytes bytes;
    try {
      bytes = DeviceBytes(device_, generous);
    } catch (const Error&) {
      if (generous == size) throw;
      bytes = DeviceBytes(device_, size);
    }
    // Not on the compute stream, where it would become part of a step that is being recorded.
    check(cudaMemsetAsync(bytes.data(), 0, bytes.size(), device_->upload()), "workspace");
    check(cudaStreamSynchronize(device_->upload()), "workspace");
    grown_.push_back(std::move(bytes));
  }
  return grown_.back().data();
}

size_t ZeroedMemory::bytes() const {
  size_t sum = 0;
  for (const DeviceBytes& bytes : grown_) sum += bytes.size();
  return sum;
}

PinnedBytes PinnedPool::take(size_t size) {
  const std::lock_guard lock(mutex_);
  const size_t wanted = rounded(size);
  if (const auto at = free_.lower_bound(wanted); at != free_.end() && at->first <= 4 * wanted) {
    PinnedBytes bytes = std::move(at->second);
    free_.erase(at);
    return bytes;
  }
  device_->use();
  return PinnedBytes(wanted);
}

void PinnedPool::give_back(PinnedBytes bytes) {
  constexpr size_t kMost = size_t{64} << 20;  // what is larger is rare: logits of a long prompt
  if (bytes.size() > kMost) return;
  const std::lock_guard lock(mutex_);
  const size_t size = bytes.size();
  free_.emplace(size, std::move(bytes));
}

void Uploader::copy_piece(Lane& lane, std::span<const std::byte> from, std::byte* to) {
  constexpr size_t kPieces = 2;
  device_->use();
  if (lane.pieces.size() < kPieces) lane.pieces.push_back({PinnedBytes(kPiece), Event()});
  Piece& piece = lane.pieces[lane.next++ % kPieces];
  piece.done.wait();
  std::memcpy(piece.bytes.data(), from.data(), from.size());
  check(cudaMemcpyAsync(to, piece.bytes.data(), from.size(), cudaMemcpyHostToDevice, device_->upload()), "upload");
  piece.done.record(device_->upload());
}

void Uploader::copy(std::span<const std::byte> from, std::byte* to) {
  if (from.empty()) return;
  const std::lock_guard lock(mutex_);
  device_->use();
  const size_t pieces = (from.size() + kPiece - 1) / kPiece;
  if (pieces == 1) {
    copy_piece(lanes_.front(), from, to);
  } else {
    if (!pool_) {
      lanes_.resize(size_t(kMostThreads));
      pool_.emplace(std::min(available_cores(), kMostThreads));
    }
    std::mutex failing;
    std::exception_ptr failed;
    pool_->for_each(int64_t(pieces), [&](int64_t i, int thread) {
      const size_t at = size_t(i) * kPiece;
      try {
        copy_piece(lanes_[size_t(thread)], from.subspan(at, std::min(kPiece, from.size() - at)), to + at);
      } catch (...) {
        const std::lock_guard first(failing);
        if (!failed) failed = std::current_exception();
      }
    });
    if (failed) std::rethrow_exception(failed);
  }
  copied_.record(device_->upload());
  const std::lock_guard recording(device_->recording());
  copied_.hold(device_->compute());
}

void Uploader::finish() {
  const std::lock_guard lock(mutex_);
  pool_.reset();
  device_->use();
  check(cudaStreamSynchronize(device_->upload()), "upload");
}

}  // namespace bumblebee::cuda
