// What a chat's fields become: settings of the library, and messages as templates want them.
#include <gtest/gtest.h>

#include "tests/serve/openai/support.h"

namespace bumblebee::serve {
namespace {

/// The message as the template sees it.
OrderedJson seen(const Message& message) {
  if (!message.json.empty()) return OrderedJson::parse(message.json);
  return {{"role", message.role}, {"content", message.content}};
}
std::vector<Message> messages(const std::string& list, const RequestRules& with = rules()) {
  return read_chat_request(messages_body(list), with).input.messages;
}
OrderedJson only(const std::string& message, const RequestRules& with = rules()) {
  return seen(messages("[" + message + "]", with).at(0));
}

TEST(ChatRequest, WithoutSettingsIsTheModels) {
  RequestRules with = rules();
  with.config.temperature = 0.7;
  with.config.max_length = 20;
  with.config.strategy = MultinomialSampling{20, 0.8, 0};
  const ChatRequest request = read_chat_request(chat_body(), with);
  EXPECT_EQ(request.model, "m");
  EXPECT_EQ(request.input.messages.at(0).role, "user");
  EXPECT_EQ(request.input.messages.at(0).content, "Hi");
  EXPECT_EQ(request.input.messages.at(0).json, "");
  const GenerationConfig& config = *request.input.config;
  EXPECT_EQ(config.temperature, 0.7);
  EXPECT_EQ(std::get<MultinomialSampling>(config.strategy).top_k, 20);
  EXPECT_EQ(config.eos_token_ids, std::vector<int32_t>{2});
  EXPECT_EQ(config.max_new_tokens, kNoLimit);  // the rest of the context
  EXPECT_FALSE(config.max_length.has_value());
  EXPECT_EQ(request.input.n, 1);
  EXPECT_FALSE(request.input.seed.has_value());
  EXPECT_TRUE(request.input.cache);
  EXPECT_TRUE(request.input.skip_special_tokens);
  EXPECT_FALSE(request.input.chat.trust_content);
  EXPECT_TRUE(request.input.chat.add_generation_prompt);
  EXPECT_EQ(request.input.chat.tools, "");
  EXPECT_EQ(request.input.chat.template_kwargs, "");
  EXPECT_FALSE(request.shape.stream || request.shape.logprobs || request.shape.include_usage);
  EXPECT_NO_THROW(validate(config));
}

TEST(ChatRequest, SettingsReachTheLibrary) {
  const ChatRequest request = chat(R"("temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "presence_penalty": 1,
      "frequency_penalty": -1, "repetition_penalty": 1.1, "seed": -2, "stop": ["a", "b"], "logit_bias": {"5": -100}, "n": 3,
      "min_tokens": 4, "max_tokens": 9, "ignore_eos": true, "stop_token_ids": [3, 4], "skip_special_tokens": false,
      "priority": -2, "cache_salt": "A_b-9", "cache_prompt": false, "adapter": "poet", "stream": true,
      "stream_options": {"include_usage": true, "continuous_usage_stats": true, "include_obfuscation": false},
      "logprobs": true, "top_logprobs": 4, "timings_per_token": true, "return_token_ids": true)");
  const GenerationConfig& config = *request.input.config;
  EXPECT_EQ(config.temperature, 0.5);
  const auto& sampling = std::get<MultinomialSampling>(config.strategy);
  EXPECT_EQ(sampling.top_k, 7);
  EXPECT_EQ(sampling.top_p, 0.9);
  EXPECT_EQ(sampling.min_p, 0.1);
  EXPECT_EQ(config.presence_penalty, 1);
  EXPECT_EQ(config.frequency_penalty, -1);
  EXPECT_EQ(config.repetition_penalty, 1.1);
  EXPECT_EQ(config.stop_strings, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(config.logit_bias, (std::map<int32_t, double>{{5, -100}}));
  EXPECT_EQ(config.min_new_tokens, 4);
  EXPECT_EQ(config.max_new_tokens, 9);
  EXPECT_TRUE(config.logprobs);
  EXPECT_EQ(config.top_logprobs, 4);
  EXPECT_EQ(request.input.seed, uint64_t(-2));
  EXPECT_EQ(request.input.n, 3);
  EXPECT_TRUE(request.input.ignore_eos);
  EXPECT_EQ(request.input.stop_token_ids, (std::vector<int32_t>{3, 4}));
  EXPECT_FALSE(request.input.skip_special_tokens);
  EXPECT_EQ(request.input.priority, -2);
  EXPECT_EQ(request.input.cache_salt, "A_b-9");
  EXPECT_FALSE(request.input.cache);
  EXPECT_EQ(request.adapter, "poet");
  EXPECT_TRUE(request.shape.stream && request.shape.include_usage && request.shape.continuous_usage);
  EXPECT_TRUE(request.shape.logprobs && request.shape.timings && request.shape.token_ids);
  EXPECT_TRUE(request.ignored.empty());
  EXPECT_NO_THROW(validate(config));
}

TEST(ChatRequest, OfTwoLimitsTheSmallerCounts) {
  EXPECT_EQ(chat(R"("max_tokens": 9, "max_completion_tokens": 7)").input.config->max_new_tokens, 7);
  EXPECT_EQ(chat(R"("max_tokens": 5, "max_completion_tokens": 7)").input.config->max_new_tokens, 5);
  EXPECT_EQ(chat(R"("max_completion_tokens": 7)").input.config->max_new_tokens, 7);
}

TEST(ChatRequest, ZeroIsGreedyAndContrastiveSearchIsNotReachable) {
  EXPECT_TRUE(std::holds_alternative<GreedySearch>(chat(R"("top_p": 0)").input.config->strategy));
  EXPECT_TRUE(std::holds_alternative<GreedySearch>(chat(R"("temperature": 0)").input.config->strategy));
  RequestRules with = rules();
  with.config.strategy = ContrastiveSearch{};
  const auto strategy = [&](const std::string& fields) {
    return read_chat_request(chat_body(fields), with).input.config->strategy;
  };
  EXPECT_TRUE(std::holds_alternative<GreedySearch>(strategy("")));
  EXPECT_FALSE(std::holds_alternative<ContrastiveSearch>(strategy(R"("top_k": 4)")));
}

TEST(ChatRequest, ComposesAdapters) {
  const ChatRequest request = chat(R"("lora": [{"name": "a", "scale": 0.5}, {"name": "b.c-d_e"}])");
  ASSERT_EQ(request.lora.size(), 2u);
  EXPECT_EQ(request.lora[0].name, "a");
  EXPECT_EQ(request.lora[0].scale, 0.5f);
  EXPECT_EQ(request.lora[1].name, "b.c-d_e");
  EXPECT_EQ(request.lora[1].scale, 1.0f);
}

// What a client is set to for larger models is cut, as what does not fit beside the prompt is.
TEST(ChatRequest, ALengthBeyondTheContextIsTheRestOfIt) {
  EXPECT_EQ(chat(R"("max_tokens": 4097)").input.config->max_new_tokens, rules().context);
  EXPECT_EQ(chat(R"("max_tokens": 9223372036854775807)").input.config->max_new_tokens, rules().context);
  EXPECT_EQ(chat(R"("max_tokens": -1)").input.config->max_new_tokens, kNoLimit);
  EXPECT_EQ(chat(R"("max_tokens": -1, "max_completion_tokens": 7)").input.config->max_new_tokens, 7);
}

TEST(ChatRequest, ASeedOfMinusOneIsNone) {
  EXPECT_EQ(chat(R"("temperature": 1, "seed": -1)").input.seed, std::nullopt);
}

TEST(ChatRequest, FiltersThatAreOffLeaveAGreedyModelGreedy) {
  const auto greedy = [](const char* fields) {
    return std::holds_alternative<GreedySearch>(chat(fields).input.config->strategy);
  };
  EXPECT_TRUE(greedy(R"("top_p": 1)"));
  EXPECT_TRUE(greedy(R"("top_k": -1, "top_p": 1.0, "min_p": 0)"));
  EXPECT_FALSE(greedy(R"("top_p": 0.9)"));
  EXPECT_FALSE(greedy(R"("temperature": 1, "top_p": 1)"));
}

TEST(ChatRequest, UnknownFieldsAreNamedOrRefused) {
  const std::string fields = R"("frobnicate": 1, "x\r\ny: z, \"": 2, "min_p_": null, "frobnicat\u00e9": {})";
  EXPECT_EQ(chat(fields).ignored, (std::vector<std::string>{"frobnicate", "x??y:?z??\?", "min_p_", "frobnicat??"}));
  RequestRules strict = rules();
  strict.strict = true;
  EXPECT_EQ(chat_refusal(chat_body(R"("frobnicate": 1)"), strict),
            "400 unknown_parameter frobnicate: frobnicate: not known here");
  EXPECT_EQ(chat_refusal(chat_body(R"("user": "u", "store": true, "metadata": {"a": "b"})"), strict), "");

  std::string many;
  for (int i = 0; i < 100; ++i)
    many += cat(i > 0 ? ", " : "", "\"", std::string(100, 'u'), i, "\": 1, \"v", i, "\": 1");
  const std::vector<std::string> ignored = chat(many).ignored;
  EXPECT_EQ(ignored.size(), 20u);
  for (const std::string& name : ignored) EXPECT_LE(name.size(), 64u);
}

TEST(ChatRequest, SettingsThatAreOffArePassedOver) {
  const std::string off =
      R"("repeat_penalty": 1.0, "n_predict": -1, "bad_words": [], "allowed_token_ids": null, "typical_p": 1,
         "include_stop_str_in_output": false, "xtc_probability": 0.0, "xtc_threshold": 0.1, "dry_multiplier": 0,
         "dry_base": 1.75, "mirostat": 0, "mirostat_tau": 5, "dynatemp_range": 0, "top_n_sigma": 0,
         "add_special_tokens": false, "echo": false, "enable_thinking": null, "functions": [], "function_call": "auto",
         "documents": [], "structured_outputs": {}, "penalty_alpha": 0, "tfs_z": 1.0, "top_a": 0,
         "no_repeat_ngram_size": 0, "num_beams": 1, "guidance_scale": 1, "adapters": null, "lora_path": [],
         "regex": null, "no_stop_trim": false)";
  EXPECT_EQ(chat_refusal(chat_body(off)), "");
  EXPECT_TRUE(chat(off).ignored.empty());
}

TEST(Messages, NullBesideCallsIsEmptyWhereTheTemplateCannotTakeIt) {
  const std::string body = messages_body(
      R"([{"role": "user", "content": "?"}, {"role": "assistant", "content": null, "tool_calls": [{"id": "c", "type": "function",
          "function": {"name": "f", "arguments": "{}"}}]}])");
  RequestRules with = rules();
  const auto content = [&] {
    return nlohmann::json::parse(read_chat_request(body, with).input.messages.at(1).json).at("content");
  };
  EXPECT_TRUE(content().is_null());
  with.null_content = false;
  EXPECT_EQ(content(), "");
}

