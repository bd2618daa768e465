// Memory of activations: buffers that return to a pool, in the order of the compute stream.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "backend/cuda/device.h"
#include "base/thread_pool.h"
#include "tensor/tensor.h"

namespace bumblebee::cuda {

/// Free buffers by capacity. All of them are used on the compute stream only, so that one which was given back may be
/// taken at once: what uses it next comes after. Buffers may outlive the backend: each keeps the pool alive.
class Pool : public std::enable_shared_from_this<Pool> {
 public:
  /// `keeps_all`: what was once taken stays until release_free() is called: recorded steps know its addresses.
  explicit Pool(std::shared_ptr<const Device> device, bool keeps_all = false)
      : device_(std::move(device)), keeps_all_(keeps_all) {}
  ~Pool();
  bool keeps_all() const { return keeps_all_; }

  /// An uninitialised matrix. Throws Error(out_of_memory) with the bytes needed and free.
  Tensor make(int rows, int cols, DType dtype = DType::f32);
  std::shared_ptr<Buffer> take(size_t size);
  size_t cached_bytes() const;
  size_t used_bytes() const;
  /// How much may be free and kept.
  void limit(size_t bytes);
  /// Gives all that is free back to the device.
  void release_free();
  static constexpr size_t kDefaultLimit = size_t{2} << 30;  // more than the activations of a long prefill

 private:
  class PooledBuffer;
  friend std::byte* address(const Buffer& buffer);
  void give_back(std::byte* data, size_t capacity);
  void shrink(size_t bytes);  // to so much that is free; under the mutex

  const std::shared_ptr<const Device> device_;
  const bool keeps_all_;
  mutable std::mutex mutex_;
  std::multimap<size_t, std::byte*> free_;
  size_t cached_ = 0, used_ = 0, limit_ = kDefaultLimit;
};

/// Address of the first byte of a buffer of this backend.
std::byte* address(const Buffer& buffer);
template <class T>
T* elements(const Tensor& tensor) {
  return reinterpret_cast<T*>(address(*tensor.buffer()) + tensor.offset_bytes());
}
inline float* data(const Tensor& tensor) { return elements<float>(tensor); }

/// Memory that is zero before its first use and that its users leave so. It grows, and keeps what it was: recorded
/// steps know the addresses.
class ZeroedMemory {
 public:
  explicit ZeroedMemory(std::shared_ptr<const Device> device) : device_(std::move(device)) {}
  /// For use on the compute stream; null for 0. Throws Error(out_of_memory).
  std::byte* at_least(size_t size);
  size_t bytes() const;

 private:
  const std::shared_ptr<const Device> device_;
  std::vector<DeviceBytes> grown_;  // the last one is the largest
};

/// Page-locked buffers of any size, kept for the next that asks.
class PinnedPool : public std::enable_shared_from_this<PinnedPool> {
 public:
  explicit PinnedPool(std::shared_ptr<const Device> device) : device_(std::move(device)) {}
  PinnedBytes take(size_t size);
  void give_back(PinnedBytes bytes);

 private:
  const std::shared_ptr<const Device> device_;
  std::mutex mutex_;
  std::multimap<size_t, PinnedBytes> free_;
};

/// Bytes of the host on their way to the device: several threads read them into page-locked buffers, two each, while
/// what was read before is copied. From any thread.
class Uploader {
 public:
  explicit Uploader(std::shared_ptr<const Device> device) : device_(std::move(device)) {}
  /// Returns once `from` was read. What is enqueued on the compute stream afterwards sees the bytes.
  void copy(std::span<const std::byte> from, std::byte* to);
  /// All copies are there. The threads end; a later copy of more than a piece starts them again, until the next
  /// finish().
  void finish();

 private:
  static constexpr size_t kPiece = size_t{2} << 20;
  static constexpr int kMostThreads = 8;
  struct Piece {
    PinnedBytes bytes;
    Event done;
  };
  /// Of one thread: while one piece is copied it reads into the other.
  struct Lane {
    std::vector<Piece> pieces;
    size_t next = 0;
  };
  void copy_piece(Lane& lane, std::span<const std::byte> from, std::byte* to);

  const std::shared_ptr<const Device> device_;
  std::mutex mutex_;
  std::optional<ThreadPool> pool_;
  std::vector<Lane> lanes_{1};
  Event copied_;
};

}  // namespace bumblebee::cuda
