// Leases may end on any thread, also while a step runs: the slot waits for the end of it.
#include "exec/device_model.h"

#include <utility>

#include "base/error.h"

namespace bumblebee::exec {

thread_local bool DeviceModel::called_back_ = false;

void DeviceModel::refuse_callbacks() {
  if (called_back_) {
    throw Error(ErrorCode::bad_request, "model",
                "nothing can be computed from here: a listener is on the threads that compute; do it elsewhere");
  }
}

DeviceModel::Turn::Turn(DeviceModel& device) : device_(device) {
  refuse_callbacks();
  device_.step_.lock();
}

DeviceModel::DeviceModel(std::unique_ptr<Backend> backend, std::unique_ptr<nn::Model> model, const std::string& name,
                         uint64_t max_adapter_bytes)
    : backend_(std::move(backend)),
      model_(std::move(model)),
      adapters_(*backend_, *model_, name, max_adapter_bytes > 0 ? max_adapter_bytes : backend_->memory().free / 2),
      slots_(*backend_, model_->target_modules()) {}

SlotLease DeviceModel::slot(const std::shared_ptr<const lora::AdapterSet>& set) {
  if (set == nullptr) return {};
  {
    const std::lock_guard lock(returned_mutex_);
    returned_.reserve(leases_ + 1);  // a lease that ends must not fail
    ++leases_;
  }
  try {
    const Turn turn(*this);
    return SlotLease(shared_from_this(), slots_.acquire(set));
  } catch (...) {
    const std::lock_guard lock(returned_mutex_);
    --leases_;
    throw;
  }
}

int DeviceModel::slots_in_use() {
  const Turn turn(*this);
  return slots_.used();
}

void DeviceModel::give_back(int32_t slot) noexcept {
  {
    const std::lock_guard lock(returned_mutex_);
    returned_.push_back(slot);
  }
  take_back();
}

void DeviceModel::take_back() noexcept {
  while (true) {
    {
      const std::lock_guard lock(returned_mutex_);
      if (returned_.empty()) return;
    }
    const std::unique_lock step(step_, std::try_to_lock);
    if (!step) return;
    const std::lock_guard lock(returned_mutex_);
    for (const int32_t slot : returned_) slots_.release(slot);
    leases_ -= returned_.size();
    returned_.clear();
  }
}

SlotLease::~SlotLease() {
  if (slot_ >= 0) device_->give_back(slot_);
}

}  // namespace bumblebee::exec
