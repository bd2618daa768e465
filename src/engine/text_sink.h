// Turns tokens into text while they are made: decoding, stop strings, the caller's callback. One per request; used by
// the engine's thread until the request has ended, then by the caller's.
#pragma once

#include <string>

#include "bumblebee/text.h"
#include "engine/job.h"
#include "engine/stop_strings.h"
#include "text/tokenizer.h"

namespace bumblebee::engine {

class TextSink final : public TokenSink {
 public:
  /// `callback` may be null; it outlives the sink.
  TextSink(const txt::Tokenizer& tokenizer, const GenerationConfig& config, const text::TextCallback* callback)
      : decoder_(tokenizer), stops_(config.stop_strings), callback_(callback), known_(tokenizer.vocab_size()) {}

  Verdict take(int32_t token) override {
    // A model may have more rows than the tokenizer has tokens; such an id spells nothing.
    if (token >= known_) return Verdict::go_on;
    const bool wanted = give(stops_.push(decoder_.push(token)));
    if (stops_.matched()) return Verdict::stop;
    return wanted ? Verdict::go_on : Verdict::cancel;
  }

  /// The whole text, once no more tokens come. True in `stopped` when a stop string ended it.
  std::string finish(bool& stopped) {
    if (!stops_.matched()) {
      give(stops_.push(decoder_.flush()));
      if (!stops_.matched()) give(stops_.flush());
    }
    stopped = stops_.matched();
    return std::move(text_);
  }

 private:
  bool give(const std::string& piece) {
    text_ += piece;
    return piece.empty() || callback_ == nullptr || !*callback_ || (*callback_)(piece);
  }

  txt::StreamDecoder decoder_;
  StopStrings stops_;
  const text::TextCallback* callback_;
  int known_;
  std::string text_;
};

}  // namespace bumblebee::engine
