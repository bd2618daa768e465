// Answers, byte by byte: clients differ in what they forgive.
#include "serve/openai/answers.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include <limits>

#include "serve/openai/json_out.h"

namespace bumblebee::serve {
namespace {

using Kind = AnswerEvent::Kind;

const AnswerHead kHead{.id = "chatcmpl-1", .model = "m", .fingerprint = "fp", .created = 7};
const char kChunk[] =
    R"(data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":7,"model":"m","system_fingerprint":"fp")";

std::string bytes_of(int32_t token) {
  switch (token) {
    case 1: return "Hi";
    case 2: return "\xE2\x82";  // of a euro sign
    case 3: return "\xAC";
    case 4: return "Hi";  // another token of the same text
    default: return "\"";
  }
}

AnswerEvent event(Kind kind, std::string text, int tool = 0) {
  AnswerEvent made;
  made.kind = kind;
  made.tool = tool;
  made.text = std::move(text);
  return made;
}
AnswerEvent call(int tool, std::string id, std::string name) {
  AnswerEvent made;
  made.kind = Kind::tool_call;
  made.tool = tool;
  made.id = std::move(id);
  made.name = std::move(name);
  return made;
}

text::TokenLogprob logprob(int32_t token, double value, std::vector<std::pair<int32_t, double>> top = {}) {
  text::TokenLogprob made;
  made.token = token;
  made.logprob = value;
  made.top = std::move(top);
  return made;
}

std::string chunk(const std::string& rest) { return kChunk + rest + "\n\n"; }

/// The JSON of a stream's events.
std::vector<nlohmann::json> events_of(const std::string& stream) {
  std::vector<nlohmann::json> events;
  for (size_t at = 0; at < stream.size();) {
    const size_t end = stream.find("\n\n", at);
    EXPECT_NE(end, stream.npos);
    EXPECT_EQ(stream.substr(at, 6), "data: ");
    events.push_back(nlohmann::json::parse(stream.substr(at + 6, end - at - 6)));
    at = end + 2;
  }
  return events;
}

TEST(ChatStream, RoleThenTextThenTheEnd) {
  const ChatStream stream(kHead, {.stream = true}, bytes_of);
  std::string out;
  stream.begin(0, {}, {}, out);
  EXPECT_EQ(
      out,
      chunk(
          R"(,"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]})"));
  out.clear();
  const AnswerEvent text[] = {event(Kind::content, "a\n\"é\"")};
  stream.delta(1, text, {}, out);
  EXPECT_EQ(out,
            chunk(R"(,"choices":[{"index":1,"delta":{"content":"a\n\"é\""},"logprobs":null,"finish_reason":null}]})"));
  out.clear();
  stream.delta(0, {}, {}, out);
  EXPECT_EQ(out, "");
  stream.finish(0, "stop", {}, out);
  EXPECT_EQ(out, chunk(R"(,"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]})"));
  out.clear();
  stream.usage({}, out);  // nobody asked
  ChatStream::done(out);
  EXPECT_EQ(out, "data: [DONE]\n\n");
}

TEST(ChatStream, ThoughtsAndCalls) {
  const ChatStream stream(kHead, {.stream = true}, bytes_of);
  std::string out;
  const AnswerEvent events[] = {event(Kind::reasoning, "hm"), call(0, "call_1", "f"), event(Kind::arguments, "{\"a\":"),
                                event(Kind::withdrawn, "")};
  stream.delta(0, events, {}, out);
  const std::string end = R"(},"logprobs":null,"finish_reason":null}]})";
  const std::string start = R"(,"choices":[{"index":0,"delta":{)";
  EXPECT_EQ(
      out,
      chunk(start + R"("reasoning_content":"hm")" + end) +
          chunk(start +
                R"("tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"f","arguments":""}}])" +
                end) +
          chunk(start + R"("tool_calls":[{"index":0,"function":{"arguments":"{\"a\":"}}])" + end));
  AnswerHead head = kHead;
  head.reasoning_field = "reasoning";
  out.clear();
  ChatStream(head, {.stream = true}, bytes_of).delta(0, std::span(events, 1), {}, out);
  EXPECT_EQ(out, chunk(start + R"("reasoning":"hm")" + end));
}

