// What other programs of this kind call our flags and verbs.
#pragma once

#include <string_view>

namespace bumblebee::cli {

/// What a word of mlx_lm, llama.cpp or Ollama is here.
struct PeerWord {
  std::string_view theirs;  // as typed: "-ngl", "--lora", "list"
  std::string_view ours;    // the flag or the verb of the same meaning; empty when there is none
  std::string_view remark;  // said in its place when there is none
};

/// Null for words of nobody's. A flag counts only for verbs that have ours, or lack both.
const PeerWord* peer_flag(std::string_view theirs);
const PeerWord* peer_verb(std::string_view theirs);

}  // namespace bumblebee::cli
