// What a loaded model is behind the public handle: weights on a backend, and the lock that lets one step run at a time.
#pragma once

#include <filesystem>
#include <memory>
#include <mutex>
#include <span>
#include <utility>

#include "backend/backend.h"
#include "bumblebee/model.h"
#include "lora/bank.h"
#include "nn/model.h"

namespace bumblebee::engine {

struct ModelState {
  ModelInfo info;
  std::filesystem::path directory;  // of the checkpoint
  ModelOptions options;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<nn::Model> model;  // after the backend: its weights die first
  std::unique_ptr<lora::AdapterBank> adapters;

  /// A backend computes one bound batch at a time. Held for one step, so that servings of one model and Model::logits
  /// take turns; also while slots of adapters are taken and given back.
  std::mutex compute;

  KvShape kv_shape(int pages, int page_size) const;
  /// The adapters, packed and composed; null for none. From any thread. Throws what AdapterBank::open() throws.
  std::shared_ptr<const lora::AdapterSet> open(std::span<const WeightedAdapter> adapters) const;
};

/// The slot of a set while this lives; -1 for none. Made and destroyed without the lock of computing.
class SlotLease {
 public:
  SlotLease(ModelState& model, const std::shared_ptr<const lora::AdapterSet>& set) : model_(&model) {
    if (set == nullptr) return;
    const std::lock_guard lock(model.compute);
    slot_ = model.adapters->acquire(set);
  }
  SlotLease(SlotLease&& other) noexcept : model_(other.model_), slot_(std::exchange(other.slot_, -1)) {}
  SlotLease& operator=(SlotLease&&) = delete;
  ~SlotLease() {
    if (slot_ < 0) return;
    const std::lock_guard lock(model_->compute);
    model_->adapters->release(slot_);
  }
  int32_t slot() const { return slot_; }

 private:
  ModelState* model_;
  int32_t slot_ = -1;
};

}  // namespace bumblebee::engine
