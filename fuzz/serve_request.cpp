// Any bytes as the body of a request: refused with an answer that is JSON itself, or read into settings that the
// library takes and messages that are JSON. The first byte chooses the endpoint, and whether unknown fields are
// refused.
#include <nlohmann/json.hpp>

#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/utf8.h"
#include "serve/openai/errors.h"
#include "serve/openai/requests.h"

namespace bumblebee::serve {
namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

RequestRules rules(bool strict) {
  RequestRules rules;
  rules.context = 4096;
  rules.vocab_size = 1000;
  rules.config.eos_token_ids = {2};
  rules.strict = strict;
  return rules;
}

void check(const GenerationRequest& request) {
  require(request.ignored.size() <= 20);
  for (const std::string& name : request.ignored) {
    for (const char c : name) require(c > ' ' && c <= '~');
  }
  require(request.lora.empty() || request.adapter.empty());
}

void check(const text::Input& input) {
  validate(*input.config);
  require(input.n >= 1 && input.n <= 8);
  require(input.config->max_new_tokens >= 1);
  require(!std::holds_alternative<ContrastiveSearch>(input.config->strategy));
  for (const int32_t token : input.tokens) require(token >= 0 && token < 1000);
  require(valid_utf8(input.text));
}

void check(const std::vector<Message>& messages, const ChatOptions& options) {
  require(!messages.empty());
  for (const Message& message : messages) {
    require(valid_utf8(message.content));
    require(message.json.empty() || nlohmann::json::parse(message.json)["role"] == message.role);
  }
  require(options.tools.empty() || nlohmann::json::parse(options.tools).is_array());
  require(options.template_kwargs.empty() || nlohmann::json::parse(options.template_kwargs).is_object());
  require(!options.trust_content && options.chat_template.empty());
}

void read(uint8_t endpoint, std::string_view body, const RequestRules& rules) {
  switch (endpoint) {
    case 0: {
      const ChatRequest request = read_chat_request(body, rules);
      check(request);
      check(request.input);
      check(request.input.messages, request.input.chat);
      break;
    }
    case 1: {
      const CompletionRequest request = read_completion_request(body, rules);
      check(request);
      require(!request.inputs.empty() && request.inputs.size() <= 32);
      for (const text::Input& input : request.inputs) check(input);
      break;
    }
    case 2: read_tokenize_request(body, rules); break;
    case 3: read_detokenize_request(body, rules); break;
    case 4: {
      const TemplateRequest request = read_template_request(body, rules);
      check(request.messages, request.chat);
      break;
    }
    case 5: read_load_adapter_request(body, rules); break;
    default: read_unload_adapter_request(body, rules); break;
  }
}

}  // namespace
}  // namespace bumblebee::serve

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace bumblebee::serve;
  if (size == 0) return 0;
  // Digits, so that seeds can be read: 0 to 6, and 7 to 9 for strict chats.
  const uint8_t choice = data[0] % 16 % 10;
  static const RequestRules usual = rules(false), strict = rules(true);
  try {
    read(choice < 7 ? choice : 0, {reinterpret_cast<const char*>(data + 1), size - 1}, choice < 7 ? usual : strict);
  } catch (const ApiError& error) {
    require(error.status() == 400 || error.status() == 413);
    require(nlohmann::json::parse(error_body(error))["error"]["code"] == error.kind().code);
  }
  return 0;
}
