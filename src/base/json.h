// JSON read from outside: bounded in size and depth, duplicate keys refused, positions named. Writing is nlohmann's
// own.
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <string>
#include <string_view>

namespace bumblebee {

using Json = nlohmann::json;
/// Keeps the order of keys: what is shown to a chat template or written back to a config must not be reshuffled.
using OrderedJson = nlohmann::ordered_json;

struct JsonLimits {
  size_t bytes = size_t{64} << 20;
  int depth = 64;
};

/// Parses hostile text. `where` names the file in errors. Throws Error(bad_file) on a syntax error, too much depth or
/// size, a duplicate key or text after the value.
Json parse_json(std::string_view text, std::string_view where, const JsonLimits& limits = {});
OrderedJson parse_ordered_json(std::string_view text, std::string_view where, const JsonLimits& limits = {});

/// Typed access with named errors. Each throws Error(bad_config) naming `where`, the key, what was expected and what
/// was found; the `_or` forms return the fallback when the key is absent or null, and still refuse a value of the wrong
/// type.
int64_t require_int(const Json& object, const char* key, std::string_view where, int64_t low, int64_t high);
int64_t int_or(const Json& object, const char* key, std::string_view where, int64_t low, int64_t high,
               int64_t fallback);
double number_or(const Json& object, const char* key, std::string_view where, double fallback);
bool bool_or(const Json& object, const char* key, std::string_view where, bool fallback);
std::string string_or(const Json& object, const char* key, std::string_view where, std::string_view fallback);

/// A short rendering of a value for error messages, never longer than about 60 characters.
std::string brief(const Json& value);

}  // namespace bumblebee
