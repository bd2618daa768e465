// The tags between which models write thoughts, for all who read or leave them out. Each begins with the only < or [ in
// it and ends with the first > or ].
#pragma once

#include <algorithm>
#include <array>
#include <string_view>

namespace bumblebee {

/// Seed-OSS has tags of its own, and so has Apertus.
inline constexpr std::array<std::string_view, 5> kThoughtOpens = {"<think>", "<thinking>", "[THINK]", "<seed:think>",
                                                                  "<|inner_prefix|>"};
inline constexpr std::array<std::string_view, 5> kThoughtCloses = {"</think>", "</thinking>", "[/THINK]",
                                                                   "</seed:think>", "<|inner_suffix|>"};
using ThoughtTags = std::array<std::string_view, 5>;

inline bool ends_with_thought_open(std::string_view text) {
  return std::any_of(kThoughtOpens.begin(), kThoughtOpens.end(),
                     [text](std::string_view tag) { return text.ends_with(tag); });
}

}  // namespace bumblebee
