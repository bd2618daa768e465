// What recurrent layers keep of sequences, on the card. A state's memory is taken when a batch first names it, several
// at a time; batches carry addresses, so that nothing on the device depends on where a state lies. Layer by layer it
// holds the convolution's rows, then each head's matrix column by column (kernels/recurrent.h).
#pragma once

#include <vector>

#include "backend/batch.h"
#include "backend/cuda/device.h"
#include "backend/cuda/kernels/views.h"
#include "backend/kv_store.h"

namespace bumblebee::cuda {

class CudaStates {
 public:
  /// Throws Error(unsupported) for heads that the kernels cannot do. Without a group of states there are none.
  CudaStates(std::shared_ptr<const Device> device, const KvShape& shape, ByteCounter counter);

  /// Floats from a state's beginning to what a layer keeps of the convolution, and of its heads.
  size_t conv_at(int layer_of_group) const { return size_t(layer_of_group) * layer_floats_; }
  size_t heads_at(int layer_of_group) const { return conv_at(layer_of_group) + conv_floats_; }
  /// Of all of them, once each has been written.
  uint64_t most_bytes() const { return uint64_t(states_.size()) * layers_floats_ * sizeof(float); }
  /// Where the batch's segments read and write, one after the other; nothing where there are no states. Throws
  /// Error(out_of_memory).
  void resolve(const Batch& batch, std::vector<StateView>& views);

 private:
  float* state(int32_t number);

  const std::shared_ptr<const Device> device_;
  size_t conv_floats_ = 0, layer_floats_ = 0, layers_floats_ = 0;
  std::vector<DeviceBytes> chunks_;
  std::vector<float*> free_;    // of the last chunk
  std::vector<float*> states_;  // by number; null: none yet
  CountedBytes resident_;       // states in use
};

}  // namespace bumblebee::cuda
