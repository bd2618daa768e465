// config.json of a checkpoint directory: the JSON itself, and the rules that say which modules are quantized and how.
// What the other keys mean is for the models layer.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"
#include "quant/format.h"

namespace bumblebee {

/// Whose names a checkpoint's quantized tensors have.
enum class TensorNames : uint8_t {
  mlx,                 // weight, scales, biases, global_scale
  modelopt,            // weight, weight_scale, weight_scale_2
  compressed_tensors,  // weight_packed, weight_scale, weight_global_scale
  blocks,              // weight, weight_scale_inv of blocks of 32 by 32
};

/// The `quantization` object, as mlx-lm reads it. Entries do not inherit: a missing mode means affine, a missing or
/// null width or group means the default of the mode (of affine 4 and 64), whatever the top level says.
class QuantizationConfig {
 public:
  /// What the config says of one module.
  enum class Says : uint8_t {
    nothing,    // there is no quantization object at all
    top_level,  // not listed: quantized as the top level says if the file holds its scales, else dense
    quantized,  // listed: its scales must be there
    dense,      // listed as false (or as Python would read false): must be dense
  };
  struct Rule {
    Says says = Says::nothing;
    QuantSpec spec;
    bool global_scale = false;  // an entry says that there is one
  };

  /// Nothing is quantized.
  QuantizationConfig() = default;

  /// Reads `quantization`, or `quantization_config`, from `config` or its `text_config`. Of other tools' methods those
  /// are read whose weights are mxfp4, mxfp8 or nvfp4. Throws Error(bad_config) for a value of the wrong kind and
  /// Error(unsupported), naming it, for another mode or method. `where` names the file.
  static QuantizationConfig from_json(const Json& config, std::string_view where);

  /// Throws Error(bad_config) when the entry of this module is neither an object nor true nor false nor null.
  Rule rule(const std::string& module) const;

  /// The width and group `module` has if it is quantized; empty when it must be dense.
  std::optional<QuantSpec> resolve(const std::string& module) const;

  bool present() const { return present_; }
  /// Of modules that have no `scales`.
  TensorNames names() const { return names_; }
  QuantSpec top_level() const { return top_; }
  /// The modules listed one by one.
  const std::map<std::string, Rule>& listed() const { return listed_; }

 private:
  void read(const Json& object);
  void read_method(const Json& object);

  std::string where_;
  bool present_ = false;
  TensorNames names_ = TensorNames::mlx;
  QuantSpec top_;
  std::map<std::string, Rule> listed_;
  std::map<std::string, std::string>
      strange_;  // key -> its value, refused only if a module has that name, as mlx-lm does
};

/// A checkpoint's config.json.
struct HfConfig {
  std::filesystem::path path;
  Kept<Json> json;
  QuantizationConfig quantization;

  /// Reads `directory`/config.json, and where that does not speak of quantization ModelOpt's hf_quant_config.json.
  /// Throws Error(bad_file or bad_config), and Error(unsupported) for a repository whose model is Python code
  /// (`model_file`).
  static HfConfig open(const std::filesystem::path& directory);
  static HfConfig parse(std::string_view text, const std::filesystem::path& path);

  /// The object that describes the language model: `text_config` when there is one, else the whole.
  const Json& text() const;
  bool has_text_config() const;

  /// How mlx-lm quantizes `module` where `wanted` is asked for: it keeps the router of a mixture of experts
  /// at 8 bits, and leaves it dense in the families that count `n_routed_experts`.
  std::optional<QuantSpec> quantized_as(const std::string& module, QuantSpec wanted) const;
};

}  // namespace bumblebee
