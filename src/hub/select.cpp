// Names decide: extensions, a few folders, and where weights lie.
#include "hub/select.h"

#include <algorithm>
#include <array>

#include "hub/names.h"

namespace bumblebee::hub {
namespace {

std::string_view base_name(std::string_view path) { return path.substr(path.rfind('/') + 1); }

/// One bracket expression at `pattern[at]` == '['. Returns where it ends (after ']'), or `at` when it is not closed and
/// '[' stands for itself.
size_t bracket(std::string_view pattern, size_t at, char c, bool& hit) {
  size_t i = at + 1;
  const bool inverted = i < pattern.size() && pattern[i] == '!';
  if (inverted) ++i;
  const size_t close = pattern.find(']', i + 1);  // a ']' that comes first is a member
  if (close == std::string_view::npos) return at;
  bool found = false;
  for (; i < close; ++i) {
    const bool range = i + 2 < close && pattern[i + 1] == '-';
    const char low = pattern[i], high = range ? pattern[i + 2] : low;
    found = found || (c >= low && c <= high);
    if (range) i += 2;
  }
  hit = found != inverted;
  return close + 1;
}

/// Whether one character of the pattern at `p` takes `c`; `p` moves behind it.
bool takes(std::string_view pattern, size_t& p, char c) {
  if (pattern[p] == '[') {
    bool hit = false;
    if (const size_t end = bracket(pattern, p, c, hit); end != p) {
      p = end;
      return hit;
    }
  }
  return pattern[p++] == '?' || pattern[p - 1] == c;
}

bool matches_whole(std::string_view pattern, std::string_view name) {
  size_t p = 0, n = 0, star = std::string_view::npos, resume = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = ++p;
      resume = n;
      continue;
    }
    if (size_t next = p; p < pattern.size() && takes(pattern, next, name[n])) {
      p = next;
      ++n;
      continue;
    }
    if (star == std::string_view::npos) return false;
    p = star;  // the last star takes one more
    n = ++resume;
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

bool any_matches(const std::vector<std::string>& patterns, std::string_view name) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const std::string& pattern) { return matches(pattern, name); });
}

/// Other frameworks' exports, original checkpoints beside the converted ones, states of a training, hidden folders.
bool left_out_folder(std::string_view folder) {
  constexpr std::array<std::string_view, 6> kFolders = {"onnx", "openvino", "coreml", "original", "runs", "flax"};
  return folder.starts_with('.') || folder.starts_with("checkpoint-") ||
         std::find(kFolders.begin(), kFolders.end(), folder) != kFolders.end();
}

}  // namespace

bool is_weights(std::string_view path) { return path.ends_with(".safetensors"); }

bool matches(std::string_view pattern, std::string_view name) {
  if (pattern.ends_with('/')) return matches_whole(std::string(pattern) + "*", name);
  return matches_whole(pattern, name);
}

bool needed(std::string_view path) {
  for (size_t start = 0, slash = path.find('/'); slash != std::string_view::npos;
       start = slash + 1, slash = path.find('/', start)) {
    if (left_out_folder(path.substr(start, slash - start))) return false;
  }
  const std::string name = fold_case(base_name(path));
  const std::string_view view = name;
  if (view.starts_with('.')) return false;
  // Indices of shards that are left out themselves; Mistral's second copy of the same weights.
  for (const char* end : {".bin.index.json", ".h5.index.json", ".msgpack.index.json"}) {
    if (view.ends_with(end)) return false;
  }
  if (view.starts_with("consolidated") && is_weights(view)) return false;
  for (const char* end : {".safetensors", ".json", ".jinja", ".txt", ".tiktoken"}) {
    if (view.ends_with(end)) return true;
  }
  return view.ends_with(".model") && view.find("token") != std::string_view::npos;
}

std::vector<std::string> select(const Tree& tree, const Selection& selection) {
  const std::string prefix = selection.subdir.empty() ? "" : selection.subdir + "/";
  const auto inside = [&](const std::string& path) { return path.starts_with(prefix); };
  const auto beside = [&](const std::string& path) { return path.find('/', prefix.size()) == std::string::npos; };
  const bool weights_here = std::any_of(tree.begin(), tree.end(), [&](const auto& entry) {
    return inside(entry.first) && beside(entry.first) && needed(entry.first.substr(prefix.size())) &&
           is_weights(entry.first);
  });
  std::vector<std::string> chosen;
  for (const auto& [path, file] : tree) {
    if (!inside(path) || any_matches(selection.exclude, path)) continue;
    const std::string below = path.substr(prefix.size());
    const bool wanted =
        selection.include.empty()
            ? needed(below) && (!is_weights(path) || (selection.weights && (beside(path) || !weights_here)))
            : any_matches(selection.include, path);
    if (wanted) chosen.push_back(path);
  }
  return chosen;
}

}  // namespace bumblebee::hub
