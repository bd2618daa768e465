// Every value that may not be, and the exact answer to it.
#include <gtest/gtest.h>

#include "tests/serve/openai/support.h"

namespace bumblebee::serve {
namespace {

struct Bad {
  std::string fields, said;  // of a body with one message or prompt
};

std::string text_of(size_t bytes) { return "\"" + std::string(bytes, 'x') + "\""; }

std::string list_of(size_t count, const std::string& value) {
  std::string out = "[";
  for (size_t i = 0; i < count; ++i) out += (i > 0 ? "," : "") + value;
  return out + "]";
}

std::string biases(size_t count) {
  std::string out = "{";
  for (size_t i = 0; i < count; ++i) out += cat(i > 0 ? "," : "", "\"", i, "\": 1");
  return out + "}";
}

std::string tool(const std::string& name, const std::string& more = {}) {
  return cat(R"({"type": "function", "function": {"name": ")", name, "\"", more, "}}");
}

std::string tools(size_t count) {
  std::string out = "[";
  for (size_t i = 0; i < count; ++i) out += (i > 0 ? "," : "") + tool(cat("f", i));
  return out + "]";
}

// Of both endpoints.
const Bad kBoth[] = {
    {R"("n": 0)", "400 invalid_value n: n: expected a whole number from 1 to 8, got 0"},
    {R"("n": 9)", "400 invalid_value n: n: expected a whole number from 1 to 8, got 9"},
    {R"("n": -1)", "400 invalid_value n: n: expected a whole number from 1 to 8, got -1"},
    {R"("n": 1.5)", "400 invalid_value n: n: expected a whole number from 1 to 8, got 1.5"},
    {R"("n": "1")", "400 invalid_type n: n: expected a whole number from 1 to 8, got \"1\""},
    {R"("n": true)", "400 invalid_type n: n: expected a whole number from 1 to 8, got true"},
    {R"("n": 9223372036854775808)",
     "400 invalid_value n: n: expected a whole number from 1 to 8, got 9223372036854775808"},
    {R"("max_tokens": 0)",
     "400 invalid_value max_tokens: max_tokens: expected a whole number from 1, or -1 for no limit, got 0"},
    {R"("max_tokens": -2)", "400 invalid_value max_tokens: max_tokens: expected a whole number from -1 to "},
    {R"("max_tokens": 1.5)", "400 invalid_value max_tokens: "},
    {R"("max_completion_tokens": "9")", "400 invalid_type max_completion_tokens: "},
    {R"("min_tokens": 4097, "max_tokens": 10000)", "400 invalid_value min_tokens: "},
    {R"("min_tokens": -1)", "400 invalid_value min_tokens: min_tokens: expected a whole number from 0 to 4096, got -1"},
    {R"("min_tokens": 9, "max_tokens": 8)",
     "400 invalid_value min_tokens: min_tokens: expected 0 to max_tokens (8), got 9"},
    {R"("temperature": -1)", "400 invalid_value temperature: temperature: expected a number from 0 to 2, got -1"},
    {R"("temperature": 2.01)", "400 invalid_value temperature: temperature: expected a number from 0 to 2, got 2.01"},
    {R"("temperature": "0")", "400 invalid_type temperature: temperature: expected a number from 0 to 2, got \"0\""},
    {R"("top_p": 1.1)", "400 invalid_value top_p: top_p: expected a number from 0 to 1, got 1.1"},
    {R"("top_k": -2)", "400 invalid_value top_k: top_k: expected a whole number from -1 to 1000000, got -2"},
    {R"("min_p": -0.5)", "400 invalid_value min_p: min_p: expected a number from 0 to 1, got -0.5"},
    {R"("presence_penalty": 3)",
     "400 invalid_value presence_penalty: presence_penalty: expected a number from -2 to 2, got 3"},
    {R"("frequency_penalty": -3)",
     "400 invalid_value frequency_penalty: frequency_penalty: expected a number from -2 to 2, got -3"},
    {R"("repetition_penalty": 0)",
     "400 invalid_value repetition_penalty: repetition_penalty: expected a number above 0, to 100, got 0"},
    {R"("seed": 9223372036854775808)",
     "400 invalid_value seed: seed: expected a whole number from -9223372036854775808 to 9223372036854775807, got "
     "9223372036854775808"},
    {R"("stop": )" + list_of(17, "\"a\""),
     "400 invalid_value stop: stop: expected an array with 0 to 16 elements, got an array of 17"},
    {R"("stop": "")", "400 invalid_value stop: stop: expected a string of 1 to 1024 bytes, got \"\""},
    {R"("stop": ["a", ""])", "400 invalid_value stop[1]: stop[1]: expected a string of 1 to 1024 bytes, got \"\""},
    {R"("stop": )" + text_of(1 << 20),
     "400 invalid_value stop: stop: expected a string of at most 1024 bytes, got a string of 1048576 bytes"},
    {R"("stop": 1)", "400 invalid_type stop: stop: expected a string, or an array with 0 to 16 of them, got 1"},
    {R"("stop_token_ids": [-1])",
     "400 invalid_value stop_token_ids[0]: stop_token_ids[0]: expected a whole number from 0 to 999, got -1"},
    {R"("stop_token_ids": [1, 1000])",
     "400 invalid_value stop_token_ids[1]: stop_token_ids[1]: expected a whole number from 0 to 999, got 1000"},
    {R"("logit_bias": {"-1": 1})",
     "400 invalid_value logit_bias.-1: logit_bias.-1: expected a token id from 0 to 999 as the key"},
    {R"("logit_bias": {"1000": 1})",
     "400 invalid_value logit_bias.1000: logit_bias.1000: expected a token id from 0 to 999 as the key"},
    {R"("logit_bias": {"a": 1})",
     "400 invalid_value logit_bias.a: logit_bias.a: expected a token id from 0 to 999 as the key"},
    {R"("logit_bias": {"1": 1, "01": 1})", "400 invalid_value logit_bias.01: logit_bias.01: expected every token once"},
    {R"("logit_bias": {"1": 101})",
     "400 invalid_value logit_bias.1: logit_bias.1: expected a number from -100 to 100, got 101"},
    {R"("logit_bias": )" + biases(301),
     "400 invalid_value logit_bias: logit_bias: expected an object with at most 300 keys, got an object of 301"},
    {R"("logit_bias": [])", "400 invalid_type logit_bias: logit_bias: expected an object, got an array of 0"},
    {R"("cache_salt": "a/b")",
     "400 invalid_value cache_salt: cache_salt: expected 1 to 64 of A-Z a-z 0-9 _ -, got \"a/b\""},
    {R"("cache_salt": "")", "400 invalid_value cache_salt: cache_salt: expected 1 to 64 of A-Z a-z 0-9 _ -, got \"\""},
    {R"("cache_salt": )" + text_of(65),
     "400 invalid_value cache_salt: cache_salt: expected a string of at most 64 bytes, got a string of 65 bytes"},
    {R"("priority": 1001)",
     "400 invalid_value priority: priority: expected a whole number from -1000 to 1000, got 1001"},
    {R"("lora": [{"name": "a"}, {"name": "a"}])",
     "400 invalid_value lora[1].name: lora[1].name: expected every adapter once, got \"a\""},
    {R"("lora": [{"name": "a", "scale": NaN}])", "400 invalid_json -: "},
    {R"("lora": [{"name": "a", "scale": 1e38}])",
     "400 invalid_value lora[0].scale: lora[0].scale: expected a number from -100 to 100, got 1e+38"},
    {R"("lora": [{"scale": 1}])",
     "400 missing_required_parameter lora[0].name: lora[0].name: expected an adapter's name, got nothing"},
    {R"("lora": [{"name": "../a"}])",
     "400 invalid_value lora[0].name: lora[0].name: expected a name: 1 to 64 of A-Z a-z 0-9 . _ -, got \"../a\""},
    {R"("lora": [{"name": "a"}], "adapter": "b")",
     "400 invalid_value adapter: adapter: expected one of adapter and lora, got both"},
    {R"("best_of": 2)", "400 unsupported_parameter best_of: best_of: expected n (1), got 2"},
    {R"("stream": 1)", "400 invalid_type stream: stream: expected true or false, got 1"},
    {R"("stream_options": true)", "400 invalid_type stream_options: stream_options: expected an object, got true"},
    {R"("stream_options": {"include_usage": 1})",
     "400 invalid_type stream_options.include_usage: stream_options.include_usage: expected true or false, got 1"},
    {R"("response_format": {"type": "json_object"})", "400 unsupported_parameter response_format: "},
    {R"("response_format": {"type": "json_schema", "json_schema": {"name": "a", "strict": true, "schema": {}}})",
     "400 unsupported_parameter response_format: "},
    {R"("response_format": {"type": "xml"})",
     "400 invalid_value response_format.type: response_format.type: expected \"text\", got \"xml\""},
    {R"("response_format": {})", "400 missing_required_parameter response_format.type: "},
    {R"("grammar": "root ::= a")", "400 unsupported_parameter grammar: grammar: not implemented yet"},
    {R"("guided_json": {})", "400 unsupported_parameter guided_json: guided_json: not implemented yet"},
    {R"("bad_words": ["a"])", "400 unsupported_parameter bad_words: bad_words: not supported. Use `logit_bias`"},
    {R"("allowed_token_ids": [1])", "400 unsupported_parameter allowed_token_ids: "},
    {R"("include_stop_str_in_output": true)", "400 unsupported_parameter include_stop_str_in_output: "},
    {R"("truncate_prompt_tokens": 5)", "400 unsupported_parameter truncate_prompt_tokens: "},
    {R"("enable_thinking": false)",
     "400 unsupported_parameter enable_thinking: enable_thinking: not supported. Put it into `chat_template_kwargs`"},
    {R"("typical_p": 0.9)", "400 unsupported_parameter typical_p: "},
    {R"("typical_p": 0)", "400 unsupported_parameter typical_p: "},
    {R"("xtc_probability": 0.5)", "400 unsupported_parameter xtc_probability: "},
    {R"("dry_multiplier": 0.8)", "400 unsupported_parameter dry_multiplier: "},
    {R"("mirostat": 2)", "400 unsupported_parameter mirostat: "},
    {R"("repeat_penalty": 1.1)", "400 unsupported_parameter repeat_penalty: "},
    {R"("top_n_sigma": 1)", "400 unsupported_parameter top_n_sigma: "},
    {R"("no_repeat_ngram_size": 3)", "400 unsupported_parameter no_repeat_ngram_size: "},
    {R"("tfs_z": 0.9)", "400 unsupported_parameter tfs_z: "},
    {R"("adapters": "poet")",
     "400 unsupported_parameter adapters: adapters: not supported. Use `model`, `adapter` or `lora`"},
    {R"("lora_path": ["poet"])", "400 unsupported_parameter lora_path: "},
    {R"("adapter_id": "poet")", "400 unsupported_parameter adapter_id: "},
    {R"("regex": "[0-9]+")", "400 unsupported_parameter regex: regex: not implemented yet"},
    {R"("ebnf": "root ::= a")", "400 unsupported_parameter ebnf: ebnf: not implemented yet"},
    {R"("guided_whitespace_pattern": " ")", "400 unsupported_parameter guided_whitespace_pattern: "},
    {R"("thinking_token_budget": 100)", "400 unsupported_parameter thinking_token_budget: "},
    {R"("penalty_alpha": 0.6)",
     "400 unsupported_parameter penalty_alpha: penalty_alpha: not supported. Contrastive search is for the library: "
     "one "
     "such request stops everybody's"},
    {R"("model": 1)", "400 invalid_type model: model: expected a string, got 1"},
    {R"("model": )" + text_of(257),
     "400 invalid_value model: model: expected a string of at most 256 bytes, got a string of 257 bytes"},
};

const Bad kChat[] = {
    {R"("top_logprobs": 21, "logprobs": true)",
     "400 invalid_value top_logprobs: top_logprobs: expected a whole number from 0 to 20, got 21"},
    {R"("top_logprobs": 5)", "400 invalid_value top_logprobs: top_logprobs: expected logprobs to be true with it"},
    {R"("logprobs": 5)", "400 invalid_type logprobs: logprobs: expected true or false, got 5"},
    {R"("chat_template_kwargs": {"messages": []})",
     "400 invalid_value chat_template_kwargs.messages: chat_template_kwargs.messages: expected no variable that the "
     "server itself sets"},
    {R"("chat_template_kwargs": {"bos_token": "x"})",
     "400 invalid_value chat_template_kwargs.bos_token: chat_template_kwargs.bos_token: expected no variable that the "
     "server itself sets"},
    {R"("chat_template_kwargs": {"date_string": "1"})",
     "400 invalid_value chat_template_kwargs.date_string: chat_template_kwargs.date_string: expected a variable that "
     "the model's chat template reads"},
    {R"("chat_template_kwargs": {"enable_thinking": "no"})",
     "400 invalid_type chat_template_kwargs.enable_thinking: chat_template_kwargs.enable_thinking: expected true or "
     "false, got \"no\""},
    {R"("reasoning_effort": "much")",
     "400 invalid_value reasoning_effort: reasoning_effort: expected none, minimal, low, medium, high, xhigh or max, "
     "got "
     "\"much\""},
    {R"("tools": )" + tools(129),
     "400 invalid_value tools: tools: expected an array with 0 to 128 elements, got an array of 129"},
    {R"("tools": [)" + tool(std::string(65, 'a')) + "]",
     "400 invalid_value tools[0].function.name: tools[0].function.name: expected a name: 1 to 64 of A-Z a-z 0-9 . _ -, "
     "got a string of 65 bytes"},
    {R"("tools": [)" + tool("<|im_start|>") + "]", "400 invalid_value tools[0].function.name: "},
    {R"("tools": [)" + tool("a") + "," + tool("a") + "]",
     "400 invalid_value tools[1].function.name: tools[1].function.name: expected every name once, got \"a\""},
    {R"("tools": [)" + tool("a", ", \"strict\": true") + "]", "400 unsupported_parameter tools[0].function.strict: "},
    {R"("tools": [)" + tool("a", ", \"parameters\": " + std::string(65, '[') + std::string(65, ']')) + "]",
     "400 invalid_json -: expected JSON of at most 64 levels"},
    {R"("tools": [)" + tool("a", ", \"parameters\": []") + "]",
     "400 invalid_type tools[0].function.parameters: tools[0].function.parameters: expected an object, got an array of "
     "0"},
    {R"("tools": [{"type": "function"}])",
     "400 missing_required_parameter tools[0].function: tools[0].function: expected an object, got nothing"},
    {R"("tools": [{"function": {"name": "a"}}])", "400 missing_required_parameter tools[0].type: "},
    {R"("tool_choice": "required")", "400 unsupported_parameter tool_choice: "},
    {R"("tool_choice": {"type": "function", "function": {"name": "a"}})", "400 unsupported_parameter tool_choice: "},
    {R"("tool_choice": "some")", "400 invalid_value tool_choice: tool_choice: expected none or auto, got \"some\""},
    {R"("tool_choice": 1)", "400 invalid_type tool_choice: tool_choice: expected none or auto, got 1"},
    {R"("functions": [{"name": "f"}])", "400 unsupported_parameter functions: functions: not supported. Use `tools`"},
    {R"("function_call": {"name": "f"})",
     "400 unsupported_parameter function_call: function_call: not supported. Use `tool_choice`"},
    {R"("modalities": ["text", "audio"])", "400 unsupported_parameter modalities: "},
    {R"("audio": {"voice": "alloy"})", "400 unsupported_parameter audio: audio: not supported"},
    {R"("web_search_options": {})", "400 unsupported_parameter web_search_options: web_search_options: not supported"},
    {R"("chat_template": "{{ 1 }}")",
     "400 unsupported_parameter chat_template: chat_template: not supported. The template is the model's"},
    {R"("continue_final_message": true)",
     "400 unsupported_parameter continue_final_message: continue_final_message: not implemented yet"},
};

const Bad kCompletions[] = {
    {R"("logprobs": 6)", "400 invalid_value logprobs: logprobs: expected a whole number from 0 to 5, got 6"},
    {R"("logprobs": true)", "400 invalid_type logprobs: logprobs: expected a whole number from 0 to 5, got true"},
    {R"("add_special_tokens": false)", "400 unsupported_parameter add_special_tokens: "},
    {R"("echo": true, "logprobs": 1)", "400 unsupported_parameter echo: "},
    {R"("suffix": "end")", "400 unsupported_parameter suffix: suffix: not supported. Write the model's own tokens"},
};

struct BadBody {
  std::string body, said;
};
const BadBody kPrompts[] = {
    {"{}",
     "400 missing_required_parameter prompt: prompt: expected a string, token ids, or an array of them, got nothing"},
    {R"({"prompt": null})", "400 missing_required_parameter prompt: "},
    {R"({"prompt": []})", "400 invalid_value prompt: prompt: expected a prompt, got an array of 0"},
    {R"({"prompt": 1})", "400 invalid_type prompt: prompt: expected a string, token ids, or an array of them, got 1"},
    {R"({"prompt": [-1]})", "400 invalid_value prompt[0]: prompt[0]: expected a whole number from 0 to 999, got -1"},
    {R"({"prompt": [1, 1000]})",
     "400 invalid_value prompt[1]: prompt[1]: expected a whole number from 0 to 999, got 1000"},
    {R"({"prompt": [1, "a"]})",
     "400 invalid_type prompt[1]: prompt[1]: expected a whole number from 0 to 999, got \"a\""},
    {R"({"prompt": ["a", 1]})",
     "400 invalid_type prompt[1]: prompt[1]: expected a string, or an array of token ids, got 1"},
    {R"({"prompt": [[1], [1000]]})",
     "400 invalid_value prompt[1][0]: prompt[1][0]: expected a whole number from 0 to 999, got 1000"},
    {R"({"prompt": [[]]})",
     "400 invalid_value prompt[0]: prompt[0]: expected an array with 1 to 1000000 elements, got an array of 0"},
    {R"({"prompt": )" + list_of(33, "\"a\"") + "}",
     "400 invalid_value prompt: prompt: expected an array with 1 to 32 elements, got an array of 33"},
    {R"({"messages": [{"role": "user", "content": "Hi"}]})",
     "400 wrong_endpoint messages: this is a chat completions request: POST it to /v1/chat/completions"},
};

const BadBody kMessages[] = {
    {"{}", "400 missing_required_parameter messages: messages: expected an array of messages, got nothing"},
    {R"({"messages": null})", "400 missing_required_parameter messages: "},
    {R"({"messages": []})",
     "400 invalid_value messages: messages: expected an array with 1 to 8192 elements, got an array of 0"},
    {R"({"messages": "Hi"})",
     "400 invalid_type messages: messages: expected an array with 1 to 8192 elements, got \"Hi\""},
    {R"({"messages": )" + list_of(10'000, R"({"role": "user", "content": "a"})") + "}",
     "400 invalid_value messages: messages: expected an array with 1 to 8192 elements, got an array of 10000"},
    {R"({"messages": ["Hi"]})", "400 invalid_type messages[0]: messages[0]: expected an object, got \"Hi\""},
    {R"({"messages": [{"content": "Hi"}]})",
     "400 missing_required_parameter messages[0].role: messages[0].role: expected a role, got nothing"},
    {R"({"messages": [{"role": "robot", "content": "Hi"}]})",
     "400 invalid_value messages[0].role: messages[0].role: expected system, developer, user, assistant or tool, got "
     "\"robot\""},
    {R"({"messages": [{"role": "function", "name": "f", "content": "1"}]})",
     "400 unsupported_parameter messages[0].role: messages[0].role: \"function\" is not supported. Use \"tool\""},
    {R"({"messages": [{"role": "user", "content": null}]})",
     "400 missing_required_parameter messages[0].content: messages[0].content: expected a string, or an array of text "
     "parts, got nothing"},
    {R"({"messages": [{"role": "user"}]})", "400 missing_required_parameter messages[0].content: "},
    {R"({"messages": [{"role": "user", "content": 1}]})",
     "400 invalid_type messages[0].content: messages[0].content: expected a string, null, or an array of text parts, "
     "got 1"},
    {R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "What?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]})",
     "400 unsupported_content messages[0].content[1]: messages[0].content[1]: expected a text part, got \"image_url\""},
    {R"({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]})",
     "400 unsupported_content messages[0].content[0]: "},
    {R"({"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]})",
     "400 unsupported_content messages[0].content[0]: "},
    {R"({"messages": [{"role": "user", "content": [{"text": "a"}]}]})",
     "400 missing_required_parameter messages[0].content[0].type: "},
    {R"({"messages": [{"role": "user", "content": ["a"]}]})", "400 invalid_type messages[0].content[0]: "},
    {R"({"messages": [{"role": "user", "content": "a", "tool_calls": []}]})",
     "400 invalid_value messages[0].tool_calls: messages[0].tool_calls: expected no calls in a message of this role, "
     "got an "
     "array of 0"},
    {R"({"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}]})",
     "400 missing_required_parameter messages[0].tool_calls[0].function.name: "},
    {R"({"messages": [{"role": "assistant", "tool_calls": [{"type": "custom", "custom": {}}]}]})",
     "400 invalid_value messages[0].tool_calls[0].type: "},
    {R"({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 1}}]}]})",
     "400 invalid_type messages[0].tool_calls[0].function.arguments: "},
    {R"({"messages": [{"role": "assistant", "content": "a", "reasoning_content": 1}]})",
     "400 invalid_type messages[0].reasoning_content: "},
    {R"({"messages": [{"role": "assistant", "content": "a", "reasoning": []}]})",
     "400 invalid_type messages[0].reasoning: "},
    {R"({"input": "Hi"})", "400 wrong_endpoint input: this is a Responses request: POST it to /v1/responses"},
    {R"({"input": [], "messages": null})", "400 wrong_endpoint input: "},
    {R"({"prompt": "Hi"})", "400 wrong_endpoint prompt: this is a completions request: POST it to /v1/completions"},
};

