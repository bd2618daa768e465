// An adapter on a device: every module's change as the backend wants it, and what it costs in memory. Immutable once
// made; requests that use it keep it alive.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>

#include "backend/backend.h"
#include "lora/identity.h"
#include "nn/model.h"

namespace bumblebee::lora {

/// Bytes of all adapters of a bank, also of those that only running requests still use.
struct DeviceMemory {
  std::atomic<uint64_t> used{0};
};

class Resident {
 public:
  Resident(const AdapterId& id, std::string name, std::shared_ptr<DeviceMemory> memory)
      : id_(id), name_(std::move(name)), memory_(std::move(memory)) {}
  ~Resident() { memory_->used.fetch_sub(bytes_, std::memory_order_relaxed); }
  Resident(const Resident&) = delete;
  Resident& operator=(const Resident&) = delete;

  const AdapterId& id() const { return id_; }
  const std::string& name() const { return name_; }
  uint64_t bytes() const { return bytes_; }
  /// What the adapter does by itself, by site; sites that it leaves as they are have no entry. Terms that add nothing
  /// (scale, A or B zero) are left out: what they would add to a negative zero would change its sign.
  const std::map<int, LoraEntry>& entries() const { return entries_; }

 private:
  friend std::shared_ptr<const Resident> make_resident(const KnownAdapter&, Backend&, const nn::Model&,
                                                       const std::string&, const std::shared_ptr<DeviceMemory>&,
                                                       const std::function<void(uint64_t)>&);
  AdapterId id_;
  std::string name_;
  std::shared_ptr<DeviceMemory> memory_;
  uint64_t bytes_ = 0;
  std::map<int, LoraEntry> entries_;
};

/// Fits the adapter to the model, `base` in messages, and packs it. Needs no lock: others may compute on the backend
/// meanwhile. `make_room` is called with the bytes of each part before they count, and may throw. Throws Error as fit()
/// does, and Error(bad_file) when a length that DoRA divides by is zero or not finite.
std::shared_ptr<const Resident> make_resident(const KnownAdapter& known, Backend& backend, const nn::Model& model,
                                              const std::string& base, const std::shared_ptr<DeviceMemory>& memory,
                                              const std::function<void(uint64_t)>& make_room);

}  // namespace bumblebee::lora
