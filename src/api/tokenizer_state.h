// What a loaded tokenizer is behind the public handle.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <span>

#include "bumblebee/tokenizer.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace bumblebee::api {

struct TokenizerState {
  explicit TokenizerState(txt::Tokenizer t) : tokenizer(std::move(t)) {}

  const txt::Tokenizer tokenizer;

  /// The model's own template, parsed when first wanted: a broken one must not keep its tokenizer from being used.
  txt::ChatTemplate chat_template() {
    const std::lock_guard lock(mutex_);
    if (!template_) template_ = txt::ChatTemplate::from_tokenizer(tokenizer);
    return *template_;
  }

 private:
  std::mutex mutex_;
  std::optional<txt::ChatTemplate> template_;
};

/// A conversation as text, before it is tokenized. Throws what Tokenizer::apply_chat_template() throws.
txt::RenderedPrompt render(TokenizerState& state, std::span<const Message> messages, const ChatOptions& options);

}  // namespace bumblebee::api
