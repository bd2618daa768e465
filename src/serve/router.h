// Which requests there are: method, path, and who may make them. What is not in the table is refused.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace bumblebee::serve {

enum class RouteId : uint8_t {
  health,
  ready,
  metrics,
  version,
  models,
  model,
  chat_completions,
  completions,
  tokenize,
  detokenize,
  apply_template,
  list_adapters,
  load_adapter,
  unload_adapter,
};
inline constexpr int kRouteCount = 14;
std::string_view to_string(RouteId id);  // its path without /v1, as metrics and logs have it

/// open: anybody; user: whoever has a key, where there are keys; admin: whoever has a key of administration.
enum class Scope : uint8_t { open, user, admin };

struct Route {
  RouteId id;
  std::string_view method;  // GET answers HEAD too
  std::string_view path;    // with and without /v1 before it
  Scope scope;
  bool generates;  // takes a place in the serving's queue
};
std::span<const Route> routes();

struct Match {
  enum class Kind : uint8_t { route, options, no_such_path, wrong_method };
  Kind kind = Kind::no_such_path;
  const Route* route = nullptr;  // of options and wrong_method: that of the path
  std::string argument;          // /models/ID: the ID, decoded
  std::string allow;             // methods of the path
};
/// `path` as it was sent: only the ID of a model is decoded, so that no spelling reaches a route but its own.
Match match(std::string_view method, std::string_view path);

}  // namespace bumblebee::serve