TEST(Messages, ContentBesideCallsAndAThoughtGoesWhereTheTemplateRefusesBoth) {
  const auto content = [](const char* members, bool both) {
    RequestRules with = rules();
    with.thought_beside_content = both;
    const std::string body =
        messages_body(std::string(R"([{"role": "user", "content": "?"}, {"role": "assistant", "content": "I look.")") +
                      members + "}]");
    return nlohmann::json::parse(read_chat_request(body, with).input.messages.at(1).json).at("content");
  };
  const char* const calls = R"(, "tool_calls": [{"id": "c", "type": "function",
                                                 "function": {"name": "f", "arguments": "{}"}}])";
  const std::string both = std::string(calls) + R"(, "reasoning_content": "Hm")";
  EXPECT_EQ(content(both.c_str(), false), "");
  EXPECT_EQ(content(both.c_str(), true), "I look.");
  EXPECT_EQ(content(calls, false), "I look.");
  EXPECT_EQ(content(R"(, "reasoning_content": "Hm")", false), "I look.");
  EXPECT_EQ(content((std::string(calls) + R"(, "reasoning_content": "")").c_str(), false), "I look.");
}

TEST(Messages, DeveloperIsSystemWhereTheTemplateHasNone) {
  const std::string message = R"({"role": "developer", "content": "Be brief."})";
  EXPECT_EQ(only(message)["role"], "system");
  RequestRules with = rules();
  with.developer_role = true;
  EXPECT_EQ(only(message, with)["role"], "developer");
  EXPECT_TRUE(has_developer_role("{% if m.role == 'developer' %}"));
  EXPECT_TRUE(has_developer_role("{% if m.role == \"developer\" %}"));
  EXPECT_FALSE(has_developer_role("You are a developer."));
}

