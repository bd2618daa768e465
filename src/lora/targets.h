// Which modules an adapter's config says it was trained on. The tensors decide what an adapter changes; this is what
// they are checked against: in the file when it is read, and in the base when it is bound to it.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lora/pattern.h"

namespace bumblebee::lora {

/// The number N of "….layers.N.…"; -1 when the path has none.
int layer_of(std::string_view path);
/// The path inside its layer ("self_attn.q_proj"), or the whole path when it is in none.
std::string_view inside_layer(std::string_view path);

class Targets {
 public:
  /// mlx-lm: `keys` are paths inside a layer, or whole paths for modules outside; only the last `last_layers` layers
  /// when positive.
  static Targets mlx(std::vector<std::string> keys, int last_layers);

  struct Peft {
    std::vector<std::string> names = {};     // whole paths, or endings after a dot
    std::optional<Pattern> pattern = {};     // instead of names: the whole path
    bool all_linear = false;                 // instead of names: all but the output layer
    std::vector<std::string> excluded = {};  // like names
    std::optional<Pattern> excluded_pattern = {};
    std::optional<std::vector<int>> layers = {};   // with names only
    std::vector<std::string> layer_patterns = {};  // the component before a layer's number; any when empty
  };
  static Targets peft(Peft peft);

  /// Whether the config names this module. `layers` is the base's number of layers, 0 when it is not known (then
  /// mlx-lm's "last n" is not applied). `embedding` tells all_linear that this is none.
  bool covers(std::string_view path, int layers, bool embedding = false) const;

  /// Whether the config lists layers (PEFT's layers_to_transform).
  bool names_layers() const { return peft_.layers.has_value(); }

  /// Steps that covers() takes per byte of a path, at most.
  size_t cost() const;

 private:
  bool covers_peft(std::string_view path, bool embedding) const;

  bool is_mlx_ = true;
  std::vector<std::string> keys_;
  int last_layers_ = 0;
  Peft peft_;
};

}  // namespace bumblebee::lora
