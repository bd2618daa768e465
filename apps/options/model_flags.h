// Flags that say which model runs where, and loading with a progress bar.
#pragma once

#include <CLI/CLI.hpp>

#include <string>

#include "bumblebee/bumblebee.h"
#include "options/common.h"

namespace bumblebee::cli {

struct ModelFlags {
  std::string model;
  std::string device = "cpu";
  int threads = 0;
  std::string precision = "exact";
  std::string kv_type = "f32";
  std::string quantization = "none";
  int group_size = 64;

  ModelOptions options() const;
};

/// -m alone, for verbs that read files but run nothing.
CLI::Option* add_model_flag(CLI::App& verb, std::string& model);
/// -m and everything about running it.
void add_model_flags(CLI::App& verb, ModelFlags& flags);
/// The same without --threads, for verbs that take several.
void add_loading_flags(CLI::App& verb, ModelFlags& flags);
CLI::Option* add_kv_type_flag(CLI::App& verb, std::string& kv_type);

KvType kv_type_from(const std::string& name);

/// The place that -m names. Throws UsageError when it is empty.
Repository source(const std::string& model);

struct LoadedModel {
  Model model;
  double load_s = 0;
};
/// Loads with a progress bar; Ctrl-C cancels.
LoadedModel load(const ModelFlags& flags, const CommonFlags& common);

}  // namespace bumblebee::cli
