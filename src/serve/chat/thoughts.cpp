// Tags as models write them. Each begins with the only < or [ in it, so a mismatch never has to look back.
#include "serve/chat/thoughts.h"

#include <algorithm>
#include <utility>

#include "base/mark_byte.h"
#include "base/thought_tags.h"
#include "serve/chat/answer_output.h"
#include "serve/chat/json_scanner.h"

namespace bumblebee::serve {
namespace {

bool is_one(const ThoughtTags& tags, std::string_view text, bool certain) {
  return std::find(tags.begin(), tags.end(), text.substr(certain ? 1 : 0)) != tags.end();
}

/// `text` with `c` after it begins one of the tags.
bool goes_on(const ThoughtTags& tags, std::string_view text, char c, bool certain) {
  if (certain) return text.empty() ? c == kMarkByte : goes_on(tags, text.substr(1), c, false);
  return std::any_of(tags.begin(), tags.end(), [&](std::string_view tag) {
    return tag.size() > text.size() && tag.starts_with(text) && tag[text.size()] == c;
  });
}

}  // namespace

void Thoughts::push(char c, std::string& reasoning, std::string& answer) {
  switch (state_) {
    case State::before: return before(c, answer);
    case State::inside: return inside(c, reasoning);
    case State::closed:
      if (is_json_blank(c)) return;
      state_ = State::after;
      if (parted_) answer += '\n';
      parted_ = false;
      [[fallthrough]];
    case State::after: return after(c, answer);
  }
}

/// A later thought, and the end of the line before it, which is given where the answer goes on after it.
void Thoughts::after(char c, std::string& answer) {
  if (!certain_) {
    answer += c;
    return;
  }
  const bool line = held_.starts_with('\n');
  if (goes_on(kThoughtOpens, std::string_view(held_).substr(line), c, true)) {
    held_ += c;
    if (!is_one(kThoughtOpens, std::string_view(held_).substr(line), true)) return;
    state_ = State::inside;
    parted_ = line;
    held_.clear();
  } else if (!held_.empty()) {
    answer += std::exchange(held_, {});
    after(c, answer);
  } else if (c == '\n') {
    held_ = c;
  } else {
    answer += c;
  }
}

/// Blanks, then a tag; anything else, and the answer has begun with what was held.
void Thoughts::before(char c, std::string& answer) {
  if (held_.empty() && is_json_blank(c) && blanks_.size() < kLongestBlank) {
    blanks_ += c;
  } else if (goes_on(kThoughtOpens, held_, c, certain_)) {
    held_ += c;
    if (!is_one(kThoughtOpens, held_, certain_)) return;
    state_ = State::inside;
    held_.clear();
    blanks_.clear();
  } else {
    state_ = State::after;
    answer += blanks_;
    answer += held_;
    answer += c;
    held_.clear();
    blanks_.clear();
  }
}

void Thoughts::inside(char c, std::string& reasoning) {
  if (goes_on(kThoughtCloses, held_, c, certain_)) {
    held_ += c;
    if (!is_one(kThoughtCloses, held_, certain_)) return;
    state_ = State::closed;
    held_.clear();
    blanks_.clear();
    return;
  }
  if (!held_.empty()) {
    reasoning += blanks_;
    reasoning += held_;
    begun_ = true;
    blanks_.clear();
    held_.clear();
    return inside(c, reasoning);
  }
  if (is_json_blank(c) && blanks_.size() < kLongestBlank) {
    if (begun_) blanks_ += c;
    return;
  }
  reasoning += blanks_;
  reasoning += c;
  begun_ = true;
  blanks_.clear();
}

void Thoughts::finish(std::string& reasoning, std::string& answer) {
  std::string& end = state_ == State::inside ? reasoning : answer;
  if (state_ == State::before || !held_.empty()) end += blanks_;
  end += held_;
  blanks_.clear();
  held_.clear();
}

bool opens_thought(std::string_view prompt) {
  while (!prompt.empty() && is_json_blank(prompt.back())) prompt.remove_suffix(1);
  return ends_with_thought_open(prompt);
}

}  // namespace bumblebee::serve
