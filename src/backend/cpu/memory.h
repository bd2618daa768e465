// Memory of the CPU backend: aligned buffers that return to a pool, so that a warm step allocates nothing from the
// system.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "tensor/tensor.h"

namespace bumblebee::cpu {

/// 64-byte aligned bytes, from malloc's own arena.
struct AlignedFree {
  void operator()(void* p) const;
};
using AlignedBytes = std::unique_ptr<std::byte, AlignedFree>;
AlignedBytes aligned_bytes(size_t size);

/// Free buffers by capacity. Buffers may outlive the backend: each keeps the pool alive.
class Pool : public std::enable_shared_from_this<Pool> {
 public:
  /// An uninitialised f32 matrix; NaN-filled in builds with assertions, so that a read before a write shows.
  Tensor make(int rows, int cols);
  size_t cached_bytes() const;

 private:
  class PooledBuffer;
  void give_back(AlignedBytes bytes, size_t capacity);

  mutable std::mutex mutex_;
  std::multimap<size_t, AlignedBytes> free_;
  size_t cached_ = 0;
};

/// Address of the first element of an f32 tensor of this backend.
float* data(const Tensor& tensor);
inline float* row(const Tensor& tensor, int r) { return data(tensor) + size_t(r) * size_t(tensor.cols()); }

}  // namespace bumblebee::cpu