TEST(Messages, TextPartsAreOneText) {
  EXPECT_EQ(
      only(
          R"({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": ""}, {"type": "text", "text": "b"}]})")
          ["content"],
      "a\n\nb");
  EXPECT_EQ(only(R"({"role": "user", "content": []})")["content"], "");
  EXPECT_EQ(only(R"({"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]})")["content"], "No.");
}

TEST(Messages, ArgumentsAreParsed) {
  const std::string call = R"({"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function",
      "function": {"name": "f", "arguments": "{\"z\": 1, \"a\": [\"é\"]}"}}]})";
  EXPECT_EQ(
      only(call).dump(),
      R"({"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":{"z":1,"a":["é"]}}}]})");
  const auto arguments = [](const std::string& text) {
    return only(R"({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": )" + text +
                "}}]}")["tool_calls"][0]["function"]["arguments"];
  };
  EXPECT_EQ(arguments(R"({"a": 1})").dump(), R"({"a":1})");
  EXPECT_EQ(arguments(R"("")").dump(), "{}");
  EXPECT_EQ(arguments(R"("{}")").dump(), "{}");
  // What a model wrote wrongly stays as it wrote it.
  EXPECT_EQ(arguments(R"("{\"a\": ")"), "{\"a\": ");
  EXPECT_EQ(arguments(R"("[1]")"), "[1]");
  EXPECT_EQ(arguments(R"("{\"a\": 1, \"a\": 2}")"), "{\"a\": 1, \"a\": 2}");
  // A number that would come out as another does so too.
  EXPECT_EQ(arguments(R"("{\"id\": 123456789012345678901234567890}")"), "{\"id\": 123456789012345678901234567890}");
  EXPECT_EQ(arguments(R"("{\"id\": -9223372036854775809}")"), "{\"id\": -9223372036854775809}");
  EXPECT_EQ(arguments(R"("{\"id\": 18446744073709551615, \"x\": 0.5, \"y\": 1e30}")").dump(),
            R"({"id":18446744073709551615,"x":0.5,"y":1e+30})");
}

TEST(Messages, EmptyContentIsNullOnlyBesideCalls) {
  EXPECT_EQ(only(R"({"role": "assistant", "content": null})")["content"], "");
  EXPECT_EQ(only(R"({"role": "assistant", "content": null, "tool_calls": []})").dump(),
            R"({"role":"assistant","content":""})");
  EXPECT_TRUE(
      only(R"({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]})")["content"]
          .is_null());
  EXPECT_EQ(
      only(R"({"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]})")
          ["content"],
      "");
}

TEST(Messages, ThoughtsComeUnderBothNames) {
  for (const char* key : {"reasoning", "reasoning_content"}) {
    const OrderedJson message = only(cat(R"({"role": "assistant", "content": "4", ")", key, R"(": "2 + 2"})"));
    EXPECT_EQ(message["reasoning_content"], "2 + 2");
    EXPECT_EQ(message["reasoning"], "2 + 2");
  }
}

TEST(Messages, NamesAndIdsAreKept) {
  EXPECT_EQ(only(R"({"role": "tool", "tool_call_id": "c1", "name": "f", "content": "1"})").dump(),
            R"({"role":"tool","content":"1","name":"f","tool_call_id":"c1"})");
}

TEST(Messages, WhatClientsEchoSaysNothing) {
  const ChatRequest request = read_chat_request(messages_body(R"([{"role": "user", "content": "a"},
      {"role": "assistant", "content": "b", "refusal": null, "annotations": [], "audio": null, "function_call": null,
       "provider_data": {"a": 1}}, {"role": "user", "content": "c", "provider_data": 1, "cache_control": {}}])"),
                                                rules());
  EXPECT_EQ(request.input.messages.at(1).json, "");
  EXPECT_EQ(request.ignored, (std::vector<std::string>{"messages[].provider_data", "messages[].cache_control"}));
}

TEST(Tools, GoToTheTemplateInTheirOrder) {
  const ChatRequest request =
      chat(R"("tools": [{"type": "function", "function": {"strict": false, "name": "get_weather",
      "description": "d", "parameters": {"type": "object", "properties": {"z": {}, "a": {}}}}},
      {"type": "web_search"}, {"type": "namespace", "name": "x"}, {"type": "function", "function": {"name": "b.c-d"}}],
      "parallel_tool_calls": false)");
  EXPECT_EQ(
      request.input.chat.tools,
      R"([{"type":"function","function":{"name":"get_weather","description":"d","parameters":{"type":"object","properties":{"z":{},"a":{}}}}},{"type":"function","function":{"name":"b.c-d"}}])");
  EXPECT_EQ(request.tool_names, (std::vector<std::string>{"get_weather", "b.c-d"}));
  EXPECT_EQ(request.ignored, (std::vector<std::string>{"tools[1]", "tools[2]"}));
  EXPECT_FALSE(request.parallel_tool_calls);
}

/// Some models write arguments without quotes: what is a text is in the schema.
TEST(Tools, SchemasSayWhichParametersAreTexts) {
  const ChatRequest request = chat(R"("tools": [{"type": "function", "function": {"name": "f", "parameters": {
      "type": "object", "properties": {"a": {"type": "string"}, "b": {"type": ["string", "null"]}, "c": {"type": "integer"},
      "d": {"anyOf": [{"type": "null"}, {"type": "string"}]}, "e": {"oneOf": 1}, "f": 5, "g": {"anyOf": [1]}}}}},
      {"type": "function", "function": {"name": "g", "parameters": {"properties": []}}}])");
  const std::map<std::string, bool, std::less<>> texts = {{"a", false}, {"b", true}, {"d", true}};
  ASSERT_EQ(request.text_parameters.size(), 1u);
  EXPECT_EQ(request.text_parameters.at("f"), texts);
}

