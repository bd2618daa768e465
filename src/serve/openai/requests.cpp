// The endpoints' own fields, and how a draft becomes a request.
#include "serve/openai/requests.h"

#include <nlohmann/json.hpp>

#include <algorithm>

#include "base/error.h"
#include "serve/openai/errors.h"
#include "serve/openai/field_reader.h"

namespace bumblebee::serve {
namespace {

constexpr int64_t kChatLogprobs = 20, kTextLogprobs = 5;
constexpr size_t kPrompts = 32, kPathBytes = 4096, kIds = 1'000'000;

std::vector<FieldReader> with(std::vector<FieldReader> first, const std::vector<FieldReader>& rest) {
  first.insert(first.end(), rest.begin(), rest.end());
  return first;
}

void read_modalities(const JsonIn& value, Draft&) {
  value.array(0, 8);
  for (size_t i = 0; i < value.size(); ++i) {
    if (value.at(i).string() == "text") continue;
    throw ApiError(Refusal::unsupported_parameter,
                   cat(value.at(i).path(), ": expected text only, got ", shown(*value.at(i))), "modalities");
  }
}

std::vector<int32_t> read_ids(const JsonIn& value, const Draft& draft, size_t least) {
  std::vector<int32_t> ids;
  value.array(least, kIds);
  ids.reserve(value.size());
  for (size_t i = 0; i < value.size(); ++i) ids.push_back(read_token_id(value.at(i), draft));
  return ids;
}

/// A text, several, token ids, or several lists of them.
void read_prompt(const JsonIn& value, Draft& draft) {
  const auto add = [&draft](const JsonIn& in) {
    text::Input& input = draft.prompts.emplace_back();
    if (in.is_string()) {
      input.text = in.string();
    } else if (in.is_array()) {
      input.tokens = read_ids(in, draft, 1);
    } else {
      in.expected("a string, or an array of token ids");
    }
  };
  if (value.is_string()) return add(value);
  if (!value.is_array()) value.expected("a string, token ids, or an array of them");
  if (value.size() == 0) value.out_of_range("a prompt");
  if (value->front().is_number()) return add(value);
  value.array(1, kPrompts);
  for (size_t i = 0; i < value.size(); ++i) add(value.at(i));
}

void read_token_text(const JsonIn& value, Draft& draft) {
  if (draft.text) {
    throw ApiError(Refusal::invalid_value, cat(value.path(), ": expected one of prompt and content, got both"),
                   value.path());
  }
  draft.text = value.string();
}

void read_generation_number(const JsonIn& value, Draft& draft) { draft.generation = value.integer(0, INT64_MAX); }

std::vector<FieldReader> chat_only() {
  using enum FieldUse;
  return {
      {{"parallel_tool_calls", accepted, "false: the answer ends after one call"},
       [](const JsonIn& v, Draft& d) { d.parallel_tool_calls = v.boolean(); }},
      {{"logprobs", accepted, "Also with tools and in streams"},
       [](const JsonIn& v, Draft& d) { d.request.shape.logprobs = v.boolean(); }},
      {{"top_logprobs", accepted, "0 to 20, with `logprobs`"},
       [](const JsonIn& v, Draft& d) { d.top_logprobs = v.integer(0, kChatLogprobs); }},
      {{"modalities", accepted, "`[\"text\"]` only"}, read_modalities},
      {{"add_special_tokens", refused, "The template writes them"}},
      {{"echo", refused, ""}},
      {{"audio", refused, ""}},
      {{"functions", refused, "Use `tools`"}, nullptr, is_empty},
      {{"function_call", refused, "Use `tool_choice`. Without `functions`, `none` and `auto` are nothing"},
       nullptr,
       [](const OrderedJson& v) { return is_off(v) || v == "none" || v == "auto"; }},
      {{"web_search_options", refused, ""}},
      {{"input", refused, "Of `/v1/responses`"}},
      {{"prompt", refused, "Of `/v1/completions`"}},
  };
}

std::vector<FieldReader> completions_only() {
  using enum FieldUse;
  return {
      {{"prompt", accepted,
        "A string, a list of token ids, or at most 32 of either. Control tokens that a text spells are control tokens"},
       read_prompt},
      {{"echo", accepted, "The prompt's text comes first; not with `logprobs`"},
       [](const JsonIn& v, Draft& d) { d.request.shape.echo = v.boolean(); }},
      {{"logprobs", accepted, "0 to 5, in the old shape"},
       [](const JsonIn& v, Draft& d) {
         d.top_logprobs = v.integer(0, kTextLogprobs);
         d.request.shape.logprobs = true;
       }},
      {{"add_special_tokens", accepted, "true only"},
       [](const JsonIn& v, Draft&) {
         if (v.boolean()) return;
         throw ApiError(Refusal::unsupported_parameter,
                        "add_special_tokens: expected true. For a prompt without them send its token ids",
                        "add_special_tokens");
       }},
      {{"suffix", refused, "Write the model's own tokens for filling in the middle into the prompt"}},
      {{"messages", refused, "Of `/v1/chat/completions`"}},
  };
}

std::vector<FieldReader> tokenize_fields() {
  using enum FieldUse;
  return with(
      {
          {{"model", accepted, ""}, read_model},
          {{"prompt", accepted, "A text, as `/v1/completions` would read it"}, read_token_text},
          {{"content", accepted, "The same, by llama.cpp's name: then without the tokens that begin a text"},
           [](const JsonIn& v, Draft& d) {
             read_token_text(v, d);
             d.llama_names = true;
           }},
          {{"add_special_tokens", accepted, "Whether a text gets the tokens that begin one. Absent: true"},
           [](const JsonIn& v, Draft& d) { d.add_special_tokens = v.boolean(); }},
          {{"add_special", accepted, "The same"},
           [](const JsonIn& v, Draft& d) { d.add_special_tokens = v.boolean(); }},
          {{"parse_special", accepted, "Whether control tokens that a text spells are control tokens. Absent: true"},
           [](const JsonIn& v, Draft& d) { d.parse_control_tokens = v.boolean(); }},
          {{"return_token_strs", accepted, "`token_strs`, the tokens' texts"},
           [](const JsonIn& v, Draft& d) { d.token_strings = v.boolean(); }},
      },
      template_fields());
}

std::vector<FieldReader> detokenize_fields() {
  using enum FieldUse;
  return {
      {{"model", accepted, ""}, read_model},
      {{"tokens", accepted, "Token ids"}, [](const JsonIn& v, Draft& d) { d.tokens = read_ids(v, d, 0); }},
  };
}

std::vector<FieldReader> load_fields() {
  using enum FieldUse;
  return {
      {{"lora_name", accepted, "1 to 64 of `A-Z a-z 0-9 . _ -`; not `default` or `default_model`, which are the base"},
       [](const JsonIn& v, Draft& d) { d.request.adapter = read_adapter_name(v); }},
      {{"lora_path", accepted,
        "Below `--adapter-root`, from there or in full; with `--allow-hub` also `hf://org/name`"},
       [](const JsonIn& v, Draft& d) { d.adapter_path = v.string(kPathBytes); }},
      {{"load_inplace", accepted, "Replaces the adapter of this name; requests that run keep theirs"},
       [](const JsonIn& v, Draft& d) { d.in_place = v.boolean(); }},
      {{"expected_generation", accepted, "Replaces it only if this is its generation"}, read_generation_number},
      {{"lora_int_id", ignored, ""}},
      {{"base_model_name", ignored, ""}},
  };
}

std::vector<FieldReader> unload_fields() {
  using enum FieldUse;
  return {
      {{"lora_name", accepted, ""}, [](const JsonIn& v, Draft& d) { d.request.adapter = read_adapter_name(v); }},
      {{"expected_generation", accepted, "Unloads it only if this is its generation"}, read_generation_number},
      {{"lora_int_id", ignored, ""}},
  };
}

void require(bool there, const char* field, const char* what) {
  if (!there) throw ApiError(Refusal::missing_field, cat(field, ": expected ", what, ", got nothing"), field);
}

}  // namespace

const std::vector<FieldReader>& readers_of(Endpoint endpoint) {
  static const std::vector<FieldReader> tables[] = {
      with(template_fields(), with(generation_fields(), chat_only())),
      with(completions_only(), generation_fields()),
      tokenize_fields(),
      detokenize_fields(),
      with({{{"model", FieldUse::accepted, ""}, read_model}}, template_fields()),
      load_fields(),
      unload_fields(),
  };
  return tables[size_t(endpoint)];
}

ChatRequest read_chat_request(std::string_view body, const RequestRules& rules) {
  Draft draft(rules);
  read_fields(read_body(body), Endpoint::chat, draft);
  require(!draft.messages.empty(), "messages", "an array of messages");
  AnswerShape& shape = draft.request.shape;
  if (draft.top_logprobs.value_or(0) > 0 && !shape.logprobs) {
    throw ApiError(Refusal::invalid_value, "top_logprobs: expected logprobs to be true with it", "top_logprobs");
  }
  draft.config.logprobs = shape.logprobs;
  draft.config.top_logprobs = int(draft.top_logprobs.value_or(0));
  finish_generation(draft);

  ChatRequest request;
  static_cast<GenerationRequest&>(request) = std::move(draft.request);
  request.input = std::move(draft.input);
  request.input.chat = chat_options(draft);
  request.input.messages = std::move(draft.messages);
  request.input.config = std::move(draft.config);
  if (draft.use_tools) {
    request.tool_names = std::move(draft.tool_names);
    request.text_parameters = std::move(draft.text_parameters);
  }
  request.parallel_tool_calls = draft.parallel_tool_calls;
  return request;
}

CompletionRequest read_completion_request(std::string_view body, const RequestRules& rules) {
  Draft draft(rules);
  read_fields(read_body(body), Endpoint::completions, draft);
  require(!draft.prompts.empty(), "prompt", "a string, token ids, or an array of them");
  AnswerShape& shape = draft.request.shape;
  if (shape.echo && shape.logprobs) {
    throw ApiError(Refusal::unsupported_parameter, "echo: not implemented with logprobs, which the prompt has none of",
                   "echo");
  }
  draft.config.logprobs = shape.logprobs;
  draft.config.top_logprobs = int(draft.top_logprobs.value_or(0));
  finish_generation(draft);

  CompletionRequest request;
  static_cast<GenerationRequest&>(request) = std::move(draft.request);
  for (text::Input& prompt : draft.prompts) {
    text::Input input = draft.input;
    input.text = std::move(prompt.text);
    input.tokens = std::move(prompt.tokens);
    input.parse_control_tokens = true;  // texts for filling in the middle spell them
    input.config = draft.config;
    request.inputs.push_back(std::move(input));
  }
  return request;
}

TokenizeRequest read_tokenize_request(std::string_view body, const RequestRules& rules) {
  Draft draft(rules);
  read_fields(read_body(body), Endpoint::tokenize, draft);
  require(draft.text || !draft.messages.empty(), "prompt", "a string, or messages");
  if (draft.text && !draft.messages.empty()) {
    throw ApiError(Refusal::invalid_value, "messages: expected a text or messages, got both", "messages");
  }
  TokenizeRequest request;
  request.model = std::move(draft.request.model);
  request.chat = chat_options(draft);
  request.messages = std::move(draft.messages);
  request.text = draft.text.value_or("");
  request.encode.add_special_tokens = draft.add_special_tokens.value_or(!draft.llama_names);
  request.encode.parse_control_tokens = draft.parse_control_tokens;
  request.token_strings = draft.token_strings;
  request.ignored = std::move(draft.request.ignored);
  return request;
}

DetokenizeRequest read_detokenize_request(std::string_view body, const RequestRules& rules) {
  Draft draft(rules);
  const OrderedJson json = read_body(body);
  read_fields(json, Endpoint::detokenize, draft);
  require(json.contains("tokens") && !json["tokens"].is_null(), "tokens", "an array of token ids");
  return {std::move(draft.request.model), std::move(draft.tokens), std::move(draft.request.ignored)};
}

TemplateRequest read_template_request(std::string_view body, const RequestRules& rules) {
  Draft draft(rules);
  read_fields(read_body(body), Endpoint::apply_template, draft);
  require(!draft.messages.empty(), "messages", "an array of messages");
  TemplateRequest request;
  request.model = std::move(draft.request.model);
  request.chat = chat_options(draft);
  request.messages = std::move(draft.messages);
  request.ignored = std::move(draft.request.ignored);
  return request;
}

LoadAdapterRequest read_load_adapter_request(std::string_view body, const RequestRules& rules) {
  Draft draft(rules);
  read_fields(read_body(body), Endpoint::load_adapter, draft);
  require(!draft.request.adapter.empty(), "lora_name", "a name");
  require(!draft.adapter_path.empty(), "lora_path", "a path");
  return {std::move(draft.request.adapter), std::move(draft.adapter_path), draft.in_place, draft.generation,
          std::move(draft.request.ignored)};
}

UnloadAdapterRequest read_unload_adapter_request(std::string_view body, const RequestRules& rules) {
  Draft draft(rules);
  read_fields(read_body(body), Endpoint::unload_adapter, draft);
  require(!draft.request.adapter.empty(), "lora_name", "a name");
  return {std::move(draft.request.adapter), draft.generation, std::move(draft.request.ignored)};
}

}  // namespace bumblebee::serve
