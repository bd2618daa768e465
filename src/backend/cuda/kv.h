// Pages of keys and values on the card, one layer after the other, each as its group has it. A page's memory is taken
// when a batch first names it, many pages at a time; batches carry addresses, so that nothing on the device depends on
// where a page lies.
#pragma once

#include <vector>

#include "backend/cuda/device.h"
#include "backend/cuda/kernels/views.h"
#include "backend/cuda/states.h"
#include "backend/kv_store.h"

namespace bumblebee::cuda {

class CudaKv final : public KvStore {
 public:
  /// Throws Error(unsupported) for an element type or a head that the kernels cannot do.
  CudaKv(std::shared_ptr<const Device> device, const KvShape& shape, ByteCounter counter);
  void copy_pages(std::span<const PageCopy> copies) override;
  /// Their memory serves other pages of this store.
  void release_pages(std::span<const int32_t> pages) override;

  /// Of a layer that keeps keys and values.
  KvView view(int layer) const;
  CudaStates& states() { return states_; }
  /// Of all its pages and states, once each has been written.
  uint64_t most_bytes() const { return uint64_t(shape().pages) * page_bytes_ + states_.most_bytes(); }
  /// Addresses on the device. Throws Error(out_of_memory).
  void resolve(std::span<const int32_t> pages, std::vector<const uint8_t*>& addresses);

 private:
  std::byte* page(int32_t page);

  const std::shared_ptr<const Device> device_;
  std::vector<KvView> groups_;  // each as its first layer
  uint64_t page_bytes_ = 0;
  std::vector<DeviceBytes> chunks_;
  std::vector<std::byte*> free_;   // pages of chunks that nobody has
  std::vector<std::byte*> pages_;  // by number; null: none yet
  CountedBytes resident_;          // pages in use
  CudaStates states_;
};

}  // namespace bumblebee::cuda