/// Exact where the expectation ends like a sentence that gives what came; else how it begins.
void expect_said(const std::string& got, const std::string& said, const std::string& body) {
  EXPECT_TRUE(got.starts_with(said)) << body.substr(0, 200) << "\n  said     " << got << "\n  expected " << said;
}

TEST(BadValues, OfBothEndpoints) {
  for (const Bad& bad : kBoth) {
    expect_said(chat_refusal(chat_body(bad.fields)), bad.said, bad.fields);
    expect_said(completion_refusal(completion_body(bad.fields)), bad.said, bad.fields);
  }
}
TEST(BadValues, OfChats) {
  for (const Bad& bad : kChat) expect_said(chat_refusal(chat_body(bad.fields)), bad.said, bad.fields);
  for (const BadBody& bad : kMessages) expect_said(chat_refusal(bad.body), bad.said, bad.body);
}
TEST(BadValues, OfCompletions) {
  for (const Bad& bad : kCompletions)
    expect_said(completion_refusal(completion_body(bad.fields)), bad.said, bad.fields);
  for (const BadBody& bad : kPrompts) expect_said(completion_refusal(bad.body), bad.said, bad.body);
}

// Just inside what is refused above.
TEST(BadValues, TheirNeighboursAreGood) {
  for (const std::string& fields : {std::string(R"("n": 8)"),
                                    std::string(R"("n": 1.0)"),
                                    std::string(R"("max_tokens": 4096)"),
                                    std::string(R"("max_tokens": 1)"),
                                    std::string(R"("temperature": 0)"),
                                    std::string(R"("temperature": 2)"),
                                    std::string(R"("temperature": -0)"),
                                    std::string(R"("top_p": 0)"),
                                    std::string(R"("top_k": -1)"),
                                    std::string(R"("seed": -9223372036854775808)"),
                                    std::string(R"("seed": 9223372036854775807)"),
                                    R"("stop": )" + list_of(16, text_of(1024)),
                                    std::string(R"("stop": [])"),
                                    std::string(R"("stop": null)"),
                                    std::string(R"("stop_token_ids": [0, 999])"),
                                    R"("logit_bias": )" + biases(300),
                                    R"("cache_salt": )" + text_of(64),
                                    std::string(R"("lora": [{"name": "a", "scale": -100}, {"name": "b"}])"),
                                    std::string(R"("best_of": 3, "n": 3)"),
                                    std::string(R"("response_format": {"type": "text"})"),
                                    std::string(R"("min_tokens": 8, "max_tokens": 8)")}) {
    EXPECT_EQ(chat_refusal(chat_body(fields)), "");
    EXPECT_EQ(completion_refusal(completion_body(fields)), "");
  }
  EXPECT_EQ(chat_refusal(chat_body(R"("logprobs": true, "top_logprobs": 20)")), "");
  EXPECT_EQ(chat_refusal(chat_body(R"("top_logprobs": 0)")), "");
  EXPECT_EQ(chat_refusal(chat_body(R"("tools": )" + tools(128))), "");
  EXPECT_EQ(chat_refusal(
                chat_body(R"("tools": [)" + tool(std::string(64, 'a'), R"(, "parameters": {"properties": {}})") + "]")),
            "");
  EXPECT_EQ(chat_refusal(chat_body(R"("tools": [{"type": "function", "function": {"name": "f", "parameters":
      {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}}}])")),
            "");
  EXPECT_EQ(completion_refusal(R"({"prompt": [0, 999]})"), "");
  EXPECT_EQ(completion_refusal(R"({"prompt": )" + list_of(32, "\"a\"") + "}"), "");
  EXPECT_EQ(completion_refusal(completion_body(R"("logprobs": 0)")), "");
  EXPECT_EQ(chat_refusal(messages_body(list_of(8192, R"({"role": "user", "content": "a"})"))), "");
}

// What SDKs send for fields that the user left alone.
TEST(BadValues, NullIsNoField) {
  std::string fields;
  for (const char* name : {"n",
                           "max_tokens",
                           "temperature",
                           "top_p",
                           "stop",
                           "seed",
                           "logit_bias",
                           "stream_options",
                           "response_format",
                           "tools",
                           "tool_choice",
                           "functions",
                           "function_call",
                           "audio",
                           "modalities",
                           "reasoning_effort",
                           "moderation",
                           "web_search_options",
                           "parallel_tool_calls",
                           "lora",
                           "grammar",
                           "logprobs",
                           "top_logprobs"}) {
    fields += cat(fields.empty() ? "" : ", ", "\"", name, "\": null");
  }
  EXPECT_EQ(chat_refusal(chat_body(fields)), "");
  EXPECT_TRUE(chat(fields).ignored.empty());
}

}  // namespace
}  // namespace bumblebee::serve
