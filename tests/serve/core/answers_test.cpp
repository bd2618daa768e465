// What answers count and say of themselves, and requests that reach the model's limits.
#include <gtest/gtest.h>

#include "tests/serve/core/tiny_server.h"

namespace bumblebee::serve {
namespace {

using nlohmann::json;

constexpr int kEnd = 258;  // <|im_end|>

json error_of(const Reply& reply) { return reply.status == 400 ? reply.json().at("error") : json(reply.body); }

TEST(Answers, CountTheTokenThatEndsThem) {
  TinyServer server;
  json body = chat_of("x", 8);
  body["logit_bias"] = {{std::to_string(kEnd), 100}};
  body["temperature"] = 0;
  const json whole = server.post("/v1/chat/completions", body).json();
  EXPECT_EQ(whole.at("choices")[0].at("finish_reason"), "stop");
  EXPECT_EQ(whole.at("choices")[0].at("message").at("content"), "");
  EXPECT_EQ(whole.at("usage").at("completion_tokens"), 1);
  body["stream"] = true;
  body["stream_options"] = {{"include_usage", true}};
  EXPECT_EQ(server.post("/v1/chat/completions", body).events().back().at("usage").at("completion_tokens"), 1);
  body.erase("logit_bias");
  body["ignore_eos"] = true;
  EXPECT_EQ(server.post("/v1/chat/completions", body).events().back().at("usage").at("completion_tokens"), 8);
}

TEST(Answers, TimingsOfEveryChunkAreOfWhatWasComputed) {
  TinyServer server;
  const Reply reply = server.post(
      "/v1/completions",
      {{"prompt", "One day"}, {"max_tokens", 8}, {"ignore_eos", true}, {"stream", true}, {"timings_per_token", true}});
  const std::vector<json> events = reply.events();
  ASSERT_FALSE(events.empty()) << reply.body;
  const json prompt = server.post("/tokenize", {{"prompt", "One day"}}).json().at("count");
  int before = 0;
  for (const json& event : events) {
    const json& timings = event.at("timings");
    EXPECT_EQ(timings.at("prompt_n").get<int>() + timings.at("cache_n").get<int>(), prompt) << event;
    EXPECT_GT(timings.at("prompt_ms"), 0) << event;
    EXPECT_GE(timings.at("predicted_n"), before);
    before = timings.at("predicted_n");
    // Of the first token's time nothing is the answer's: it says no speed rather than that of the queue.
    EXPECT_EQ(timings.at("predicted_per_second") == 0, timings.at("predicted_ms") == 0) << event;
  }
  EXPECT_EQ(before, 8);
  EXPECT_GT(events.back().at("timings").at("predicted_ms"), 0);
}

/// Wants no more of a choice after its first words, as after a call of a tool that is to be the only one.
class BriefAnswer final : public Answer {
 public:
  BriefAnswer(Place place, std::shared_ptr<const Served> served, std::shared_ptr<Call> call)
      : Answer(place, std::move(served), std::move(call), {}, 1, 1) {}

