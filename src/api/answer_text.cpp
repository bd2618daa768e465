// One answer's tokens become text: each stage holds back what may still change.
#include "api/answer_text.h"

#include <algorithm>
#include <vector>

namespace bumblebee::api {
namespace {

bool ends_in_thought(const txt::Tokenizer& tokenizer, std::span<const int32_t> prompt) {
  std::vector<int32_t> last;
  for (const int32_t token : prompt.last(std::min<size_t>(prompt.size(), 16))) {
    if (token < tokenizer.vocab_size()) last.push_back(token);
  }
  std::string text = tokenizer.decode(last);
  text.resize(text.find_last_not_of(" \n") + 1);
  return text.ends_with("<think>") || text.ends_with("<thinking>") || text.ends_with("[THINK]");
}

}  // namespace

AnswerText::AnswerText(const txt::Tokenizer& tokenizer, const GenerationConfig& config, std::span<const int32_t> prompt,
                       bool skip_special)
    : tokenizer_(tokenizer),
      decoder_(tokenizer, skip_special),
      channels_(skip_special ? txt::Channels::of(tokenizer) : std::nullopt),
      stops_(config.stop_strings),
      strip_({.think = config.strip.think,
              .hashtags = config.strip.hashtags,
              .emoji = config.strip.emoji,
              .in_thought = config.strip.think && ends_in_thought(tokenizer, prompt)}),
      limit_(config.min_chars.value_or(0), config.max_chars.value_or(0)),
      least_(config.min_chars.value_or(0)),
      tags_are_hidden_(config.strip.think && skip_special),
      known_(tokenizer.vocab_size()) {
  if (!skip_special || config.stop_strings.empty()) return;
  for (const txt::AddedToken& token : tokenizer.added_tokens()) {
    const auto spells = [&](const std::string& stop) { return stop.find(token.text) != std::string::npos; };
    if (token.special && std::any_of(config.stop_strings.begin(), config.stop_strings.end(), spells))
      hidden_.emplace(token.id, token.text);
  }
}

std::string AnswerText::push(int32_t token) {
  // A model may have more rows than the tokenizer has tokens; such an id spells nothing.
  if (token >= known_) return {};
  std::string piece;
  if (tags_are_hidden_ && tokenizer_.is_special(token)) {
    if (const auto text = tokenizer_.token_of(token); text && txt::is_thought_tag(*text))
      piece = take(decoder_.flush() + *text);
  }
  if (channels_ && channels_->reads(token)) {
    piece = take(decoder_.flush());
    piece += said(channels_->mark(token));
  } else {
    piece += take(decoder_.push(token));
  }
  if (const auto hidden = hidden_.find(token); hidden != hidden_.end())
    piece += limit_.push(strip_.push(stops_.push(hidden->second, false)));
  return piece;
}

std::string AnswerText::flush() {
  std::string piece;
  if (!stops_.matched()) piece = take(decoder_.flush());
  if (!stops_.matched() && channels_) piece += said(channels_->flush());
  if (!stops_.matched()) piece += limit_.push(strip_.push(stops_.flush()));
  piece += limit_.push(strip_.flush());
  return piece + limit_.flush();
}

}  // namespace bumblebee::api
