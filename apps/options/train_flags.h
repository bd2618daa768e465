// The flags of `train`: mlx_lm.lora's, and those of ours. Each says what it changes in a TrainConfig, so that a file
// comes first and the command line and its twins win.
#pragma once

#include <CLI/CLI.hpp>

#include <functional>
#include <vector>

#include "config/train_config.h"

namespace bumblebee::cli {

class TrainFlags {
 public:
  void add_to(CLI::App& verb);
  /// Reads the file of --config, lays the flags that were given over it, and checks what only both together show.
  TrainConfig config() const;

 private:
  template <class T, class Set>
  CLI::Option* value(CLI::App& verb, const char* names, const char* help, const char* text, Set set);
  template <class Set>
  CLI::Option* toggle(CLI::App& verb, const char* names, const char* help, Set set);
  void add_data(CLI::App& verb);
  void add_adapter(CLI::App& verb);
  void add_learning(CLI::App& verb);
  void add_cadence(CLI::App& verb);
  void add_output(CLI::App& verb);
  void add_without_effect(CLI::App& verb);

  std::string file_;
  std::vector<std::function<void(TrainConfig&)>> apply_;  // one a flag; does nothing where it was not given
};

}  // namespace bumblebee::cli
