// A checkpoint directory as a WeightSource: its safetensors files, shards and index together with what config.json says
// about quantization. Every tensor is checked when it is asked for; nothing is read before.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "io/hf_config.h"
#include "io/safetensors.h"
#include "quant/weight_source.h"

namespace bumblebee {

/// What `bumblebee info` prints of one module (a `.weight` with its scales and biases) or lone tensor.
struct StoredModule {
  std::string name;             // module path when it has scales, else the tensor's full name
  Format format;                // dense(dtype) or affine(...)
  std::vector<uint64_t> shape;  // logical: unpacked for quantized modules
  uint64_t bytes = 0;           // in the file, scales and biases included
};

/// Whether a tensor or module is of a part that text never passes: what sees or hears, or guesses tokens ahead (mtp).
bool is_beside_text(std::string_view name);
/// What other tools divide activations and cached keys and values by where these have eight bits too; here they have
/// not.
bool is_activation_scale(std::string_view name);

/// Some rows of every matrix of a stack in Hugging Face's layout, [experts, rows, in], and what mlx-lm calls them.
struct FusedExperts {
  std::string tensor, module;  // full names
  uint64_t part = 0, parts = 1;
};
/// What lies in the tensor of that name, in the order of its rows: gate before up, or down alone. Empty for other names
/// and for families whose files have no such stacks, or have them otherwise.
std::vector<FusedExperts> fused_experts(std::string_view tensor, const HfConfig& config);

/// An open directory. Not safe for use by several threads at once (it counts claims); the weights it hands out are.
class Checkpoint : public WeightSource {
 public:
  /// Opens `directory`: model.safetensors, or the shards that model.safetensors.index.json names, or every
  /// model*.safetensors. Throws Error naming the file. Directories with only pickle or GGUF weights are refused with a
  /// hint.
  static std::unique_ptr<Checkpoint> open(const std::filesystem::path& directory);

  HostWeight matrix(const std::string& path, int out, int in) override;
  HostWeight experts(const std::string& path, int experts, int out, int in) override;
  HostWeight vector(const std::string& name, int size) override;
  HostWeight vectors(const std::string& name, int count, int size) override;
  HostWeight depthwise(const std::string& name, int cols, int kernel, bool& by_torch) override;
  bool has(const std::string& name) const override;
  bool has_module(const std::string& path) const override { return bool(parts(full(path)).weight); }
  void ignore(const std::string& name) override;
  void leave_out(const std::string& prefix) override { left_out_.push_back(full(prefix)); }
  std::vector<std::string> unclaimed() const override;

  const HfConfig& config() const { return config_; }
  const std::filesystem::path& directory() const { return directory_; }

  /// A tensor by its full name in the files; empty when there is none.
  struct Found {
    const SafetensorsFile* file = nullptr;
    const TensorEntry* tensor = nullptr;
    explicit operator bool() const { return tensor != nullptr; }
    std::span<const std::byte> bytes() const { return file->bytes(*tensor); }
  };
  Found find(const std::string& name) const;
  /// The name in the files of what the text model calls `name`, a module or a tensor, whether it is there or not.
  std::string full(const std::string& name) const;
  /// The other way round; empty for what lies beside the text model.
  std::string plain(const std::string& name) const;
  /// Every tensor name, sorted.
  std::vector<std::string> names() const;
  const std::vector<std::shared_ptr<const SafetensorsFile>>& files() const { return files_; }

  /// The quantized module `path` (full name in the files) as config and tensors agree on it; empty when it is dense.
  /// A module that `quantization` does not name has the mode, width and group of its shapes and types, affine ones as
  /// soon as their inputs are known; until then those of the top level. Throws like matrix() when they do not agree.
  /// Leading axes (experts) are allowed.
  std::optional<Format> quantized_format(const std::string& path) const;
  /// What fused_experts() names, dense; nothing is copied. Throws Error(bad_file or unsupported) for other shapes and
  /// types.
  HostWeight fused_stack(const FusedExperts& fused) const;
  /// All of a quantized module (full name in the files), leading axes as experts. Throws like quantized_format().
  HostWeight quantized_module(const std::string& path) const;

  /// Tensors of one module. Another tool's names are known where `quantization_config` names its method.
  struct Parts {
    TensorNames names = TensorNames::mlx;
    Found weight, scales, biases, global;
    std::vector<const Found*> all() const { return {&weight, &scales, &biases, &global}; }
  };
  Parts parts(const std::string& path) const;

  /// How many inputs modules have (names as the text model has them), from whoever knows the model: shapes then say
  /// what `quantization` leaves open.
  void set_inputs(const std::map<std::string, int>& inputs);
  /// Everything in the files, by module. Throws when a quantized module is broken.
  std::vector<StoredModule> modules() const;

  uint64_t file_bytes() const;
  /// Weights of the model: a quantized matrix counts out·in; scales and biases of quantization do not count.
  uint64_t parameters() const;

 private:
  Checkpoint() = default;
  void open_files();
  /// False when the index is another packaging's: nothing is opened then.
  bool open_indexed(const std::filesystem::path& index);
  void add_file(const std::filesystem::path& path);
  void find_prefix();
  QuantizationConfig::Rule rule(const std::string& path) const;
  Found dense(const std::string& name) const;
  HostWeight stored(const std::string& path, const std::vector<uint64_t>& leading, int in);
  std::optional<HostWeight> blocks(const std::string& name, int experts, int out, int in);
  std::optional<HostWeight> fused(const std::string& name, int experts, int out, int in);
  std::optional<HostWeight> block_biases(const std::string& name, int experts, int out);
  HostWeight floats(const std::string& short_name, const std::vector<uint64_t>& shape);
  void note_shapes() const;

  std::filesystem::path directory_;
  HfConfig config_;
  std::vector<std::shared_ptr<const SafetensorsFile>> files_;
  std::map<std::string, Found, std::less<>> tensors_;
  std::string prefix_;  // when the text model is packed inside a vision model's checkpoint: "language_model.", or
                        // "model.language_model." in place of "model."
  bool head_outside_ = false;  // "language_model.model...." beside a plain "lm_head"
  std::set<std::string> claimed_;
  std::vector<std::string> left_out_;                   // beginnings of names
  std::map<std::string, int> inputs_;                   // of modules, where they are known
  mutable std::map<std::string, QuantSpec> by_shapes_;  // what their shapes say and the config does not
  std::shared_ptr<const void> keep_;  // the open files, handed to every weight: its tensors may lie in several shards
};

}  // namespace bumblebee
