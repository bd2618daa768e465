// Reads the YAML files of mlx_lm.lora into what train_adapter() takes. Every key of theirs has its meaning here, is
// noted as having no effect, or is refused by name; keys that nobody knows are refused too.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "bumblebee/train.h"

namespace bumblebee::cli {

struct TrainConfig {
  std::string model;
  bool train = false;  // `options.test` without it: the adapter in adapter_path is measured and nothing is trained
  TrainData data;
  TrainOptions options;  // but for `optimizer`'s settings, which follow from its kind
  std::map<OptimizerKind, OptimizerOptions> optimizers;
  std::vector<std::string> notes;  // keys that were understood and change nothing here

  /// The options with the settings of the chosen optimizer.
  TrainOptions chosen() const;
};

/// Lays the file over `config`. Throws Error `bad_file` for what is not YAML, `bad_config` for unknown keys and values
/// of another kind (naming line and key), `unsupported` for keys whose work is not done here.
void read_train_config(const std::filesystem::path& path, TrainConfig& config);
/// The same from memory; `where` names it in errors.
void parse_train_config(const std::string& text, std::string_view where, TrainConfig& config);

OptimizerKind optimizer_from(const std::string& name, std::string_view where);
/// The word that optimizer_from() takes.
std::string optimizer_name(OptimizerKind kind);

}  // namespace bumblebee::cli