TEST(ChatStream, UsageIsNullUntilTheEnd) {
  const ChatStream stream(kHead, {.stream = true, .include_usage = true}, bytes_of);
  std::string out;
  const AnswerEvent text[] = {event(Kind::content, "a")};
  stream.delta(0, text, {.usage = {5, 1, 0, 0}}, out);
  EXPECT_EQ(
      out,
      chunk(R"(,"choices":[{"index":0,"delta":{"content":"a"},"logprobs":null,"finish_reason":null}],"usage":null})"));
  out.clear();
  stream.usage({.prompt = 5, .completion = 3, .cached = 4, .reasoning = 2}, out);
  EXPECT_EQ(
      out,
      chunk(
          R"(,"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":2}}})"));
}

TEST(ChatStream, UsageInEveryChunkWhereAsked) {
  const ChatStream stream(kHead, {.stream = true, .include_usage = true, .continuous_usage = true, .timings = true},
                          bytes_of);
  std::string out;
  const AnswerEvent text[] = {event(Kind::content, "a")};
  stream.delta(0, text, {.usage = {5, 2, 1, 0}, .timings = {1.5, 8, 20}}, out);
  const nlohmann::json json = events_of(out).at(0);
  EXPECT_EQ(json["usage"]["total_tokens"], 7);
  EXPECT_EQ(
      json["timings"].dump(),
      R"({"cache_n":1,"predicted_ms":20,"predicted_n":2,"predicted_per_second":100,"prompt_ms":8,"prompt_n":4,"prompt_per_second":500,"queue_ms":1.5})");
}

TEST(ChatStream, LogprobsAndIdsGoWithTheFirstEventOrAlone) {
  const ChatStream stream(kHead, {.stream = true, .logprobs = true, .token_ids = true}, bytes_of);
  const text::TokenLogprob probs[] = {logprob(2, -0.5, {{1, -0.25}})};
  const int32_t tokens[] = {2};
  const AnswerEvent events[] = {event(Kind::reasoning, "a"), event(Kind::content, "b")};
  std::string out;
  stream.delta(0, events, {.logprobs = probs, .tokens = tokens}, out);
  stream.delta(0, {}, {.logprobs = probs, .tokens = tokens}, out);
  stream.delta(0, {}, {}, out);
  const std::string said =
      R"("logprobs":{"content":[{"token":"\uFFFD\uFFFD","logprob":-0.5,"bytes":[226,130],"top_logprobs":[{"token":"Hi","logprob":-0.25,"bytes":[72,105]}]}],"refusal":null},"token_ids":[2],"finish_reason":null}]})";
  std::string expected = said;
  for (size_t at; (at = expected.find("\\uFFFD")) != expected.npos;) expected.replace(at, 6, "\uFFFD");
  EXPECT_EQ(out,
            chunk(R"(,"choices":[{"index":0,"delta":{"reasoning_content":"a"},)" + expected) +
                chunk(R"(,"choices":[{"index":0,"delta":{"content":"b"},"logprobs":null,"finish_reason":null}]})") +
                chunk(R"(,"choices":[{"index":0,"delta":{},)" + expected));
  out.clear();
  const int32_t prompt[] = {8, 9};
  stream.begin(2, prompt, {}, out);
  EXPECT_EQ(
      out,
      chunk(
          R"(,"prompt_token_ids":[8,9],"choices":[{"index":2,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]})"));
}

TEST(ChatAnswer, Whole) {
  ChatChoice text;
  const AnswerEvent said[] = {event(Kind::reasoning, "h"), event(Kind::reasoning, "m"), event(Kind::content, "a"),
                              event(Kind::content, "b")};
  text.add(said);
  text.finish_reason = finish_name(text::FinishReason::length, 0);
  ChatChoice calls;
  const AnswerEvent called[] = {call(0, "call_1", "f"),         event(Kind::arguments, "{\"a\""),
                                event(Kind::arguments, ": 1}"), call(1, "call_2", "g"),
                                event(Kind::arguments, "{"),    event(Kind::withdrawn, ""),
                                call(2, "call_3", "h"),         event(Kind::arguments, "{}")};
  calls.add(called);
  calls.finish_reason = finish_name(text::FinishReason::cancelled, 2);
  const ChatChoice choices[] = {text, calls};
  EXPECT_EQ(
      chat_answer(kHead, {}, choices, {}, {.prompt = 5, .completion = 4, .cached = 1, .reasoning = 2}, {}, bytes_of),
      R"({"id":"chatcmpl-1","object":"chat.completion","created":7,"model":"m","system_fingerprint":"fp","choices":[)"
      R"({"index":0,"message":{"role":"assistant","content":"ab","refusal":null,"reasoning_content":"hm"},"logprobs":null,"finish_reason":"length"},)"
      R"({"index":1,"message":{"role":"assistant","content":null,"refusal":null,"tool_calls":[)"
      R"({"id":"call_1","type":"function","function":{"name":"f","arguments":"{\"a\": 1}"}},)"
      R"({"id":"call_3","type":"function","function":{"name":"h","arguments":"{}"}}]},"logprobs":null,"finish_reason":"tool_calls"}],)"
      R"("usage":{"prompt_tokens":5,"completion_tokens":4,"total_tokens":9,"prompt_tokens_details":{"cached_tokens":1},"completion_tokens_details":{"reasoning_tokens":2}}})");
}

