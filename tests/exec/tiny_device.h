// A tiny model on a device, with adapters: what the tests of executors share.
#pragma once

#include <memory>
#include <string>

#include "exec/local_executor.h"
#include "lora/identity.h"
#include "models/registry.h"
#include "tests/models/adapting.h"
#include "tests/support/backends.h"
#include "tests/support/replay_backend.h"
#include "tests/support/tiny_model.h"

namespace bumblebee::exec {

inline std::shared_ptr<DeviceModel> tiny_device(const std::string& name, const testing_support::TinyModel& tiny = {}) {
  testing_support::register_replay_backend();
  std::unique_ptr<Backend> backend = require_device(name, {}).entry->create({.threads = 2, .instruction_set = {}});
  testing_support::MemoryWeights weights = tiny.weights();
  nn::Loader load(weights, backend.get());
  std::unique_ptr<nn::Model> model = models::make_model(models::read_spec(tiny.config(), "tiny"), load);
  return std::make_shared<DeviceModel>(std::move(backend), std::move(model), "tiny", uint64_t{1} << 32);
}

inline std::shared_ptr<const lora::AdapterSet> adapter_set(DeviceModel& device, const models::AdapterOptions& options,
                                                           uint64_t seed) {
  const lora::AdapterCache::Part part{lora::identify(models::random_adapter({}, options, seed)), 1};
  return device.adapters().open({&part, 1});
}

}  // namespace bumblebee::exec
