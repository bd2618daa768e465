// Turns tokens into text while they are made: decoding and stop strings on the engine's thread, the caller's callback
// on the caller's own. One per request.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "bumblebee/generation.h"
#include "engine/request.h"
#include "text/stop_strings.h"
#include "text/tokenizer.h"

namespace bumblebee::api {

class TextSink final : public engine::TokenSink {
 public:
  /// `streams`: pieces are kept for next_piece().
  TextSink(const txt::Tokenizer& tokenizer, const GenerationConfig& config, bool streams)
      : decoder_(tokenizer), stops_(config.stop_strings), streams_(streams), known_(tokenizer.vocab_size()) {
    for (const txt::AddedToken& token : tokenizer.added_tokens()) {
      const auto spells = [&](const std::string& stop) { return stop.find(token.text) != std::string::npos; };
      if (token.special && std::any_of(config.stop_strings.begin(), config.stop_strings.end(), spells))
        hidden_.emplace(token.id, token.text);
    }
  }

  StopReason take(int32_t token) override {
    ++tokens_;
    // A model may have more rows than the tokenizer has tokens; such an id spells nothing.
    if (token >= known_) return StopReason::none;
    give(stops_.push(decoder_.push(token)));
    if (const auto hidden = hidden_.find(token); hidden != hidden_.end()) give(stops_.push(hidden->second, false));
    return stops_.matched() ? StopReason::stop : StopReason::none;
  }
  void ended() noexcept override {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    more_.notify_all();
  }

  struct Piece {
    std::string text;
    size_t tokens = 0;  // of the answer, up to the one that completed the piece
  };
  /// The next piece of text, awaited; nothing once no more tokens come. On the caller's thread, as flush().
  std::optional<Piece> next_piece() {
    std::unique_lock lock(mutex_);
    more_.wait(lock, [this] { return ended_ || !pieces_.empty(); });
    if (pieces_.empty()) return std::nullopt;
    Piece piece = std::move(pieces_.front());
    pieces_.pop_front();
    return piece;
  }

  /// What the last tokens leave behind, when no more come; next_piece() gives it too.
  void flush() {
    if (stops_.matched()) return;
    give(stops_.push(decoder_.flush()));
    if (!stops_.matched()) give(stops_.flush());
  }
  /// The whole text, after flush().
  std::string take_text() { return std::move(text_); }
  bool stopped() const { return stops_.matched(); }

 private:
  void give(std::string piece) {
    if (piece.empty()) return;
    text_ += piece;
    if (!streams_) return;
    const std::lock_guard lock(mutex_);
    pieces_.push_back({std::move(piece), tokens_});
    more_.notify_all();
  }

  txt::StreamDecoder decoder_;
  txt::StopStrings stops_;
  std::map<int32_t, std::string> hidden_;  // control tokens that a stop string spells
  const bool streams_;
  int known_;
  size_t tokens_ = 0;
  std::string text_;  // the engine's thread's until the request has ended, then the caller's

  std::mutex mutex_;
  std::condition_variable more_;
  std::deque<Piece> pieces_;  // that nobody has heard yet
  bool ended_ = false;
};

}  // namespace bumblebee::api
