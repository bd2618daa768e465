// Completions and the small requests.
#include <gtest/gtest.h>

#include "tests/serve/openai/support.h"

namespace bumblebee::serve {
namespace {

CompletionRequest completion(const std::string& body) { return read_completion_request(body, rules()); }

TEST(CompletionRequest, PromptsHaveFourForms) {
  const CompletionRequest text = completion(R"({"prompt": "Hi", "n": 2, "seed": 4})");
  ASSERT_EQ(text.inputs.size(), 1u);
  EXPECT_EQ(text.inputs[0].text, "Hi");
  EXPECT_TRUE(text.inputs[0].tokens.empty());
  EXPECT_TRUE(text.inputs[0].parse_control_tokens);

  const CompletionRequest texts = completion(R"({"prompt": ["a", "b"], "n": 2, "seed": 4, "max_tokens": 3})");
  ASSERT_EQ(texts.inputs.size(), 2u);
  EXPECT_EQ(texts.inputs[1].text, "b");
  for (const text::Input& input : texts.inputs) {
    EXPECT_EQ(input.n, 2);
    EXPECT_EQ(input.seed, 4u);
    EXPECT_EQ(input.config->max_new_tokens, 3);
    EXPECT_TRUE(input.messages.empty());
  }
  EXPECT_EQ(completion(R"({"prompt": [1, 2, 3]})").inputs.at(0).tokens, (std::vector<int32_t>{1, 2, 3}));
  const CompletionRequest lists = completion(R"({"prompt": [[1], [2, 3]]})");
  ASSERT_EQ(lists.inputs.size(), 2u);
  EXPECT_EQ(lists.inputs[1].tokens, (std::vector<int32_t>{2, 3}));
  EXPECT_EQ(completion(R"({"prompt": ""})").inputs.at(0).text, "");  // the library says whether that is enough
}

TEST(CompletionRequest, LogprobsAreTheOldNumber) {
  EXPECT_FALSE(completion(R"({"prompt": "a"})").inputs.at(0).config->logprobs);
  EXPECT_FALSE(completion(R"({"prompt": "a", "logprobs": null})").shape.logprobs);
  const CompletionRequest zero = completion(R"({"prompt": "a", "logprobs": 0})");
  EXPECT_TRUE(zero.shape.logprobs && zero.inputs.at(0).config->logprobs);
  EXPECT_EQ(zero.inputs.at(0).config->top_logprobs, 0);
  EXPECT_EQ(completion(R"({"prompt": "a", "logprobs": 5})").inputs.at(0).config->top_logprobs, 5);
  EXPECT_TRUE(completion(R"({"prompt": "a", "echo": true})").shape.echo);
}

TEST(Tokenize, HasBothPeersNames) {
  const auto read = [](const std::string& body) { return read_tokenize_request(body, rules()); };
  const TokenizeRequest prompt = read(R"({"model": "m", "prompt": "Hi"})");
  EXPECT_EQ(prompt.text, "Hi");
  EXPECT_TRUE(prompt.encode.add_special_tokens && prompt.encode.parse_control_tokens);
  EXPECT_FALSE(prompt.token_strings);
  const TokenizeRequest content = read(R"({"content": "Hi", "parse_special": false, "return_token_strs": true})");
  EXPECT_EQ(content.text, "Hi");
  EXPECT_FALSE(content.encode.add_special_tokens || content.encode.parse_control_tokens);
  EXPECT_TRUE(content.token_strings);
  EXPECT_TRUE(read(R"({"content": "Hi", "add_special": true})").encode.add_special_tokens);
  EXPECT_FALSE(read(R"({"prompt": "Hi", "add_special_tokens": false})").encode.add_special_tokens);
  EXPECT_EQ(read(R"({"prompt": ""})").text, "");
  const TokenizeRequest chat =
      read(R"({"messages": [{"role": "user", "content": "a"}], "add_generation_prompt": false, "with": 1})");
  EXPECT_EQ(chat.messages.size(), 1u);
  EXPECT_FALSE(chat.chat.add_generation_prompt);
  EXPECT_EQ(chat.ignored, std::vector<std::string>{"with"});

  EXPECT_EQ(refusal([&] { read("{}"); }),
            "400 missing_required_parameter prompt: prompt: expected a string, or messages, got nothing");
  EXPECT_EQ(refusal([&] { read(R"({"prompt": "a", "content": "b"})"); }),
            "400 invalid_value content: content: expected one of prompt and content, got both");
  EXPECT_EQ(refusal([&] { read(R"({"prompt": "a", "messages": [{"role": "user", "content": "a"}]})"); }),
            "400 invalid_value messages: messages: expected a text or messages, got both");
  EXPECT_EQ(refusal([&] { read(R"({"prompt": ["a"]})"); }),
            "400 invalid_type prompt: prompt: expected a string, got an array of 1");
}

TEST(Detokenize, WantsIds) {
  const auto read = [](const std::string& body) { return read_detokenize_request(body, rules()); };
  EXPECT_EQ(read(R"({"tokens": [0, 999]})").tokens, (std::vector<int32_t>{0, 999}));
  EXPECT_TRUE(read(R"({"tokens": []})").tokens.empty());
  EXPECT_EQ(refusal([&] { read("{}"); }),
            "400 missing_required_parameter tokens: tokens: expected an array of token ids, got nothing");
  EXPECT_EQ(refusal([&] { read(R"({"tokens": [1000]})"); }),
            "400 invalid_value tokens[0]: tokens[0]: expected a whole number from 0 to 999, got 1000");
  EXPECT_EQ(refusal([&] { read(R"({"tokens": [-1]})"); }),
            "400 invalid_value tokens[0]: tokens[0]: expected a whole number from 0 to 999, got -1");
}

TEST(ApplyTemplate, ReadsWhatAChatReads) {
  const TemplateRequest request = read_template_request(
      R"({"messages": [{"role": "user", "content": "a"}], "tools": [{"type": "function", "function": {"name": "f"}}],
          "chat_template_kwargs": {"enable_thinking": false}})",
      rules());
  EXPECT_EQ(request.messages.size(), 1u);
  EXPECT_NE(request.chat.tools, "");
  EXPECT_EQ(request.chat.template_kwargs, R"({"enable_thinking":false})");
  EXPECT_EQ(refusal([&] { read_template_request("{}", rules()); }),
            "400 missing_required_parameter messages: messages: expected an array of messages, got nothing");
}

