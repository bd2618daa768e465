// What the calling thread's card is like. For nvcc only.
#pragma once

#include <cuda_runtime.h>

namespace bumblebee::cuda {

/// An attribute of it, asked for once by a thread while its card stays the same: asking costs a launch's time.
template <cudaDeviceAttr Attribute>
int card_attribute() {
  thread_local int known_device = -1, value = 0;
  int device = 0;
  cudaGetDevice(&device);
  if (device != known_device) cudaDeviceGetAttribute(&value, Attribute, device), known_device = device;
  return value;
}

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
