// The table of routes, and looking a request up in it.
#include "serve/router.h"

#include <array>
#include <optional>

#include "base/utf8.h"

namespace bumblebee::serve {

namespace {

constexpr std::array<Route, kRouteCount> kRoutes = {{
    {RouteId::health, "GET", "/health", Scope::open, false},
    {RouteId::ready, "GET", "/ready", Scope::open, false},
    {RouteId::metrics, "GET", "/metrics", Scope::user, false},
    {RouteId::version, "GET", "/version", Scope::user, false},
    {RouteId::models, "GET", "/models", Scope::user, false},
    {RouteId::model, "GET", "/models/", Scope::user, false},
    {RouteId::chat_completions, "POST", "/chat/completions", Scope::user, true},
    {RouteId::completions, "POST", "/completions", Scope::user, true},
    {RouteId::tokenize, "POST", "/tokenize", Scope::user, false},
    {RouteId::detokenize, "POST", "/detokenize", Scope::user, false},
    {RouteId::apply_template, "POST", "/apply-template", Scope::user, false},
    {RouteId::list_adapters, "GET", "/lora_adapters", Scope::user, false},
    {RouteId::load_adapter, "POST", "/load_lora_adapter", Scope::admin, false},
    {RouteId::unload_adapter, "POST", "/unload_lora_adapter", Scope::admin, false},
}};

int digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/// Nothing for what decodes to no text: broken escapes, control characters, broken UTF-8.
std::optional<std::string> decoded(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size(); ++at) {
    char c = text[at];
    if (c == '%') {
      if (at + 2 >= text.size()) return std::nullopt;
      const int high = digit(text[at + 1]), low = digit(text[at + 2]);
      if (high < 0 || low < 0) return std::nullopt;
      c = char(high * 16 + low);
      at += 2;
    }
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) return std::nullopt;
    out += c;
  }
  if (out.empty() || !valid_utf8(out)) return std::nullopt;
  return out;
}

}  // namespace

std::span<const Route> routes() { return kRoutes; }

std::string_view to_string(RouteId id) {
  for (const Route& route : kRoutes) {
    if (route.id == id) return route.path;
  }
  return "";
}

Match match(std::string_view method, std::string_view path) {
  Match found;
  if (path.starts_with("/v1/")) path.remove_prefix(3);
  for (const Route& route : kRoutes) {
    const bool named = route.id == RouteId::model && path.starts_with(route.path);
    if (!named && path != route.path) continue;
    if (named) {
      std::optional<std::string> id = decoded(path.substr(route.path.size()));
      if (!id) return found;
      found.argument = std::move(*id);
    }
    found.route = &route;
    const bool get = route.method == "GET";
    found.allow = get ? "GET, HEAD, OPTIONS" : "POST, OPTIONS";
    if (method == route.method || (get && method == "HEAD"))
      found.kind = Match::Kind::route;
    else
      found.kind = method == "OPTIONS" ? Match::Kind::options : Match::Kind::wrong_method;
    return found;
  }
  return found;
}

}  // namespace bumblebee::serve
