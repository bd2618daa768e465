// Flags that say which model runs where, and loading with a progress bar.
#pragma once

#include <string>

#include "bumblebee/bumblebee.h"
#include "options/common.h"

namespace bumblebee::cli {

struct ModelFlags {
  std::string model;
  std::string device = "cpu";
  int threads = 0;
  std::string pin = "auto";
  std::string precision = "fast";
  std::string kv_type = "auto";
  std::string quantization = "none";
  int group_size = 64;

  ModelOptions options() const;
  /// The type that "auto" stands for, else kv_type.
  std::string kv_type_used() const { return kv_type != "auto" ? kv_type : precision == "exact" ? "f32" : "bf16"; }
};

/// -m alone, for verbs that read files but run nothing.
Option* add_model_flag(Parser& verb, std::string& model);
/// -m and everything about running it.
void add_model_flags(Parser& verb, ModelFlags& flags);
/// The same without --threads, for verbs that take several.
void add_loading_flags(Parser& verb, ModelFlags& flags);
void add_kv_type_flags(Parser& verb, std::string& kv_type);

Option* add_pin_flag(Parser& verb, std::string& pin);

KvType kv_type_from(const std::string& name);
Pinning pinning_from(const std::string& name);

/// The place that -m names. Throws UsageError when it is empty.
Repository source(const std::string& model, const CommonFlags& common);

struct LoadedModel {
  Model model;
  double load_s = 0;
};
/// Loads with a progress bar; Ctrl-C cancels.
LoadedModel load(const ModelFlags& flags, const CommonFlags& common);

}  // namespace bumblebee::cli
