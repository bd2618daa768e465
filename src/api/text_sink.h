// Turns tokens into text while they are made: decoding, stop strings, what is left out and how long the text may be on
// the engine's thread, the caller's callback on the caller's own. One per request.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bumblebee/generation.h"
#include "engine/request.h"
#include "text/sentence_limit.h"
#include "text/stop_strings.h"
#include "text/strip.h"
#include "text/tokenizer.h"

namespace bumblebee::api {

class TextSink final : public engine::TokenSink {
 public:
  /// `streams`: pieces are kept for next_piece().
  TextSink(const txt::Tokenizer& tokenizer, const GenerationConfig& config, std::span<const int32_t> prompt,
           bool streams)
      : tokenizer_(tokenizer),
        decoder_(tokenizer),
        stops_(config.stop_strings),
        strip_({.think = config.strip.think,
                .hashtags = config.strip.hashtags,
                .emoji = config.strip.emoji,
                .in_thought = config.strip.think && ends_in_thought(tokenizer, prompt)}),
        limit_(config.min_chars.value_or(0), config.max_chars.value_or(0)),
        least_(config.min_chars.value_or(0)),
        strips_thoughts_(config.strip.think),
        streams_(streams),
        known_(tokenizer.vocab_size()),
        prompt_(int(prompt.size())) {
    for (const txt::AddedToken& token : tokenizer.added_tokens()) {
      const auto spells = [&](const std::string& stop) { return stop.find(token.text) != std::string::npos; };
      if (token.special && std::any_of(config.stop_strings.begin(), config.stop_strings.end(), spells))
        hidden_.emplace(token.id, token.text);
    }
  }

  StopReason take(int32_t token, const text::TokenLogprob*) override {
    ++tokens_;
    // A model may have more rows than the tokenizer has tokens; such an id spells nothing.
    if (token >= known_) return StopReason::none;
    if (strips_thoughts_ && tokenizer_.is_special(token)) {
      // A decoder skips control tokens, and some tokenizers have these among them.
      if (const auto text = tokenizer_.token_of(token); text && txt::is_thought_tag(*text))
        give(decoder_.flush() + *text);
    }
    give(decoder_.push(token));
    if (const auto hidden = hidden_.find(token); hidden != hidden_.end())
      keep(strip_.push(stops_.push(hidden->second, false)));
    if (stops_.matched()) return StopReason::stop;
    return limit_.full() ? StopReason::length : StopReason::none;
  }
  bool must_go_on() override { return limit_.characters() < least_; }
  void prompt_computed(int tokens, int) noexcept override {
    const std::lock_guard lock(mutex_);
    computed_ = tokens;
    more_.notify_all();
  }
  void ended(engine::GenerationResult result) noexcept override {
    const std::lock_guard lock(mutex_);
    result_ = std::move(result);
    ended_ = true;
    more_.notify_all();
  }
  void failed(std::exception_ptr error) noexcept override {
    const std::lock_guard lock(mutex_);
    error_ = std::move(error);
    ended_ = true;
    more_.notify_all();
  }
  /// Whether it is over, awaited for a moment.
  bool wait_ended() {
    using namespace std::chrono_literals;
    std::unique_lock lock(mutex_);
    return more_.wait_for(lock, 20ms, [this] { return ended_; });
  }
  /// Once it is over; throws the request's error.
  engine::GenerationResult take_result() {
    const std::lock_guard lock(mutex_);
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
    return std::move(result_);
  }

  struct Piece {
    std::string text;
    size_t tokens = 0;  // of the answer, up to the one that completed the piece
  };
  /// The next piece of text, awaited; nothing once no more tokens come. On the caller's thread, as flush().
  template <class Poll>
  std::optional<Piece> next_piece(const Poll& poll) {
    using namespace std::chrono_literals;
    std::unique_lock lock(mutex_);
    while (!more_.wait_for(lock, 20ms, [this] { return ended_ || !pieces_.empty(); })) {
      lock.unlock();
      poll();
      lock.lock();
    }
    if (pieces_.empty()) return std::nullopt;
    Piece piece = std::move(pieces_.front());
    pieces_.pop_front();
    return piece;
  }

  /// Tells `progress` how much of the prompt is computed until all of it is, or no tokens come.
  void await_prompt(const text::PromptProgress& progress) {
    using namespace std::chrono_literals;
    std::unique_lock lock(mutex_);
    while (!ended_ && computed_ < prompt_) {
      more_.wait_for(lock, 100ms);
      const int done = computed_;
      lock.unlock();
      progress(done, prompt_);
      lock.lock();
    }
  }

  /// What the last tokens leave behind, when no more come; next_piece() gives it too.
  void flush() {
    if (!stops_.matched()) give(decoder_.flush());
    if (!stops_.matched()) keep(strip_.push(stops_.flush()));
    keep(strip_.flush());
    tell(limit_.flush());
  }
  /// The whole text, after flush().
  std::string take_text() { return std::move(text_); }
  bool stopped() const { return stops_.matched(); }
  /// Whether the text was ended by max_chars.
  bool cut() const { return limit_.full(); }

 private:
  static bool ends_in_thought(const txt::Tokenizer& tokenizer, std::span<const int32_t> prompt) {
    std::vector<int32_t> last;
    for (const int32_t token : prompt.last(std::min<size_t>(prompt.size(), 16))) {
      if (token < tokenizer.vocab_size()) last.push_back(token);
    }
    std::string text = tokenizer.decode(last);
    text.resize(text.find_last_not_of(" \n") + 1);
    return text.ends_with("<think>") || text.ends_with("<thinking>") || text.ends_with("[THINK]");
  }

  /// From the decoder on: up to a stop string, without what is left out, within the limit.
  void give(const std::string& decoded) { keep(strip_.push(stops_.push(decoded))); }
  void keep(const std::string& piece) { tell(limit_.push(piece)); }
  void tell(std::string piece) {
    if (piece.empty()) return;
    text_ += piece;
    if (!streams_) return;
    const std::lock_guard lock(mutex_);
    pieces_.push_back({std::move(piece), tokens_});
    more_.notify_all();
  }

  txt::Tokenizer tokenizer_;
  txt::StreamDecoder decoder_;
  txt::StopStrings stops_;
  std::map<int32_t, std::string> hidden_;  // control tokens that a stop string spells
  txt::Stripper strip_;
  txt::SentenceLimit limit_;
  const int64_t least_;
  const bool strips_thoughts_, streams_;
  const int known_, prompt_;
  size_t tokens_ = 0;
  std::string text_;  // the engine's thread's until the request has ended, then the caller's

  std::mutex mutex_;
  std::condition_variable more_;
  std::deque<Piece> pieces_;  // that nobody has heard yet
  int computed_ = 0;          // of the prompt
  bool ended_ = false;
  engine::GenerationResult result_;
  std::exception_ptr error_;
};

}  // namespace bumblebee::api