 private:
  void begin_stream(std::string&) override {}
  bool add(size_t, const text::Delta&, const DeltaExtras&, std::string&) override { return true; }
  void end_stream(const Usage&, std::string&) override {}
  std::string whole(const Usage&, const AnswerTimings&) override { return "enough"; }
};

TEST(Answers, WhatTheServerHasEnoughOfIsNoAbort) {
  Metrics metrics;
  std::mutex mutex;
  std::string lines;
  LogQueue log([&](std::string_view line) {
    const std::lock_guard lock(mutex);
    lines += line;
  });
  Calls calls(metrics, log);
  Workers workers(1, 1, 1);
  const auto exchange = std::make_shared<FakeExchange>();
  {
    HttpHead head;
    head.method = "POST";
    head.path = "/v1/chat/completions";
    Match found = match(head.method, head.path);
    const auto call = std::make_shared<Call>(1, std::move(head), std::move(found), Caller{}, "id", Headers{}, exchange);
    calls.add(call);
    call->note([](CallFacts& facts) { facts.model = "tiny"; });
    const GenerationConfig config;
    const auto served = std::make_shared<const Served>(
        Served{.model = TinyServer::model(),
               .tokenizer = TinyServer::tokenizer(),
               .generation = text::generation(TinyServer::model(), TinyServer::tokenizer(), config,
                                              {.limits = {.batch_size = 1, .sequence_length = 4096}}),
               .rules = {},
               .formats = {},
               .name = "tiny",
               .fingerprint = "",
               .reasoning_field = "",
               .created = 0,
               .bytes = {}});
    text::Input input("Go on");
    input.config = config;
    input.config->max_new_tokens = 4000;
    input.ignore_eos = true;
    std::make_shared<BriefAnswer>(Answer::Place{calls, workers, metrics}, served, call)->submit({input});
    ASSERT_TRUE(calls.wait_until_empty(Call::Clock::now() + std::chrono::minutes(10)));
  }
  EXPECT_EQ(exchange->body(), "enough");
  const std::string counts = metrics.print({});
  EXPECT_NE(counts.find("request_success_total{finished_reason=\"stop\"} 1\n"), std::string::npos) << counts;
  EXPECT_NE(counts.find("request_success_total{finished_reason=\"abort\"} 0\n"), std::string::npos) << counts;
  EXPECT_TRUE(log.flush(std::chrono::minutes(1)));
  const std::lock_guard lock(mutex);
  EXPECT_EQ(json::parse(lines).at("finish"), "stop") << lines;
}

TEST(Answers, SayASeedThatCanBeSentAgain) {
  TinyServer server;
  json body = chat_of("Draw", 12);
  body["temperature"] = 1;
  body["seed"] = -2;
  const Reply first = server.post("/v1/chat/completions", body);
  ASSERT_EQ(first.status, 200) << first.body;
  EXPECT_EQ(first.headers.at("x-bumblebee-seed"), "-2");
  // Another one each time, which can be sent again.
  body["seed"] = -1;
  const Reply drawn = server.post("/v1/chat/completions", body), other = server.post("/v1/chat/completions", body);
  const std::string seed = drawn.headers.at("x-bumblebee-seed");
  EXPECT_NE(seed, "-1");
  EXPECT_NE(seed, other.headers.at("x-bumblebee-seed"));
  body["seed"] = json::parse(seed);
  EXPECT_EQ(said(server.post("/v1/chat/completions", body)), said(drawn));
}

TEST(Answers, RepeatTheIdsThatTheModelSaw) {
  TinyServer server;
  for (const char* text : {"One day", "<|endoftext|>One day"}) {
    const json reply =
        server
            .post("/v1/completions", {{"prompt", text}, {"max_tokens", 2}, {"echo", true}, {"return_token_ids", true}})
            .json();
    const json& choice = reply.at("choices")[0];
    EXPECT_EQ(choice.at("prompt_token_ids").size(), reply.at("usage").at("prompt_tokens")) << text;
    EXPECT_EQ(choice.at("prompt_token_ids"), server.post("/tokenize", {{"prompt", text}}).json().at("tokens"));
    EXPECT_TRUE(choice.at("text").get<std::string>().starts_with(text)) << choice;
    const json again = server
                           .post("/v1/completions", {{"prompt", choice.at("prompt_token_ids")},
                                                     {"max_tokens", 2},
                                                     {"echo", true},
                                                     {"return_token_ids", true}})
                           .json();
    EXPECT_TRUE(again.at("choices")[0].at("text").get<std::string>().starts_with(text)) << again;
  }
}

TEST(Answers, AreCutAtTheContextButNotBelowWhatIsDemanded) {
  TinyServer::Setup setup;
  setup.generation.limits.sequence_length = 256;
  TinyServer server(setup);
  const auto ask = [&](int least, int most) {
    return server.post(
        "/v1/completions",
        {{"prompt", std::vector<int>(200, 65)}, {"min_tokens", least}, {"max_tokens", most}, {"ignore_eos", true}});
  };
  const Reply cut = ask(56, 200);
  ASSERT_EQ(cut.status, 200) << cut.body;
  EXPECT_EQ(cut.json().at("choices")[0].at("finish_reason"), "length");
  EXPECT_EQ(cut.json().at("usage").at("completion_tokens"), 56);
  const json refused = error_of(ask(57, 200));
  EXPECT_EQ(refused.at("code"), "context_length_exceeded");
  EXPECT_EQ(refused.at("param"), "min_tokens");
}

TEST(Answers, RefusalsOfLongPromptsNameTheirField) {
  TinyServer::Setup setup;
  setup.generation.limits.sequence_length = 256;
  setup.options.tool_parser = "hermes";  // else tools are refused: the template shows none
  TinyServer server(setup);
  const std::string text(1 << 20, 'a');
  json tools = chat_of("x");
  tools["tools"] = {{{"type", "function"}, {"function", {{"name", "f"}, {"description", text}}}}};
  const struct {
    const char *path, *param;
    json body;
  } cases[] = {{"/v1/completions", "prompt", {{"prompt", text}}},
               {"/v1/completions", "prompt", {{"prompt", std::vector<int>(300, 65)}}},
               {"/v1/chat/completions", "messages", chat_of(text)},
               {"/v1/chat/completions", "messages", tools},
               {"/tokenize", "prompt", {{"prompt", text}}},
               {"/apply-template", "messages", {{"messages", chat_of(text)["messages"]}}}};
  for (const auto& [path, param, body] : cases) {
    const json error = error_of(server.post(path, body));
    EXPECT_EQ(error.value("code", ""), "context_length_exceeded") << path << ": " << error;
    EXPECT_EQ(error.value("param", ""), param) << path;
  }
  // What does not fit can still be counted.
  EXPECT_EQ(server.post("/tokenize", {{"prompt", std::string(600, 'a')}}).status, 200);
}

TEST(Answers, NamesOfSeveralAdaptersTogetherMayBeLong) {
  TestFolder folder;
  TinyServer::Setup setup;
  json lora = json::array();
  for (const char letter : {'a', 'b'}) {
    const std::string name(64, letter);
    write_tiny_adapter(folder / name, uint32_t(letter));
    setup.adapters.push_back({name, load_adapter(local(folder / name), {.scale = {}, .name = name})});
    lora.push_back({{"name", name}});
  }
  TinyServer server(setup);
  json body = chat_of("x");
  body["lora"] = lora;
  const Reply reply = server.post("/v1/chat/completions", body);
  EXPECT_EQ(reply.status, 200) << reply.body;
}

}  // namespace
}  // namespace bumblebee::serve
