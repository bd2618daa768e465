// The rules are those of mlx-lm's linear_to_lora_layers and of PEFT's check_target_module_exists.
#include "lora/targets.h"

#include <algorithm>

namespace bumblebee::lora {
namespace {

bool is_number(std::string_view text) {
  return !text.empty() && text.size() <= 6 &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

int to_number(std::string_view digits) {
  int n = 0;
  for (const char c : digits) n = n * 10 + (c - '0');
  return n;
}

/// Calls `each(component before, component, end of component)` along the path until it returns true.
template <class F>
bool walk(std::string_view path, const F& each) {
  std::string_view before;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('.', begin), path.size());
    const std::string_view part = path.substr(begin, end - begin);
    if (each(before, part, begin, end)) return true;
    before = part;
    begin = end + 1;
  }
  return false;
}

bool contains(const std::vector<std::string>& names, std::string_view path) {
  return std::any_of(names.begin(), names.end(), [&](const std::string& name) { return path == name; });
}

bool ends_with_one(const std::vector<std::string>& names, std::string_view path) {
  return std::any_of(names.begin(), names.end(), [&](const std::string& name) {
    return path.size() > name.size() && path.ends_with(name) && path[path.size() - name.size() - 1] == '.';
  });
}

}  // namespace

int layer_of(std::string_view path) {
  int layer = -1;
  walk(path, [&](std::string_view before, std::string_view part, size_t, size_t) {
    if (before != "layers" || !is_number(part)) return false;
    layer = to_number(part);
    return true;
  });
  return layer;
}

std::string_view inside_layer(std::string_view path) {
  std::string_view inside = path;
  walk(path, [&](std::string_view before, std::string_view part, size_t, size_t end) {
    if (before != "layers" || !is_number(part) || end >= path.size()) return false;
    inside = path.substr(end + 1);
    return true;
  });
  return inside;
}

Targets Targets::mlx(std::vector<std::string> keys, int last_layers) {
  Targets targets;
  targets.keys_ = std::move(keys);
  targets.last_layers_ = last_layers;
  return targets;
}

Targets Targets::peft(Peft peft) {
  Targets targets;
  targets.is_mlx_ = false;
  targets.peft_ = std::move(peft);
  return targets;
}

bool Targets::covers(std::string_view path, int layers, bool embedding) const {
  if (!is_mlx_) return covers_peft(path, embedding);
  if (contains(keys_, path)) return true;
  const int layer = layer_of(path);
  if (layer < 0 || !contains(keys_, inside_layer(path))) return false;
  return layers <= 0 || last_layers_ <= 0 || layer >= layers - last_layers_;
}

size_t Targets::cost() const {
  size_t steps = keys_.size() + peft_.names.size() + peft_.excluded.size() + 1;
  if (peft_.pattern) steps += peft_.pattern->cost();
  if (peft_.excluded_pattern) steps += peft_.excluded_pattern->cost();
  return steps;
}

bool Targets::covers_peft(std::string_view path, bool embedding) const {
  const Peft& p = peft_;
  if (p.excluded_pattern && p.excluded_pattern->matches(path)) return false;
  if (contains(p.excluded, path) || ends_with_one(p.excluded, path)) return false;
  if (p.all_linear) return !embedding && path != "lm_head" && !path.ends_with(".lm_head");
  if (p.pattern) return p.pattern->matches(path);
  if (contains(p.names, path)) return true;
  if (!ends_with_one(p.names, path)) return false;
  if (!p.layers) return true;
  // PEFT takes the first "X.N." of the path that has something before it (an expert's number comes later), X being a
  // layers_pattern when there are any; of several patterns, the first that is found anywhere.
  int found = -1;
  const auto first_of = [&](const std::string* pattern) {
    walk(path, [&](std::string_view before, std::string_view part, size_t begin, size_t end) {
      const bool has_head = begin > before.size() + 1;
      if (!is_number(part) || !has_head || end >= path.size() || (pattern != nullptr && before != *pattern))
        return false;
      found = to_number(part);
      return true;
    });
  };
  if (p.layer_patterns.empty()) first_of(nullptr);
  for (const std::string& pattern : p.layer_patterns) {
    first_of(&pattern);
    if (found >= 0) break;
  }
  return found >= 0 && std::find(p.layers->begin(), p.layers->end(), found) != p.layers->end();
}

}  // namespace bumblebee::lora