TEST(ChatAnswer, WithEverything) {
  ChatChoice choice;
  choice.finish_reason = "stop";
  choice.logprobs = {logprob(1, -0.125), logprob(3, -std::numeric_limits<double>::infinity())};
  choice.tokens = {1, 3};
  const int32_t prompt[] = {9};
  const std::string out = chat_answer(kHead, {.logprobs = true, .token_ids = true, .timings = true},
                                      std::span(&choice, 1), prompt, {1, 2, 0, 0}, {0, 0, 0}, bytes_of);
  const nlohmann::json json = nlohmann::json::parse(out);
  EXPECT_EQ(json["prompt_token_ids"].dump(), "[9]");
  EXPECT_EQ(json["choices"][0]["token_ids"].dump(), "[1,3]");
  EXPECT_EQ(json["choices"][0]["message"]["content"], "");
  const nlohmann::json& content = json["choices"][0]["logprobs"]["content"];
  EXPECT_EQ(content[0]["token"], "Hi");
  EXPECT_EQ(content[0]["logprob"], -0.125);
  EXPECT_EQ(content[1]["bytes"].dump(), "[172]");
  EXPECT_EQ(content[1]["logprob"], -9999.0);
  EXPECT_EQ(json["timings"]["predicted_per_second"], 0);
}

TEST(Finish, FollowsFromCallsFirst) {
  EXPECT_EQ(finish_name(text::FinishReason::stop, 0), "stop");
  EXPECT_EQ(finish_name(text::FinishReason::length, 0), "length");
  EXPECT_EQ(finish_name(text::FinishReason::cancelled, 0), "stop");
  EXPECT_EQ(finish_name(text::FinishReason::stop, 1), "tool_calls");
}

TEST(Completion, StreamHasEchoOffsetsAndIds) {
  AnswerHead head = kHead;
  head.id = "cmpl-1";
  const std::string start =
      R"(data: {"id":"cmpl-1","object":"text_completion","created":7,"model":"m","system_fingerprint":"fp","choices":[{"index":1,"text":)";
  std::string out;
  CompletionStream echo(head, {.stream = true, .echo = true}, 2, bytes_of);
  echo.begin(1, "é €", {}, {}, out);
  EXPECT_EQ(out, start + R"("é €","logprobs":null,"finish_reason":null}]})" + "\n\n");

  CompletionStream stream(head, {.stream = true, .include_usage = true, .logprobs = true}, 2, bytes_of);
  out.clear();
  stream.begin(1, "unused", {}, {}, out);
  EXPECT_EQ(out, "");
  const text::TokenLogprob first[] = {logprob(1, -0.5, {{1, -0.5}, {4, -1.5}, {5, -2}}), logprob(2, -1)};
  stream.delta(1, "Hi", {.logprobs = first}, out);
  EXPECT_EQ(out, start +
                     "\"Hi\",\"logprobs\":{\"tokens\":[\"Hi\",\"\uFFFD\uFFFD\"],\"token_logprobs\":[-0.5,-1],"
                     "\"top_logprobs\":[{\"Hi\":-0.5,\"\\\"\":-2},{}],\"text_offset\":[0,2]},\"finish_reason\":null}],"
                     "\"usage\":null}\n\n");
  out.clear();
  const text::TokenLogprob second[] = {logprob(3, -1), logprob(1, -1)};
  stream.delta(1, "", {.logprobs = second}, out);
  EXPECT_EQ(events_of(out).at(0)["choices"][0]["logprobs"]["text_offset"].dump(), "[3,3]");  // characters, not bytes
  out.clear();
  stream.delta(1, "", {}, out);
  EXPECT_EQ(out, "");
  stream.finish(1, "length", {}, out);
  EXPECT_EQ(out, start + R"("","logprobs":null,"finish_reason":"length"}],"usage":null})" + "\n\n");
  out.clear();
  stream.usage({1, 2, 0, 0}, out);
  EXPECT_EQ(events_of(out).at(0)["usage"]["total_tokens"], 3);
  EXPECT_TRUE(events_of(out).at(0)["choices"].empty());

  out.clear();
  CompletionStream ids(head, {.stream = true, .token_ids = true}, 2, bytes_of);
  const int32_t prompt[] = {4, 5};
  ids.begin(1, "unused", prompt, {}, out);
  EXPECT_EQ(out, start + R"("","prompt_token_ids":[4,5],"logprobs":null,"finish_reason":null}]})" + "\n\n");
}

