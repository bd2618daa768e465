// What a loaded model is behind the public handle.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "bumblebee/model.h"
#include "exec/device_model.h"
#include "exec/local_executor.h"

namespace bumblebee::api {

DType dtype_of(KvType type);

std::vector<lora::AdapterCache::Part> parts_of(std::span<const WeightedAdapter> list);

struct ModelState {
  ModelInfo info;
  std::filesystem::path directory;  // of the checkpoint
  ModelOptions options;
  std::shared_ptr<exec::DeviceModel> device;

  const nn::Model& model() const { return device->model(); }
  /// With the model's type of keys and values.
  std::unique_ptr<exec::Executor> make_executor(exec::CacheLimits limits) const;
  /// The adapters, packed and composed; null for none. From any thread. Throws what AdapterCache::open() throws.
  std::shared_ptr<const lora::AdapterSet> open(std::span<const WeightedAdapter> adapters) const;
};

}  // namespace bumblebee::api