TEST(Tools, ChoiceNoneLeavesThemOut) {
  const std::string tools = R"("tools": [{"type": "function", "function": {"name": "f"}}])";
  const ChatRequest none = chat(tools + R"(, "tool_choice": "none")");
  EXPECT_EQ(none.input.chat.tools, "");
  EXPECT_TRUE(none.tool_names.empty());
  EXPECT_NE(chat(tools + R"(, "tool_choice": "auto")").input.chat.tools, "");
  EXPECT_EQ(chat(R"("tools": [])").input.chat.tools, "");
}

TEST(Tools, AreRefusedWhereTheTemplateShowsNone) {
  RequestRules with = rules();
  with.shows_tools = false;
  const std::string tools = R"("tools": [{"type": "function", "function": {"name": "f"}}])";
  EXPECT_EQ(chat_refusal(chat_body(tools), with),
            "400 unsupported_parameter tools: tools: the model's chat template has no place for them, so it would not "
            "see them");
  EXPECT_EQ(chat_refusal(chat_body(tools + R"(, "tool_choice": "none")"), with), "");
  EXPECT_EQ(chat_refusal(chat_body(R"("tools": [])"), with), "");
}

TEST(Penalties, RefuseWindows) {
  const std::string window = R"("repetition_context_size": 20, "presence_context_size": 20)";
  EXPECT_EQ(chat_refusal(chat_body(window)), "") << "nothing counts by it";
  EXPECT_TRUE(chat(window).ignored.empty());
  EXPECT_EQ(chat_refusal(chat_body(window + R"(, "frequency_penalty": 0.5)")), "") << "nor by these";
  EXPECT_EQ(chat_refusal(chat_body(window + R"(, "repetition_penalty": 1.1)")),
            "400 unsupported_parameter repetition_context_size: repetition_context_size: penalties count the whole "
            "sequence here; leave it out, or the penalty");
  EXPECT_TRUE(chat_refusal(chat_body(window + R"(, "presence_penalty": 1)"))
                  .starts_with("400 unsupported_parameter presence_context_size: "));
  for (const std::string field : {"repeat_last_n", "penalty_last_n"}) {
    for (const char* penalty : {"\"repetition_penalty\": 1.1", "\"presence_penalty\": 1", "\"frequency_penalty\": 1"}) {
      const auto said = [&](int tokens) {
        return chat_refusal(chat_body(cat("\"", field, "\": ", tokens, ", ", penalty)));
      };
      EXPECT_TRUE(said(64).starts_with("400 unsupported_parameter " + field)) << said(64);
      EXPECT_TRUE(said(0).starts_with("400 unsupported_parameter " + field)) << "llama.cpp's word for none";
      EXPECT_EQ(said(-1), "");
      EXPECT_EQ(said(4096), "");
    }
  }
  RequestRules with = rules();
  with.config.repetition_penalty = 1.05;  // the model's own
  EXPECT_TRUE(chat_refusal(chat_body(window), with).starts_with("400 unsupported_parameter repetition_context_size"));
}