TEST(Completion, Whole) {
  CompletionChoice choice;
  choice.prompt_text = "é ";
  choice.text = "Hi";
  choice.finish_reason = "stop";
  choice.logprobs = {logprob(1, -0.5)};
  choice.prompt = {9};
  choice.tokens = {1};
  const auto write = [&](const AnswerShape& shape) {
    return nlohmann::json::parse(completion_answer(kHead, shape, std::span(&choice, 1), {1, 1, 0, 0}, {}, bytes_of));
  };
  EXPECT_EQ(
      completion_answer(kHead, {}, std::span(&choice, 1), {1, 1, 0, 0}, {}, bytes_of),
      R"({"id":"chatcmpl-1","object":"text_completion","created":7,"model":"m","system_fingerprint":"fp","choices":[)"
      R"({"index":0,"text":"Hi","logprobs":null,"finish_reason":"stop"}],)"
      R"("usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}})");
  const nlohmann::json all = write({.logprobs = true, .token_ids = true, .echo = true})["choices"][0];
  EXPECT_EQ(all["text"], "é Hi");
  EXPECT_EQ(all["logprobs"]["text_offset"].dump(), "[2]");
  EXPECT_EQ(all["prompt_token_ids"].dump(), "[9]");
  EXPECT_EQ(all["token_ids"].dump(), "[1]");
}

TEST(Models, NameTheirParent) {
  const ModelEntry base{"m", "m", std::nullopt, 7, 4096}, adapter{"poet", "poets/a", "m", 8, 4096};
  EXPECT_EQ(
      model_answer(base),
      R"({"id":"m","object":"model","created":7,"owned_by":"bumblebee","root":"m","parent":null,"max_model_len":4096})");
  const ModelEntry both[] = {base, adapter};
  EXPECT_EQ(
      models_answer(both),
      R"({"object":"list","data":[)" + model_answer(base) +
          R"(,{"id":"poet","object":"model","created":8,"owned_by":"bumblebee","root":"poets/a","parent":"m","max_model_len":4096}]})");
  EXPECT_EQ(models_answer({}), R"({"object":"list","data":[]})");
}

TEST(SmallAnswers, HaveBothPeersNames) {
  const int32_t tokens[] = {1, 2};
  const std::string strings[] = {"a", "\xFF"};
  EXPECT_EQ(tokenize_answer(tokens, 9, {}), R"({"count":2,"max_model_len":9,"tokens":[1,2]})");
  EXPECT_EQ(tokenize_answer(tokens, 9, strings),
            "{\"count\":2,\"max_model_len\":9,\"tokens\":[1,2],\"token_strs\":[\"a\",\"\uFFFD\"]}");
  EXPECT_EQ(detokenize_answer("a\t"), R"({"prompt":"a\t","content":"a\t"})");
  EXPECT_EQ(template_answer("<a>"), R"({"prompt":"<a>"})");
}

TEST(JsonOut, StringsReadBack) {
  std::string all;
  for (int c = 1; c < 128; ++c) all += char(c);
  all += "é€\xF0\x9F\x98\x80\xE2\x80\xA8";
  std::string out;
  append_string(all, out);
  EXPECT_EQ(nlohmann::json::parse(out), all);
  EXPECT_EQ(out.find('\n'), out.npos);  // which would end an event
  out.clear();
  append_string(std::string_view("a\0b", 3), out);
  EXPECT_EQ(out, "\"a\\u0000b\"");
  // Every byte by itself, and cut characters, become U+FFFD.
  out.clear();
  append_string("\xC3\xA9\xC3|\xE2\x82|\xF0\x9F\x98|\xED\xA0\x80|\xFF\xC0\xAF", out);
  EXPECT_EQ(out, "\"é\uFFFD|\uFFFD\uFFFD|\uFFFD\uFFFD\uFFFD|\uFFFD\uFFFD\uFFFD|\uFFFD\uFFFD\uFFFD\"");
}

TEST(JsonOut, NumbersReadBack) {
  for (const double number : {0.0, -0.1, 1e-300, -2.302585092994046, 12345678.9, 1e22}) {
    std::string out;
    append_number(number, out);
    EXPECT_EQ(nlohmann::json::parse(out).get<double>(), number);
  }
}

}  // namespace
}  // namespace bumblebee::serve