TEST(LoadAdapter, WantsANameAndAPath) {
  const auto read = [](const std::string& body) { return read_load_adapter_request(body, rules()); };
  const LoadAdapterRequest request =
      read(R"({"lora_name": "poet", "lora_path": "a/b", "load_inplace": true, "expected_generation": 3})");
  EXPECT_EQ(request.name, "poet");
  EXPECT_EQ(request.path, "a/b");
  EXPECT_TRUE(request.in_place);
  EXPECT_EQ(request.expected_generation, 3);
  EXPECT_FALSE(read(R"({"lora_name": "poet", "lora_path": "a"})").in_place);
  for (const char* name : {"", "a/b", "../a", "a:b", "a b", "\\u0000"}) {
    const std::string said = refusal([&] { read(cat(R"({"lora_path": "a", "lora_name": ")", name, "\"}")); });
    EXPECT_TRUE(said.starts_with("400 invalid_value lora_name: ")) << said;
  }
  EXPECT_EQ(refusal([&] { read(R"({"lora_path": "a"})"); }),
            "400 missing_required_parameter lora_name: lora_name: expected a name, got nothing");
  EXPECT_EQ(refusal([&] { read(R"({"lora_name": "a"})"); }),
            "400 missing_required_parameter lora_path: lora_path: expected a path, got nothing");

  const UnloadAdapterRequest unload =
      read_unload_adapter_request(R"({"lora_name": "poet", "expected_generation": 0})", rules());
  EXPECT_EQ(unload.name, "poet");
  EXPECT_EQ(unload.expected_generation, 0);
}

}  // namespace
}  // namespace bumblebee::serve
