// What the calling thread's card is like. For nvcc only.
#pragma once

#include <cuda_runtime.h>

namespace bumblebee::cuda {

/// An attribute of it, 0 where the driver does not know it; asked for once by a thread while its card stays the same:
/// asking costs a launch's time.
template <cudaDeviceAttr Attribute>
int card_attribute() {
  thread_local int known_device = -1, value = 0;
  int device = 0;
  cudaGetDevice(&device);
  if (device == known_device) return value;
  known_device = device;
  if (cudaDeviceGetAttribute(&value, Attribute, device) != cudaSuccess) value = 0, (void)cudaGetLastError();
  return value;
}

/// Whether blocks of a kernel may wait for each other: all multiprocessors are this process's while it has a turn. Not
/// under MPS, where another one may hold those of the blocks that are waited for.
inline bool blocks_may_wait() { return card_attribute<cudaDevAttrMpsEnabled>() == 0; }

/// Major compute capability of the code that runs on a card of `major`. A build with BB_CUDA_AS_SM80 has that of 8.0 on
/// every card.
constexpr int code_major(int major) {
#if defined(BB_CUDA_AS_SM80)
  (void)major;
  return 8;
#else
  return major;
#endif
}
/// The same of the calling thread's card.
inline int code_major() { return code_major(card_attribute<cudaDevAttrComputeCapabilityMajor>()); }

}  // namespace bumblebee::cuda
