// One answer's tokens become text: each stage holds back what may still change.
#include "api/answer_text.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/mark_byte.h"
#include "base/thought_tags.h"

namespace bumblebee::api {
namespace {

bool ends_in_thought(const txt::Tokenizer& tokenizer, std::span<const int32_t> prompt) {
  std::vector<int32_t> last;
  for (const int32_t token : prompt.last(std::min<size_t>(prompt.size(), 16))) {
    if (token < tokenizer.vocab_size()) last.push_back(token);
  }
  std::string text = tokenizer.decode(last);
  text.resize(text.find_last_not_of(" \n") + 1);
  return ends_with_thought_open(text);
}

}  // namespace

AnswerText::AnswerText(const txt::Tokenizer& tokenizer, const GenerationConfig& config, std::span<const int32_t> prompt,
                       bool skip_special)
    : tokenizer_(tokenizer),
      decoder_(tokenizer, skip_special),
      channels_(txt::Channels::of(tokenizer)),
      reads_(channels_ && skip_special),
      stops_(config.stop_strings),
      strip_({.think = config.strip.think,
              .hashtags = config.strip.hashtags,
              .emoji = config.strip.emoji,
              .in_thought = config.strip.think && ends_in_thought(tokenizer, prompt),
              .certain_marks = channels_.has_value()}),
      limit_(config.min_chars.value_or(0), config.max_chars.value_or(0)),
      least_(config.min_chars.value_or(0)),
      tags_are_hidden_(config.strip.think && skip_special && !channels_),
      known_(tokenizer.vocab_size()) {
  if (!skip_special || config.stop_strings.empty()) return;
  for (const txt::AddedToken& token : tokenizer.added_tokens()) {
    const auto spells = [&](const std::string& stop) { return stop.find(token.text) != std::string::npos; };
    if (token.special && std::any_of(config.stop_strings.begin(), config.stop_strings.end(), spells))
      hidden_.emplace(token.id, token.text);
  }
}

std::string AnswerText::push(int32_t token) {
  marks_.clear();
  in_thought_ = false;
  // A model may have more rows than the tokenizer has tokens; such an id spells nothing.
  if (token >= known_) return {};
  if (channels_ && channels_->reads(token)) {
    std::string piece = take(decoder_.flush());
    return without_mark_bytes(piece += take_mark(token));
  }
  in_thought_ = reads_ && channels_->in_thought();
  std::string piece;
  if (tags_are_hidden_ && tokenizer_.is_special(token)) {
    if (const auto text = tokenizer_.token_of(token); text && txt::is_thought_tag(*text))
      piece = take(decoder_.flush() + *text);
  }
  piece += take(decoder_.push(token));
  if (const auto hidden = hidden_.find(token); hidden != hidden_.end())
    piece += given(stops_.push(hidden->second, txt::StopStrings::Of::control));
  return without_mark_bytes(std::move(piece));
}

std::string AnswerText::flush() {
  marks_.clear();
  in_thought_ = false;
  std::string piece;
  if (!stops_.matched()) piece = take(decoder_.flush());
  if (!stops_.matched() && reads_) piece += take(channels_->flush(), -1);
  if (!stops_.matched()) piece += given(stops_.flush());
  piece += limit_.push(strip_.flush());
  return without_mark_bytes(piece + limit_.flush());
}

std::string AnswerText::take(const std::string& decoded) {
  return reads_ ? take(channels_->text(decoded), -1) : given(stops_.push(decoded));
}

std::string AnswerText::take_mark(int32_t token) {
  if (reads_) return take(channels_->mark(token), token);
  std::string piece = given(stops_.pass({&kMarkByte, 1}));
  return piece += given(stops_.push(channels_->spelled(token)));
}

/// `token`: which one has its place among the parts.
std::string AnswerText::take(const txt::Channels::Parts& parts, int32_t token) {
  using Kind = txt::Channels::Part::Kind;
  using Of = txt::StopStrings::Of;
  std::string piece;
  for (const auto& [kind, text] : parts) {
    switch (kind) {
      case Kind::said: piece += given(stops_.push(text)); break;
      case Kind::made: piece += given(stops_.pass(text)); break;
      case Kind::mark: piece += given(stops_.pass(kMarkByte + text)); break;
      case Kind::header:
        if (!hidden_.empty()) piece += given(stops_.push(text, Of::header));
        break;
      case Kind::token: {
        const auto hidden = hidden_.find(token);
        // One that no stop string spells parts what is before it from what follows.
        piece += given(hidden == hidden_.end() ? stops_.flush() : stops_.push(hidden->second, Of::control));
        break;
      }
    }
  }
  return piece;
}

std::string AnswerText::without_mark_bytes(std::string text) {
  if (!channels_) return text;
  std::string out;
  for (const char c : text) {
    if (c == kMarkByte) {
      marks_.push_back(out.size());
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace bumblebee::api
