// Ends a text that arrives in pieces with a sentence, within so many characters. Sentences are found by their marks
// (. ! ? and their like, then a blank and no small letter; line ends): plain rules, no language's grammar.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace bumblebee::txt {

class SentenceLimit {
 public:
  /// The text ends with the last sentence that ends within `most` characters, but not before `least` of them; where
  /// there is none, with a word. `most` 0: no limit, and nothing is held back.
  SentenceLimit(int64_t least, int64_t most) : least_(least), most_(most) {}

  /// Takes more of a text in UTF-8; returns what is certain to be part of it. After full() everything is dropped.
  std::string push(std::string_view piece);
  /// The end of the text: what was held back, unless it is full.
  std::string flush();
  /// Whether the text went on beyond its limit and was ended.
  bool full() const { return full_; }
  /// Characters taken, up to the last one that is no blank.
  int64_t characters() const { return visible_.characters; }

 private:
  struct Place {
    size_t at = 0;  // in held_
    int64_t characters = 0;
  };
  void settle(char32_t c);
  void note(char32_t c);
  bool abbreviated() const;
  void end_sentence(const Place& place);
  std::string end_at_word(bool whole);

  const int64_t least_, most_;
  bool full_ = false, ended_ = false;  // ended_: there is a sentence that may be the last one
  std::string held_;                   // since the last sentence's end
  size_t certain_ = 0;                 // of held_, up to a sentence's end
  enum class After : uint8_t { text, mark, blank } after_ = After::text;
  bool wide_ = false;  // the mark needs no blank after it
  char32_t last_visible_ = 0;
  Place taken_, visible_;  // behind the last character, and behind the last one that is no blank
  Place sentence_;         // behind the last mark, with quotes and brackets
};

}  // namespace bumblebee::txt
