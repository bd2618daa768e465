// What the configs of all Gemmas share.
#pragma once

#include <nlohmann/json.hpp>

#include <string_view>
#include <vector>

#include "models/config_reader.h"

namespace bumblebee::models {

/// A config of which the reader of a family takes what is the family's own; the rest is held to what all decoders know.
class GemmaConfig {
 public:
  GemmaConfig(const Json& config, std::string_view where) : all_(config), rest_(config), where_(where) {}

  /// For a key that is absent or null.
  void default_to(const char* key, const Json& value);
  /// The key is understood here, whatever it says.
  void take(const char* key) { rest_.erase(key); }
  /// What all decoders' configs have, from what was not taken. The activation must be gelu by tanh.
  DecoderSpec common();

  /// A cap of tanh; null: none (0). `fallback` where the key is absent.
  float cap(const char* key, float fallback);
  /// Of each layer its window, 0 for those that see everything: `layer_types`, or else every `pattern`-th sees
  /// everything.
  std::vector<int> windows(int layers, int pattern, int default_window);
  /// The rotation of "full_attention" or "sliding_attention" layers. `top` are keys of the top level that older configs
  /// have for it in place of `rope_parameters`: those of theta and of scaling, or null.
  RopeParams rope(const char* kind, const char* theta, const char* scaling, int head_dim, int context,
                  const Json& defaults);

  const Json& all() const { return all_; }
  std::string_view where() const { return where_; }

 private:
  const Json& all_;
  Json rest_;
  std::string_view where_;
};

}  // namespace bumblebee::models
