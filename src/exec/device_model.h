// A model on its device: weights, adapters, and the lock that lets one step run at a time. What executors of one model
// share.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "exec/slots.h"
#include "lora/adapter_cache.h"
#include "nn/model.h"

namespace bumblebee::exec {

class DeviceModel : public std::enable_shared_from_this<DeviceModel> {
 public:
  /// `model`'s weights are on `backend`. `name` is for messages. At most `max_adapter_bytes` of packed adapters; 0:
  /// half of what the device has free now.
  DeviceModel(std::unique_ptr<Backend> backend, std::unique_ptr<nn::Model> model, const std::string& name,
              uint64_t max_adapter_bytes);
  DeviceModel(const DeviceModel&) = delete;
  DeviceModel& operator=(const DeviceModel&) = delete;

  /// Memory and packing: from any thread. Its stream belongs to whoever has the turn.
  Backend& backend() { return *backend_; }
  const nn::Model& model() const { return *model_; }
  lora::AdapterCache& adapters() { return adapters_; }

  SlotLease slot(const std::shared_ptr<const lora::AdapterSet>& set);
  /// Slots that somebody holds.
  int slots_in_use();

 private:
  friend class LocalExecutor;
  friend class SlotLease;

  /// Throws Error(bad_request) on a thread that would wait for itself: one that calls back from in_parallel().
  static void refuse_callbacks();
  /// Nobody else computes or changes slots while this lives. Throws as refuse_callbacks() does.
  class Turn {
   public:
    explicit Turn(DeviceModel& device);
    ~Turn() {
      device_.step_.unlock();
      device_.take_back();
    }
    Turn(const Turn&) = delete;

   private:
    DeviceModel& device_;
  };
  static thread_local bool called_back_;  // this thread runs a body of in_parallel()
  void give_back(int32_t slot) noexcept;
  /// Frees the slots that were given back meanwhile, unless somebody has the turn, who does it afterwards.
  void take_back() noexcept;

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<nn::Model> model_;  // after the backend: its weights die first
  lora::AdapterCache adapters_;
  std::mutex step_;
  Slots slots_;  // under step_
  std::mutex returned_mutex_;
  std::vector<int32_t> returned_;  // slots, under returned_mutex_; with room for all that are out
  size_t leases_ = 0;              // under returned_mutex_
};

}  // namespace bumblebee::exec
