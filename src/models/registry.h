// From a config to a model. Families that are not listed, and settings of listed ones that we lack, are refused by
// name.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "models/decoder.h"

namespace bumblebee::models {

/// What a config describes.
struct ModelSpec {
  std::string family;  // "llama", "qwen3_moe": a model_type that is supported
  DecoderSpec decoder;
  /// Claims the weights of a family that is not the one decoder; else empty.
  std::function<std::unique_ptr<nn::Model>(nn::Loader&)> make = nullptr;
};

/// Reads config.json. Throws Error(unsupported) for another `model_type` (listing those that are supported) or for a
/// setting that changes the result and is not implemented; Error(bad_config) for what is missing or out of range.
/// `where` names the file.
ModelSpec read_spec(const Json& config, std::string_view where);

/// Claims every tensor from `load` and finishes it.
std::unique_ptr<nn::Model> make_model(const ModelSpec& spec, nn::Loader& load);

/// The names of the families, in alphabetical order.
std::vector<std::string> families();

}  // namespace bumblebee::models
