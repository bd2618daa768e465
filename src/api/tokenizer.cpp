// The public tokenizer: a handle over the text layer, with messages turned into the JSON that templates see.
#include "bumblebee/tokenizer.h"

#include <nlohmann/json.hpp>

#include "api/tokenizer_state.h"
#include "base/error.h"
#include "base/json.h"

namespace bumblebee {
namespace {

txt::EncodeOptions encode_options(const EncodeOptions& options) {
  return {.add_special_tokens = options.add_special_tokens,
          .control = options.parse_control_tokens ? txt::ControlTokens::parse : txt::ControlTokens::as_text};
}

OrderedJson message_json(const Message& message) {
  if (message.json.empty()) return {{"role", message.role}, {"content", message.content}};
  OrderedJson json;
  try {
    json = parse_ordered_json(message.json, "message", {.finite = true});
  } catch (const Error& error) {  // it came with the request, not from a file
    throw Error(ErrorCode::bad_request, "message", error.what());
  }
  if (!json.is_object()) throw Error(ErrorCode::bad_request, "message", "expected a JSON object");
  return json;
}

}  // namespace

std::vector<int32_t> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  return state_->tokenizer.encode(text, encode_options(options));
}

std::vector<std::vector<int32_t>> Tokenizer::encode_batch(std::span<const std::string> texts,
                                                          const EncodeOptions& options) const {
  return state_->tokenizer.encode_batch(texts, encode_options(options));
}

std::string Tokenizer::decode(std::span<const int32_t> tokens, bool skip_special_tokens) const {
  return state_->tokenizer.decode(tokens, skip_special_tokens);
}

std::optional<int32_t> Tokenizer::id_of(std::string_view token) const { return state_->tokenizer.id_of(token); }

std::string Tokenizer::token_of(int32_t id) const {
  const std::optional<std::string> token = state_->tokenizer.token_of(id);
  if (!token) throw Error(ErrorCode::bad_request, "tokenizer", cat("expected an id in the vocabulary, got ", id));
  return *token;
}

int Tokenizer::vocab_size() const { return state_->tokenizer.vocab_size(); }

std::optional<std::string> Tokenizer::bytes_of(int32_t id) const {
  const auto bytes = state_->tokenizer.token_bytes(id);
  if (!bytes || state_->tokenizer.token_table()->tokens[size_t(id)].kind == txt::TokenBytes::Kind::nothing)
    return std::nullopt;
  return std::string(*bytes);
}

bool Tokenizer::is_special(int32_t id) const { return state_->tokenizer.is_special(id); }

int Tokenizer::max_token_bytes() const { return state_->tokenizer.max_token_bytes(); }

std::string Tokenizer::chat_template() const {
  for (const auto& [name, source] : state_->tokenizer.config().chat_templates) {
    if (name == "default") return source;
  }
  return {};
}

bool Tokenizer::has_chat_template() const { return !state_->tokenizer.config().chat_templates.empty(); }

namespace api {

txt::RenderedPrompt render(TokenizerState& state, std::span<const Message> messages, const ChatOptions& options) {
  OrderedJson list = OrderedJson::array();
  for (const Message& message : messages) list.push_back(message_json(message));
  // Bytes that are not UTF-8 become U+FFFD here, as they do when plain text is encoded.
  const std::string json = list.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
  const txt::ChatTemplate chat = options.chat_template.empty()
                                     ? state.chat_template()
                                     : txt::ChatTemplate::from_source(options.chat_template, state.tokenizer);
  txt::RenderRequest request;
  request.messages_json = json;
  request.tools_json = options.tools;
  request.kwargs_json = options.template_kwargs;
  request.add_generation_prompt = options.add_generation_prompt;
  request.trust_content = options.trust_content;
  return chat.render(request);
}

}  // namespace api

Prompt Tokenizer::apply_chat_template(std::span<const Message> messages, const ChatOptions& options) const {
  txt::RenderedPrompt rendered = api::render(*state_, messages, options);
  std::vector<int32_t> tokens = state_->tokenizer.encode(rendered);
  return {.text = std::move(rendered.text), .tokens = std::move(tokens)};
}

Tokenizer load_tokenizer(const Repository& repository) {
  return Tokenizer(std::make_shared<api::TokenizerState>(txt::Tokenizer::load(repository.text_directory())));
}

}  // namespace bumblebee
