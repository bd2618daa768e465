// How bodies are read: a table per endpoint says what each field is and which function reads it into a draft.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "serve/openai/fields.h"
#include "serve/openai/json_in.h"
#include "serve/openai/requests.h"

namespace bumblebee::serve {

/// What any of the endpoints has read so far. One type for all, so that they can share fields.
struct Draft {
  explicit Draft(const RequestRules& r) : rules(r), config(r.config) {}

  const RequestRules& rules;
  GenerationRequest request;
  text::Input input;  // what all prompts have in common
  SamplingOverrides sampling;
  GenerationConfig config;
  std::optional<int64_t> max_tokens, max_completion_tokens, min_tokens;
  std::optional<int64_t> best_of, top_logprobs;
  std::vector<std::string> windows;  // fields that let penalties see the last tokens only

  // chat
  std::vector<Message> messages;
  OrderedJson kwargs = OrderedJson::object();
  std::optional<std::string> effort;
  std::string tools;  // JSON; empty: none
  std::vector<std::string> tool_names;
  std::map<std::string, std::map<std::string, bool, std::less<>>, std::less<>> text_parameters;
  bool use_tools = true, parallel_tool_calls = true, add_generation_prompt = true;

  // completions, tokenize, detokenize
  std::vector<text::Input> prompts;
  std::optional<std::string> text;
  std::optional<bool> add_special_tokens;
  bool parse_control_tokens = true, token_strings = false, llama_names = false;
  std::vector<int32_t> tokens;

  // adapters
  std::string adapter_path;
  bool in_place = false;
  std::optional<int64_t> generation;

  /// For what is known by its place only, for instance tools[2]: refused with `strict`, else named in the answer.
  void ignore(const std::string& path);
};

using ReadField = void (*)(const JsonIn& value, Draft& draft);

/// Null, false and "": what clients send for a field that they do not use.
bool is_off(const OrderedJson& value);
/// These, [] and {}.
bool is_empty(const OrderedJson& value);

struct FieldReader {
  Field field;
  ReadField read = nullptr;                  // of those that are accepted
  bool (*off)(const OrderedJson&) = is_off;  // of those that are not: whether a value changes nothing
};

const std::vector<FieldReader>& readers_of(Endpoint endpoint);

/// Reads a body by its endpoint's table. A null is as good as no field.
void read_fields(const OrderedJson& body, Endpoint endpoint, Draft& draft);

// What several tables share.
std::vector<FieldReader> generation_fields();
std::vector<FieldReader> template_fields();

// Readers that several tables share.
void read_model(const JsonIn& value, Draft& draft);
int32_t read_token_id(const JsonIn& value, const Draft& draft);
/// Names of adapters: 1 to 64 of A-Z a-z 0-9 . _ -
std::string read_adapter_name(const JsonIn& value);

/// Lays lengths and sampling over the config, and checks what concerns several fields.
void finish_generation(Draft& draft);
/// Tools and variables of the template.
ChatOptions chat_options(Draft& draft);

}  // namespace bumblebee::serve
