// Text to token ids and back, and conversations to prompts, exactly as Hugging Face's tokenizers and chat templates
// have it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bumblebee/repository.h"

namespace bumblebee {

struct EncodeOptions {
  bool add_special_tokens = true;  // what the tokenizer's post-processor adds, for instance a BOS
  /// Whether text that spells a control token such as "<|im_start|>" becomes that token. Off: user text stays text.
  bool parse_control_tokens = false;
};

/// One turn of a conversation, with the fields of OpenAI's chat format.
struct Message {
  std::string role;  // "system", "user", "assistant", "tool"
  std::string content;
  std::string json;  // when not empty: the whole message as a JSON object, instead of the two fields (tool calls,
                     // reasoning, ...)
};

struct ChatOptions {
  std::string tools;            // JSON array of tools, or empty
  std::string template_kwargs;  // JSON object of extra variables, for instance {"enable_thinking": false}, or empty
  std::string chat_template;    // a template to use instead of the model's own
  bool add_generation_prompt = true;
  /// Lets message contents contain control tokens. Off: what a user writes never becomes a control token.
  bool trust_content = false;
};

/// A rendered conversation.
struct Prompt {
  std::string text;             // byte-equal to what transformers renders
  std::vector<int32_t> tokens;  // its ids, with users' text kept text
};

namespace api {
struct TokenizerState;
}

/// A loaded tokenizer. A handle; thread-safe.
class Tokenizer {
 public:
  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options = {}) const;
  std::vector<std::vector<int32_t>> encode_batch(std::span<const std::string> texts,
                                                 const EncodeOptions& options = {}) const;
  /// Throws Error(bad_request) for an id that is not in the vocabulary.
  std::string decode(std::span<const int32_t> tokens, bool skip_special_tokens = true) const;

  std::optional<int32_t> id_of(std::string_view token) const;
  /// The token as the vocabulary spells it.
  std::string token_of(int32_t id) const;
  int vocab_size() const;
  /// The bytes that a token stands for in the middle of a text; nothing where the decoder gives single tokens none.
  std::optional<std::string> bytes_of(int32_t id) const;
  bool is_special(int32_t id) const;
  /// No token stands for more bytes of text; 0 where that is not known.
  int max_token_bytes() const;

  bool has_chat_template() const;
  /// The model's own template, as its files have it; empty where there is none.
  std::string chat_template() const;
  /// Renders a conversation. Throws Error(unsupported) when there is no template, Error(bad_request) when the template
  /// refuses the conversation (its raise_exception) or exceeds a budget.
  Prompt apply_chat_template(std::span<const Message> messages, const ChatOptions& options = {}) const;

  const std::shared_ptr<api::TokenizerState>& state() const { return state_; }
  explicit Tokenizer(std::shared_ptr<api::TokenizerState> state) : state_(std::move(state)) {}

 private:
  std::shared_ptr<api::TokenizerState> state_;
};

/// Needs `tokenizer.json`; reads `tokenizer_config.json`, `special_tokens_map.json` and the chat template files when
/// they exist.
Tokenizer load_tokenizer(const Repository& repository);

}  // namespace bumblebee
