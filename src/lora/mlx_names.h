// Names of modules in mlx-lm's models, where they depend on more than the module. Which of its classes hold the text
// model as a part is known here alone.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "base/json.h"

namespace bumblebee::lora {

/// What comes before the text model's own names ("model.layers.0...") in mlx-lm's model of a base with this
/// config.json, text-only files included: "language_model." or nothing.
std::string mlx_prefix(const Json& config);
/// The same, of a checkpoint's directory; nothing where it has no config.json. Throws Error for one that is broken.
std::string mlx_prefix(const std::filesystem::path& directory);

}  // namespace bumblebee::lora
