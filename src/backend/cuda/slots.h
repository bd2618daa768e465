// The table behind Backend::set_slot() on the card. Kernels look rows' slots up, so that a replayed step sees what was
// changed between steps.
#pragma once

#include <memory>
#include <vector>

#include "backend/cuda/kernels/views.h"
#include "backend/cuda/memory.h"
#include "backend/lora.h"

namespace bumblebee::cuda {

/// Up to so many slots rows of a step are taken to share them.
inline constexpr int kFewSlots = 8;

class CudaSlots {
 public:
  CudaSlots(std::shared_ptr<const Device> device, std::shared_ptr<Pool> pool);

  void set(int32_t slot, std::span<const LoraEntry* const> by_site);
  const SlotTableView* view() const { return reinterpret_cast<const SlotTableView*>(address(*table_)); }

  /// What launches depend on beside the batch; it only grows, and `version` changes with it: steps that were recorded
  /// before are no longer right.
  struct Bounds {
    int sites = 0;         // modules of a slot
    int ranks = 0;         // of all terms of one slot and module, or expert of it, each padded_rank()
    bool many = false;     // slots: more than kFewSlots
    bool weights = false;  // some entry brings a weight of its own
    bool more = false;     // some entry does more than add terms: a factor, a bias, a weight
    bool rest = false;     // some entry is not is_wide() (kernels/wide_site.cuh): products of many rows leave it
    int version = 0;
  };
  const Bounds& bounds() const { return bounds_; }
  /// On the host; null: nothing.
  const LoraEntry* at(int32_t slot, int site) const { return host_.at(slot, site); }

 private:
  void copy(const void* from, size_t size, const Buffer& to);

  const std::shared_ptr<const Device> device_;
  const std::shared_ptr<Pool> pool_;
  std::shared_ptr<Buffer> table_, slots_;
  std::vector<std::shared_ptr<Buffer>> sites_;  // by slot
  std::vector<SlotView> views_;
  size_t capacity_ = 0;  // of slots_
  SlotTable host_;
  Bounds bounds_;
};

}  // namespace bumblebee::cuda
