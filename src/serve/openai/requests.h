// Bodies of requests, read: everything checked that can be checked without the model. What is wrong throws an ApiError
// that names the JSON path.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bumblebee/generation.h"

namespace bumblebee::serve {

/// What the server knows when it reads a request. The same for all requests to one model.
struct RequestRules {
  GenerationConfig config;  // the model's; a request's settings are laid over it. Contrastive search becomes greedy
  int context = 0;          // tokens of prompt and output together
  int vocab_size = 0;
  bool developer_role = false;         // the chat template has it; else such messages become the system's
  bool thought_beside_content = true;  // it takes one that calls, says something and has a thought
  bool null_content = true;            // the chat template takes a message that calls and says nothing; else it says ""
  bool tools_in_message = false;       // the template reads tools from the system message, as text
  bool shows_tools = true;             // else the model would not see them, and no call of it would be read
  std::string chat_template;           // whose variables a request may set
  bool strict = false;                 // unknown fields are refused, instead of ignored and named
};

/// Whether a chat template has messages of the role "developer".
bool has_developer_role(std::string_view chat_template);
/// Whether one asks for a variable of this name: as a word of its tags, outside texts and no member of another.
bool reads_variable(std::string_view chat_template, std::string_view name);

struct LoraPart {
  std::string name;
  float scale = 1;
};

/// What the answer looks like.
struct AnswerShape {
  bool stream = false;
  bool include_usage = false;     // a chunk with the usage at the stream's end
  bool continuous_usage = false;  // and the usage so far in every chunk
  bool logprobs = false;
  bool token_ids = false;  // return_token_ids
  bool timings = false;    // timings_per_token
  bool echo = false;       // completions: the prompt's text comes first
};

/// What both endpoints that generate have. Which model and adapters are meant is for the server to find out: the inputs
/// have none yet, and no client, no deadlines and no seed unless the request names one.
struct GenerationRequest {
  std::string model;           // as sent; empty: not sent
  std::string adapter;         // by name; excludes lora
  std::vector<LoraPart> lora;  // names are there once
  AnswerShape shape;
  std::vector<std::string> ignored;  // unknown fields, for the header x-bumblebee-ignored: printable ASCII, at most 20
};

struct ChatRequest : GenerationRequest {
  text::Input input;                    // messages, chat options, config, n
  std::vector<std::string> tool_names;  // empty: no calls are looked for
  /// Of their parameters those that are texts, and whether they may be null.
  std::map<std::string, std::map<std::string, bool, std::less<>>, std::less<>> text_parameters;
  bool parallel_tool_calls = true;
};

struct CompletionRequest : GenerationRequest {
  std::vector<text::Input> inputs;  // one a prompt, text or tokens, each with the same n
};

ChatRequest read_chat_request(std::string_view body, const RequestRules& rules);
CompletionRequest read_completion_request(std::string_view body, const RequestRules& rules);

/// Of a text, or of a conversation when there are messages.
struct TokenizeRequest {
  std::string model;
  std::string text;
  std::vector<Message> messages;
  ChatOptions chat;
  EncodeOptions encode;
  bool token_strings = false;
  std::vector<std::string> ignored;
};
TokenizeRequest read_tokenize_request(std::string_view body, const RequestRules& rules);

struct DetokenizeRequest {
  std::string model;
  std::vector<int32_t> tokens;
  std::vector<std::string> ignored;
};
DetokenizeRequest read_detokenize_request(std::string_view body, const RequestRules& rules);

struct TemplateRequest {
  std::string model;
  std::vector<Message> messages;
  ChatOptions chat;
  std::vector<std::string> ignored;
};
TemplateRequest read_template_request(std::string_view body, const RequestRules& rules);

struct LoadAdapterRequest {
  std::string name, path;
  bool in_place = false;                       // replaces the adapter of that name
  std::optional<int64_t> expected_generation;  // of the one that is replaced
  std::vector<std::string> ignored;
};
LoadAdapterRequest read_load_adapter_request(std::string_view body, const RequestRules& rules);

struct UnloadAdapterRequest {
  std::string name;
  std::optional<int64_t> expected_generation;
  std::vector<std::string> ignored;
};
UnloadAdapterRequest read_unload_adapter_request(std::string_view body, const RequestRules& rules);

}  // namespace bumblebee::serve
