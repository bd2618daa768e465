// What a chat template leaves behind: the text, byte for byte what transformers would print, and where in it message
// content spells (part of) a control token. The tokenizer reads both; nothing else needs the second.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace bumblebee::txt {

/// Half-open byte range of RenderedPrompt::text, always whole characters.
struct TextSpan {
  size_t begin = 0;
  size_t end = 0;
};

struct RenderedPrompt {
  std::string text;
  /// Characters of untrusted origin that no control token may cover. Ascending, disjoint; empty for ordinary chats.
  std::vector<TextSpan> guarded;
};

}  // namespace bumblebee::txt