TEST(Template, VariablesAreWhatItReads) {
  const char* const reads =
      "{# about #}{% if date_string is defined %}{{ date_string }}{% endif %}said {{ 'quoted \\' unread' ~ a.member }}";
  for (const char* name : {"date_string", "a"}) EXPECT_TRUE(reads_variable(reads, name)) << name;
  for (const char* name : {"about", "said", "quoted", "unread", "member", "date", ""})
    EXPECT_FALSE(reads_variable(reads, name)) << name;
  for (const char* cut : {"{{", "{{ 'a", "{# a", "{{ a", "{"}) EXPECT_FALSE(reads_variable(cut, "b")) << cut;
  RequestRules with = rules();
  with.chat_template = reads;
  EXPECT_EQ(read_chat_request(chat_body(R"("chat_template_kwargs": {"date_string": ["x", 1], "a": null})"), with)
                .input.chat.template_kwargs,
            R"({"date_string":["x",1]})");
}

TEST(Template, VariablesThatEveryTemplateTakes) {
  const auto kwargs = [](const std::string& fields) { return chat(fields).input.chat.template_kwargs; };
  EXPECT_EQ(kwargs(R"("chat_template_kwargs": {"enable_thinking": false, "preserve_thinking": true})"),
            R"({"enable_thinking":false,"preserve_thinking":true})");
  EXPECT_EQ(kwargs(R"("reasoning_effort": "none")"), R"({"enable_thinking":false,"thinking":false})");
  EXPECT_EQ(kwargs(R"("reasoning_effort": "low")"), R"({"reasoning_effort":"low"})");
  EXPECT_EQ(kwargs(R"("reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": true})"),
            R"({"enable_thinking":true,"thinking":false})");
  EXPECT_EQ(kwargs(R"("chat_template_kwargs": {})"), "");
  EXPECT_FALSE(chat(R"("add_generation_prompt": false)").input.chat.add_generation_prompt);
}

}  // namespace
}  // namespace bumblebee::serve
