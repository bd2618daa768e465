// The part of Python's regular expressions that PEFT configs use for module names, matched in time linear in the name:
// literals, '.', classes, groups, '|', '*', '+', '?', '{m,n}' (greedy or lazy: the same for a whole match), '^', '$',
// '\b', '\d', '\w', '\s' and their opposites, escaped punctuation. Anything else (look-around, back-references, flags)
// is refused by name: a pattern that is half understood would pick the wrong modules.
#pragma once

#include <bitset>
#include <string>
#include <string_view>
#include <vector>

namespace bumblebee::lora {

class Pattern {
 public:
  /// Throws Error(unsupported) naming what is not understood, Error(bad_config) for a pattern that is broken or longer
  /// than 8192 bytes or needs more than 4096 states. `where` names the file and key.
  Pattern(std::string_view text, std::string_view where);

  /// Whether the whole of `text` matches: re.fullmatch.
  bool matches(std::string_view text) const;

  const std::string& text() const { return text_; }
  /// Steps of work per byte of a name, at most.
  size_t cost() const { return states_.size(); }

 private:
  friend class PatternParser;
  enum class Step : uint8_t { byte, split, begin, end, boundary, no_boundary, match };
  struct State {
    Step step = Step::match;
    int next = -1, other = -1;
    std::bitset<256> bytes;
  };
  std::string text_;
  std::vector<State> states_;
  int start_ = 0;
};

}  // namespace bumblebee::lora
