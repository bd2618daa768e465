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

}  // namespace bumblebee::cuda
