// adapter_config.json, the settings beside an adapter's tensors, and values in it that more than one reader needs.
// Internal to the readers.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace bumblebee::lora {

/// adapter_config.json.
struct AdapterConfig {
  std::string where;  // the file
  Kept<Json> json;
  Kept<OrderedJson> ordered;  // the same: patterns are tried in the file's order

  static AdapterConfig parse(std::string_view text, std::string where);
  /// Throws Error(bad_file, bad_config).
  static AdapterConfig open(const std::filesystem::path& directory);
  /// The value of a key; null when it is absent or null.
  const Json* find(const char* key) const;
};

/// Facts that both formats have: what training dropped, under the format's own `dropout_key` (null: not looked for),
/// and what the adapter was trained on top of, which is a key of ours.
void add_common_facts(const Json& object, const char* dropout_key, std::string_view where,
                      std::map<std::string, std::string>& facts);

/// A list of strings under `key`, or one string as a list; empty when absent or null. Throws Error(bad_config).
std::vector<std::string> strings_or(const Json& object, const char* key, std::string_view where);

}  // namespace bumblebee::lora
