// JSON read from outside, as Python's json reads it: bounded in size and depth, positions named. Writing is nlohmann's
// own. This header only names the library's types; files that look inside a value or build one include
// <nlohmann/json.hpp>, which is most of what they cost to compile.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace bumblebee {

using Json = nlohmann::json;
/// Keeps the order of keys: what is shown to a chat template or written back to a config must not be reshuffled.
using OrderedJson = nlohmann::ordered_json;

/// A value inside a struct whose header does not need to know the library. Never empty, unless it was moved from.
template <class J>
class Kept {
 public:
  Kept();  // null
  Kept(J value);
  Kept(const Kept& other);
  Kept(Kept&&) noexcept;
  Kept& operator=(Kept other) noexcept;
  ~Kept();
  operator const J&() const { return *value_; }
  const J& operator*() const { return *value_; }
  const J* operator->() const { return value_.get(); }

 private:
  std::unique_ptr<J> value_;
};
extern template class Kept<Json>;
extern template class Kept<OrderedJson>;

struct JsonLimits {
  size_t bytes = size_t{64} << 20;
  int depth = 64;
  bool finite = false;       // refuses NaN, Infinity and numbers beyond a double
  bool* repeated = nullptr;  // set where an object has a key twice; without it, that is logged
};

/// Parses hostile text. `where` names the file in errors. Throws Error(bad_file) on a syntax error, too much depth or
/// size, or text after the value, and says so when the text is a Git LFS pointer or a page of HTML. Of a key that is
/// there twice the last value counts. NaN, Infinity and numbers beyond a double become {"__float__": "NaN"}, the form
/// in which transformers and mlx-lm store them: harmless where nobody reads them, no number where somebody does.
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

bool is_object(const Json& value);
/// What Python calls false, which is how its libraries test whether an option is off.
bool is_falsy(const Json& value);
bool has_key(const Json& object, const char* key);

/// A short rendering of a value for error messages, never longer than about 60 characters.
std::string brief(const Json& value);

}  // namespace bumblebee
