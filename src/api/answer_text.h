// The text of one answer while its tokens come: decoding, stop strings, what is left out and how long it may be. Knows
// no threads and no listeners.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "bumblebee/generation_config.h"
#include "text/channels.h"
#include "text/sentence_limit.h"
#include "text/stop_strings.h"
#include "text/strip.h"
#include "text/tokenizer.h"

namespace bumblebee::api {

class AnswerText {
 public:
  /// `skip_special`: control tokens are no text.
  AnswerText(const txt::Tokenizer& tokenizer, const GenerationConfig& config, std::span<const int32_t> prompt,
             bool skip_special);

  /// The text that this token makes certain: whole characters, no part of a stop string. Often empty.
  std::string push(int32_t token);
  /// What the last tokens leave behind, when no more come.
  std::string flush();
  /// Where in the text that was given last the marks begin that control tokens made (text::Delta), and whether the
  /// token was a thought's.
  std::span<const size_t> marks() const { return marks_; }
  bool in_thought() const { return in_thought_; }
  /// Whether the model's marks are control tokens at all.
  bool has_marks() const { return channels_.has_value(); }

  /// Whether a stop string ended the text, and which.
  bool stopped() const { return stops_.matched(); }
  const std::string& stop_string() const { return stops_.found(); }
  /// Whether max_chars ended it.
  bool full() const { return limit_.full(); }
  /// Whether it is shorter than min_chars.
  bool too_short() const { return limit_.characters() < least_; }

 private:
  /// From the decoder on: up to a stop string, without what is left out, within the limit.
  std::string take(const std::string& decoded);
  std::string take(const txt::Channels::Parts& parts, int32_t token);
  std::string take_mark(int32_t token);
  std::string given(const std::string& certain) { return limit_.push(strip_.push(certain)); }
  std::string without_mark_bytes(std::string text);

  const txt::Tokenizer tokenizer_;
  txt::StreamDecoder decoder_;
  std::optional<txt::Channels> channels_;  // of control tokens
  const bool reads_;                       // them, where they are no text
  txt::StopStrings stops_;
  std::map<int32_t, std::string> hidden_;  // control tokens that are no text, but that a stop string spells
  txt::Stripper strip_;
  txt::SentenceLimit limit_;
  const int64_t least_;
  const bool tags_are_hidden_;  // those of thoughts, where they are control tokens
  const int known_;
  std::vector<size_t> marks_;
  bool in_thought_ = false;
};

}  // namespace bumblebee::api
