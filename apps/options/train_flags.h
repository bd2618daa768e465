// The flags of `train`: mlx_lm.lora's, and those of ours. Each says what it changes in a TrainConfig, so that a file
// comes first and the command line and its variables win.
#pragma once

#include <functional>
#include <vector>

#include "config/train_config.h"
#include "options/parser.h"

namespace bumblebee::cli {

class TrainFlags {
 public:
  void add_to(Parser& verb);
  /// Reads the file of --config, lays the flags that were given over it, and checks what only both together show.
  TrainConfig config() const;

 private:
  template <class T, class Set>
  Option* value(Parser& verb, const char* names, const char* help, const char* text, Set set);
  template <class Set>
  Option* toggle(Parser& verb, const char* names, const char* help, Set set);
  void add_data(Parser& verb);
  void add_adapter(Parser& verb);
  void add_learning(Parser& verb);
  void add_cadence(Parser& verb);
  void add_output(Parser& verb);
  void add_report(Parser& verb);
  void add_without_effect(Parser& verb);

  std::string file_;
  const Option* iters_ = nullptr;
  /// Flags that change nothing unless something else is set, by a flag or in the file.
  struct Effect {
    const Option* option;
    const char* needed;
    bool (*has)(const TrainConfig&);
  };
  std::vector<Effect> effects_;
  std::vector<std::function<void(TrainConfig&)>> apply_;  // one a flag; does nothing where it was not given
};

}  // namespace bumblebee::cli
