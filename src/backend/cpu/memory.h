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

#ifdef NDEBUG
inline constexpr bool kGuarded = false;
#else
/// Builds with assertions: every buffer ends at an unmapped page (what is left of 64 bytes aside) and begins as NaN.
inline constexpr bool kGuarded = true;
#endif

/// 64-byte aligned bytes, from malloc's own arena.
struct AlignedFree {
  size_t size = 0;
  void operator()(std::byte* p) const;
};
using AlignedBytes = std::unique_ptr<std::byte, AlignedFree>;
AlignedBytes aligned_bytes(size_t size);
/// The same for activations: huge pages where they fit inside, and nothing rounded up to one.
AlignedBytes activation_bytes(size_t size);

/// Free buffers by capacity. Of those beyond the default limit, what is in use and what is free together never exceed
/// what was in use at once: sizes that no longer come make room for those that do. Buffers may outlive the backend:
/// each keeps the pool alive.
class Pool : public std::enable_shared_from_this<Pool> {
 public:
  /// An uninitialised matrix; filled with NaN (integers: -1) where buffers are guarded, so that a read before a write
  /// shows.
  Tensor make(int rows, int cols, DType dtype = DType::f32);
  size_t cached_bytes() const;
  size_t used_bytes() const;
  /// How much may be free and kept. What is beyond goes back to the system at once.
  void limit(size_t bytes);
  static constexpr size_t kDefaultLimit = size_t{256} << 20;  // more than the activations of a long prefill

 private:
  class PooledBuffer;
  void give_back(AlignedBytes bytes, size_t capacity);
  void shrink(size_t bytes);  // to so much that is free; under the mutex

  mutable std::mutex mutex_;
  std::multimap<size_t, AlignedBytes> free_;
  size_t cached_ = 0, used_ = 0, most_used_ = 0, limit_ = kDefaultLimit;
};

/// Address of the first byte of a tensor of this backend.
std::byte* bytes(const Tensor& tensor);
template <class T>
T* elements(const Tensor& tensor) {
  return reinterpret_cast<T*>(bytes(tensor));
}
/// Address of the first element of an f32 tensor of this backend.
inline float* data(const Tensor& tensor) { return elements<float>(tensor); }
inline float* row(const Tensor& tensor, int r) { return data(tensor) + size_t(r) * size_t(tensor.cols()); }

}  // namespace bumblebee::cpu
