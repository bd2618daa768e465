// A sentence's end is known by what follows it, so text is given out a sentence at a time.
#include "text/sentence_limit.h"

#include <algorithm>
#include <utility>

#include "base/mark_byte.h"
#include "base/utf8.h"
#include "text/characters.h"

namespace bumblebee::txt {
namespace {

bool is_wide_mark(char32_t c) { return c == U'。' || c == U'！' || c == U'？' || c == U'｡'; }
bool is_mark(char32_t c) { return c == '.' || c == '!' || c == '?' || c == U'…' || c == U'‽' || is_wide_mark(c); }
bool closes(char32_t c) {
  return c == '"' || c == '\'' || c == ')' || c == ']' || c == '*' || c == '_' || c == U'”' || c == U'’' || c == U'»' ||
         c == U'」' || c == U'』';
}
/// Of bytes: where a word begins or ends in any UTF-8.
bool is_gap(char byte) { return byte == ' ' || byte == '\t' || byte == '\n' || byte == '\r'; }
/// After these a line goes on in the next.
bool leads_on(char32_t c) { return c == ':' || c == ',' || c == ';' || c == '-' || c == U'–' || c == U'—'; }

}  // namespace

std::string SentenceLimit::push(std::string_view piece) {
  if (full_) return {};
  for (size_t at = 0; at < piece.size();) {
    const size_t begin = at;
    if (piece[at] == kMarkByte) {  // no character
      held_ += piece[at++];
      taken_.at = held_.size();
      continue;
    }
    const char32_t c = next_character(piece, at);
    if (most_ > 0) settle(c);
    if (most_ > 0 && taken_.characters == most_) {
      full_ = true;
      if (after_ == After::blank) end_sentence(sentence_);
      if (!ended_) return end_at_word(is_blank(c));
      held_.resize(certain_);
      return std::exchange(held_, {});
    }
    held_ += piece.substr(begin, at - begin);
    taken_ = {held_.size(), taken_.characters + 1};
    note(c);
  }
  if (most_ == 0) certain_ = held_.size();
  std::string out = held_.substr(0, certain_);
  held_.erase(0, certain_);
  for (Place* place : {&taken_, &visible_, &sentence_}) place->at -= std::min(place->at, certain_);
  certain_ = 0;
  return out;
}

std::string SentenceLimit::flush() { return full_ ? std::string() : std::exchange(held_, {}); }

/// Whether the sentence before `c` ends, now that `c` follows.
void SentenceLimit::settle(char32_t c) {
  if (c == '\n') {
    if (visible_.at > certain_ && !leads_on(last_visible_)) end_sentence(visible_);
    after_ = After::text;
  } else if (after_ == After::mark && is_blank(c)) {
    after_ = After::blank;
  } else if (after_ == After::mark && !is_mark(c) && !closes(c)) {
    if (wide_) end_sentence(sentence_);
    after_ = After::text;
  } else if (after_ == After::blank && !is_blank(c)) {
    if (c < 'a' || c > 'z') end_sentence(sentence_);
    after_ = After::text;
  }
}

/// `c` is part of the text now.
void SentenceLimit::note(char32_t c) {
  if (is_blank(c)) return;
  if (is_mark(c) && !(c == '.' && abbreviated())) {
    after_ = After::mark;
    wide_ = is_wide_mark(c);
  }
  visible_ = taken_;
  last_visible_ = c;
  if (after_ == After::mark) sentence_ = taken_;
}

/// Whether the point that was just taken stands after an initial or a title.
bool SentenceLimit::abbreviated() const {
  const std::string_view text = std::string_view(held_).substr(0, held_.size() - 1);
  size_t begin = text.size();
  while (begin > 0 && !is_gap(text[begin - 1]) && text[begin - 1] != '(') --begin;
  const std::string_view word = text.substr(begin);
  if (word.size() == 1 && word != "I") return word[0] >= 'A' && word[0] <= 'Z';
  for (const std::string_view title : {"Mr", "Mrs", "Ms", "Dr", "Prof", "St", "vs", "e.g", "i.e", "cf"}) {
    if (word == title) return true;
  }
  return false;
}

void SentenceLimit::end_sentence(const Place& place) {
  if (place.at <= certain_) return;
  certain_ = place.at;
  ended_ = ended_ || place.characters >= least_;
}

/// No sentence ends in time: the last whole word, or all that fits where that would be too short.
std::string SentenceLimit::end_at_word(bool whole) {
  size_t end = whole ? std::string::npos : held_.find_last_of(" \t\n");
  if (end != std::string::npos && end > certain_) {
    while (end > 0 && is_gap(held_[end - 1])) --end;  // before it is counted: no blanks are left at the end
    const auto left_out = std::string_view(held_).substr(end);
    const int64_t characters =
        taken_.characters - count_characters(left_out) + std::count(left_out.begin(), left_out.end(), kMarkByte);
    if (characters >= std::max<int64_t>(least_, 1)) held_.resize(end);
  }
  while (!held_.empty() && is_gap(held_.back())) held_.pop_back();
  return std::exchange(held_, {});
}

}  // namespace bumblebee::txt
