// The two dialects' readers, as read_adapter() calls them. Internal to this layer.
#pragma once

#include "lora/adapter_config.h"
#include "lora/read_adapter.h"
#include "lora/tensor_set.h"

namespace bumblebee::lora {

Adapter read_mlx(const TensorSet& tensors, const AdapterConfig& config, const ReadOptions& options);
Adapter read_peft(const TensorSet& tensors, const AdapterConfig& config);

/// Rounds the scale to f32. Throws Error(bad_config) when that is not finite.
float checked_scale(double scale, std::string_view where, std::string_view what);

}  // namespace bumblebee::lora
