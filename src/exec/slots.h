// Which number a batch's rows name a set of adapters by, and what the adapters of a batch have in common with those of
// others. Changed between steps only.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "lora/adapter_cache.h"
#include "nn/model.h"

namespace bumblebee::exec {

class Slots {
 public:
  Slots(Backend& backend, const std::vector<nn::TargetModule>& modules);

  /// Equal sets share a slot; each acquire() needs a release().
  int32_t acquire(const std::shared_ptr<const lora::AdapterSet>& set);
  void release(int32_t slot);
  int used() const { return int(by_set_.size()); }

  /// Of a batch whose rows have these slots; lives as long as this.
  const LoraShape& shape(std::span<const int32_t> slot_of_row);

 private:
  struct Slot {
    std::shared_ptr<const lora::AdapterSet> set;
    int references = 0;
  };
  const LoraShape& intern(std::vector<uint8_t> flags);
  void tell_backend(int32_t slot, const lora::AdapterSet* set) const;

  Backend& backend_;
  std::vector<nn::TargetModule::Kind> kinds_;  // of the target modules
  std::vector<Slot> slots_;
  std::vector<int32_t> free_;
  std::unordered_map<const lora::AdapterSet*, int32_t> by_set_;
  LoraShape none_;
  std::map<std::string, std::unique_ptr<const LoraShape>> shapes_;  // by flags; never forgotten: ids stay
  std::map<std::vector<int32_t>, const LoraShape*> known_;          // by the slots of a batch, as they are now
};

class DeviceModel;

/// A slot while this lives; -1 for none. Given back in the order of the device, without waiting for a running step.
class SlotLease {
 public:
  SlotLease() = default;
  SlotLease(std::shared_ptr<DeviceModel> device, int32_t slot) : device_(std::move(device)), slot_(slot) {}
  SlotLease(SlotLease&& other) noexcept : device_(std::move(other.device_)), slot_(std::exchange(other.slot_, -1)) {}
  SlotLease& operator=(SlotLease&& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(slot_, other.slot_);
    return *this;
  }
  ~SlotLease();
  int32_t slot() const { return slot_; }

 private:
  std::shared_ptr<DeviceModel> device_;
  int32_t slot_ = -1;
};

}  // namespace bumblebee::exec
