// The word that was meant by one that is none: for flags, verbs, variables and keys of files.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace bumblebee::cli {

/// The word of `known` that `word` was probably meant to be: few slips away, or the only one that begins so. Empty when
/// none is near.
std::string nearest(std::string_view word, const std::vector<std::string>& known);

}  // namespace bumblebee::cli
