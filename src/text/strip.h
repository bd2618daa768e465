// Leaves thoughts, hashtags and emoji out of a text that arrives in pieces, and tidies the blanks around what went.
#pragma once

#include <string>
#include <string_view>

namespace bumblebee::txt {

struct StripOptions {
  bool think = false, hashtags = false, emoji = false;
  bool in_thought = false;     // the prompt opened a thought already
  bool certain_marks = false;  // only what comes after kMarkByte is a tag
};

/// The tag that begins or ends a thought (<think>, </think> and their like); for tokenizers that make them control
/// tokens, which a decoder skips.
bool is_thought_tag(std::string_view text);

/// The result does not depend on how the text was cut into pieces, but within a hashtag or a row of emoji of more than
/// 512 bytes: that much is held back at most, and what comes after may stay.
class Stripper {
 public:
  explicit Stripper(const StripOptions& options);

  /// Takes more of a text in UTF-8; returns what is certain to stay.
  std::string push(std::string_view piece);
  /// The end of the text: what was held back and stays.
  std::string flush();

 private:
  size_t step(std::string_view rest, bool end, std::string& out);
  size_t thought(std::string_view rest, bool end);
  size_t hashtag(std::string_view rest, bool end);
  size_t emoji(std::string_view rest, bool end) const;
  void removed();
  void keep(std::string_view character, std::string& out);

  const StripOptions options_;
  bool in_thought_;
  std::string held_;    // not decided yet
  std::string blanks_;  // after what was given out, not given yet
  bool gap_ = false;    // something was left out since the last character that was given out
  bool begun_ = false;  // something was given out
  char32_t last_ = 0;   // the last character of the text, whether it stayed or not
};

}  // namespace bumblebee::txt
