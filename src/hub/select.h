// Which files of a repository are fetched.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "hub/tree.h"

namespace bumblebee::hub {

struct Selection {
  std::string subdir;                // only below this folder; empty: the whole repository
  std::vector<std::string> include;  // patterns; empty: what a model or an adapter needs
  std::vector<std::string> exclude;
  bool weights = true;  // false: of what a model needs, only what describes it and its text
};

/// Whether `name` matches a pattern as Python's fnmatch has it: '*' (also '/'), '?', '[a-z]', '[!a-z]'; a pattern that
/// ends with '/' means everything below. Time is linear in pattern times name.
bool matches(std::string_view pattern, std::string_view name);

/// Files that loading needs: safetensors, json, jinja, txt, tokenizer models. Not pickles, not other frameworks'
/// weights, not GGUF, not hidden files.
bool needed(std::string_view path);

/// Whether a file holds weights, by its name.
bool is_weights(std::string_view path);

/// The paths that `selection` takes, in order. Weights in folders below are left out when the folder itself has
/// weights: they are another model's or adapter's, and can be named as a folder.
std::vector<std::string> select(const Tree& tree, const Selection& selection);

}  // namespace bumblebee::hub
