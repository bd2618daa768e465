// The server without a network: what every endpoint answers, what it leaves behind, and the laws that hold over the API
// as they do in the library. Who is refused, and adapters: application_refusals_test.cpp,
// application_adapters_test.cpp.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <random>
#include <thread>

#include "tests/serve/core/tiny_server.h"

namespace bumblebee::serve {
namespace {

using nlohmann::json;
using namespace std::chrono_literals;

TEST(Application, AnswersFromTheFirstMomentThatItLoads) {
  TinyServer server({.options = {}, .generation = {}, .adapters = {}, .serve = false});
  EXPECT_EQ(server.get("/health").status, 503);
  EXPECT_EQ(server.get("/health").json().at("status"), "loading");
  EXPECT_EQ(server.get("/v1/ready").status, 503);
  EXPECT_EQ(server.get("/version").status, 200);
  EXPECT_EQ(server.get("/metrics").status, 200);
  const Reply early = server.post("/v1/chat/completions", chat_of("Hello"));
  EXPECT_EQ(early.status, 503);
  EXPECT_TRUE(early.headers.contains("retry-after"));
  EXPECT_EQ(server.get("/v1/models").status, 503);
  server.serve();
  EXPECT_EQ(server.get("/v1/health").status, 200);
  EXPECT_EQ(server.get("/ready").status, 200);
  EXPECT_EQ(server.get("/v1/models").json().at("data").at(0).at("id"), "tiny");
  EXPECT_EQ(server.get("/v1/models/tiny").json().at("max_model_len"), 4096);
  EXPECT_EQ(server.get("/v1/models/other").status, 404);
}

TEST(Application, NamesOfRequests) {
  TinyServer server;
  EXPECT_EQ(server.get("/health", {{"x-request-id", "mine-1"}}).headers.at("x-request-id"), "mine-1");
  EXPECT_EQ(server.post("/v1/chat/completions", chat_of("x"), {{"x-request-id", "mine-2"}}).headers.at("x-request-id"),
            "mine-2");
  const std::string made = server.get("/health", {{"x-request-id", "not good"}}).headers.at("x-request-id");
  EXPECT_TRUE(made.starts_with("req-")) << made;
  EXPECT_NE(server.get("/health").headers.at("x-request-id"), made);
}

TEST(Application, AStreamSaysWhatTheWholeAnswerSays) {
  TinyServer server;
  for (const double temperature : {0.0, 1.0}) {
    json body = chat_of("Tell me of the sea", 24);
    body["temperature"] = temperature;
    body["seed"] = 5;
    const Reply whole = server.post("/v1/chat/completions", body);
    ASSERT_EQ(whole.status, 200) << whole.body;
    EXPECT_EQ(whole.headers.at("x-bumblebee-seed"), "5");
    body["stream_options"] = {{"include_usage", true}};
    const Reply stream = server.post("/v1/chat/completions", streamed(body));
    ASSERT_EQ(stream.status, 200);
    EXPECT_EQ(stream.headers.at("content-type"), "text/event-stream; charset=utf-8");
    bool done = false;
    const std::vector<json> events = stream.events(&done);
    EXPECT_TRUE(done);
    EXPECT_EQ(stream.text(), whole.json()["choices"][0]["message"]["content"]);
    EXPECT_EQ(events.front()["choices"][0]["delta"]["role"], "assistant");
    EXPECT_EQ(events.back()["usage"]["completion_tokens"], whole.json()["usage"]["completion_tokens"]);

    json completion = {
        {"prompt", {"One day", "The sea"}}, {"max_tokens", 16}, {"temperature", temperature}, {"seed", 9}};
    const Reply texts = server.post("/v1/completions", completion);
    ASSERT_EQ(texts.status, 200) << texts.body;
    const Reply pieces = server.post("/v1/completions", streamed(completion));
    for (int i = 0; i < 2; ++i) EXPECT_EQ(pieces.text(i), said(texts, i)) << i;
  }
}

TEST(Application, ASeedRepeatsAnAnswerAndNoneIsRandom) {
  TinyServer server;
  json body = chat_of("Draw", 24);
  body["temperature"] = 1.5;
  const Reply first = server.post("/v1/chat/completions", body), second = server.post("/v1/chat/completions", body);
  ASSERT_EQ(first.status, 200) << first.body;
  EXPECT_NE(first.headers.at("x-bumblebee-seed"), second.headers.at("x-bumblebee-seed"));
  body["seed"] = std::stoull(first.headers.at("x-bumblebee-seed"));
  EXPECT_EQ(said(server.post("/v1/chat/completions", body)), said(first));
  body["n"] = 3;
  Reply several;
  const auto all_differ = [&] {
    return said(several, 0) != said(several, 1) && said(several, 1) != said(several, 2) &&
           said(several, 0) != said(several, 2);
  };
  // The tiny model has few words, and now and then says the same twice.
  for (int seed = 1; seed < 100; ++seed) {
    body["seed"] = seed;
    several = server.post("/v1/chat/completions", body);
    ASSERT_EQ(several.status, 200) << several.body;
    if (all_differ()) break;
  }
  EXPECT_TRUE(all_differ()) << "each draws by itself";
  json single = body;
  single["n"] = 1;
  EXPECT_EQ(said(several, 0), said(server.post("/v1/chat/completions", single))) << "the first is the single one";
  EXPECT_EQ(server.post("/v1/chat/completions", streamed(body)).text(2),
            json::parse(said(several, 2)).get<std::string>());
}

TEST(Application, AClientThatLeavesLeavesNothing) {
  TinyServer server;
  std::mt19937 random(3);
  const char* times = std::getenv("BB_DEPARTURES");
  const int count = times ? std::atoi(times) : 200;
  for (int i = 0; i < count; ++i) {
    json body = long_chat("Number " + std::to_string(i % 5), 1500);
    if (i % 2) body = streamed(body);
    const TinyServer::Asked asked = server.begin("/v1/chat/completions", body);
    ASSERT_FALSE(asked.refused);
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 6000));
    server.leave(asked);
  }
  EXPECT_TRUE(server.wait_until_idle());
  EXPECT_GE(server.metric("clients_left_total"), 0.9 * count);
  EXPECT_EQ(server.post("/v1/chat/completions", chat_of("Still there?")).status, 200);
}

TEST(Application, AReaderWhoStopsIsLetGo) {
  TinyServer server;
  json body = streamed(long_chat("Go on", 3500));
  body["logprobs"] = true;
  body["top_logprobs"] = 20;
  const TinyServer::Asked asked = server.begin("/v1/chat/completions", body);
  ASSERT_TRUE(asked.exchange->wait_for_text("content"));
  asked.exchange->stop_reading();
  EXPECT_TRUE(server.wait_until_idle());
  EXPECT_EQ(server.metric("slow_readers_total"), 1);
  EXPECT_LE(asked.exchange->unsent(), 4 * Stream::kMostUnsent) << "of about 12 MB";
  EXPECT_FALSE(asked.exchange->ended());
}

TEST(Application, ALongPromptComesBackInAStream) {
  TinyServer server;
  json body = {{"prompt", json::array()}, {"max_tokens", 2}, {"echo", true}, {"stream", true}};
  // Each byte is six of JSON, and only the ends differ, so that most is computed once.
  for (int i = 0; i < 14; ++i) body["prompt"].push_back(std::string(3400, '\x01') + std::to_string(i));
  const TinyServer::Asked asked = server.begin("/v1/completions", body);
  ASSERT_TRUE(asked.exchange->wait_until_ended());
  EXPECT_GT(asked.exchange->body().size(), Stream::kMostUnsent);
  EXPECT_NE(asked.exchange->body().find("[DONE]"), std::string::npos);
  EXPECT_EQ(server.metric("slow_readers_total") + server.metric("clients_left_total"), 0);
}

TEST(Application, QueuedStreamsHearThatTheyAreAlive) {
  TinyServer::Setup setup;
  setup.options.keep_alive = 100ms;
  setup.options.queue_timeout = 2000ms;
  setup.generation.limits.batch_size = 2;
  TinyServer server(setup);
  const TinyServer::Asked first = server.begin("/v1/chat/completions", streamed(long_chat("a", 4000)));
  const TinyServer::Asked second = server.begin("/v1/chat/completions", streamed(long_chat("b", 4000)));
  ASSERT_TRUE(first.exchange->wait_for_text("content\":\""));
  const TinyServer::Asked queued = server.begin("/v1/chat/completions", streamed(long_chat("c", 4000)));
  EXPECT_TRUE(queued.exchange->wait_for_text(": keep-alive\n\n"));
  EXPECT_TRUE(queued.exchange->streamed());
  for (const TinyServer::Asked& asked : {first, second, queued}) server.leave(asked);
  EXPECT_TRUE(server.wait_until_idle());
}

TEST(Application, DrainingEndsWhatItCannotFinish) {
  TinyServer server;
  const TinyServer::Asked endless = server.begin("/v1/chat/completions", streamed(long_chat("a", 4000)));
  const TinyServer::Asked whole = server.begin("/v1/chat/completions", long_chat("b", 4000));
  ASSERT_TRUE(endless.exchange->wait_for_text("content\":\""));
  std::thread drain([&] { server.application().drain(50ms); });
  while (server.get("/health").status == 200) std::this_thread::yield();
  EXPECT_EQ(server.get("/health").json().at("status"), "draining");
  EXPECT_EQ(server.post("/v1/chat/completions", chat_of("new")).status, 503);
  drain.join();
  ASSERT_TRUE(endless.exchange->wait_until_ended());
  ASSERT_TRUE(whole.exchange->wait_until_ended());
  EXPECT_EQ(whole.exchange->status(), 503);
  bool done = true;
  Reply reply{.status = 200, .body = endless.exchange->body(), .headers = {}};
  const std::vector<json> events = reply.events(&done);
  EXPECT_FALSE(done);
  EXPECT_TRUE(events.back().contains("error"));
}

TEST(Application, DrainingLetsAnswersEnd) {
  TinyServer server;
  const TinyServer::Asked one = server.begin("/v1/chat/completions", streamed(long_chat("a", 300)));
  ASSERT_TRUE(one.exchange->wait_for_text("assistant"));
  server.application().drain(std::chrono::milliseconds::max());
  EXPECT_TRUE(one.exchange->ended());
  bool done = false;
  Reply{.status = 200, .body = one.exchange->body(), .headers = {}}.events(&done);
  EXPECT_TRUE(done);
}

TEST(Application, TextAndTokens) {
  TinyServer server;
  const json tokens = server.post("/tokenize", {{"prompt", "Hello"}}).json();
  EXPECT_EQ(tokens.at("max_model_len"), 4096);
  EXPECT_EQ(server.post("/v1/detokenize", {{"tokens", tokens.at("tokens")}}).json().at("prompt"), "Hello");
  const json prompt = server.post("/apply-template", {{"messages", chat_of("Hi")["messages"]}}).json();
  EXPECT_EQ(prompt.at("prompt"), "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(server.post("/detokenize", {{"tokens", {100000}}}).status, 400);
}

/// As the tiny model's does: nothing would tell it what it may call.
TEST(Application, WarnsOfATemplateThatShowsNoTools) {
  const auto warned = [](const char* parser) {
    std::vector<std::string> lines;
    set_log_sink([&lines](LogLevel, std::string_view line) { lines.emplace_back(line); }, LogLevel::warning);
    {
      TinyServer::Setup setup;
      setup.options.tool_parser = parser;
      const TinyServer server(setup);
    }
    set_log_sink({});
    return std::count_if(lines.begin(), lines.end(),
                         [](const std::string& line) { return line.starts_with("[chat template] tools: "); });
  };
  EXPECT_EQ(warned("hermes"), 1);
  EXPECT_EQ(warned("none"), 0);
}

/// As `generate --tools` does. Where the calls are read, the system message may have brought them.
TEST(Application, RefusesToolsThatNeitherTheTemplateNorAParserKnows) {
  nlohmann::json body = chat_of("x");
  body["tools"] = {{{"type", "function"}, {"function", {{"name", "f"}}}}};
  for (const char* parser : {"auto", "none", "hermes"}) {
    TinyServer::Setup setup;
    setup.options.tool_parser = parser;
    TinyServer server(setup);
    const bool read = parser == std::string("hermes");
    for (const char* path : {"/v1/chat/completions", "/apply-template"}) {
      nlohmann::json sent = body;
      if (path == std::string("/apply-template")) sent.erase("max_tokens"), sent.erase("temperature");
      const Reply reply = server.post(path, sent);
      EXPECT_EQ(reply.status, read ? 200 : 400) << parser << path << reply.body;
      EXPECT_EQ(reply.body.find("\"param\":\"tools\"") != std::string::npos, !read) << reply.body;
      sent["tool_choice"] = "none";
      EXPECT_EQ(server.post(path, sent).status, 200) << parser << path;
    }
    nlohmann::json kwargs = chat_of("x");
    kwargs["chat_template_kwargs"] = {{"unread", 1}};
    EXPECT_EQ(server.post("/v1/chat/completions", kwargs).status, 400) << "the rules have the template";
  }
}

TEST(Application, LogsEachRequestWithoutItsText) {
  TinyServer server;
  (void)server.post("/v1/chat/completions", chat_of("a secret"), {{"x-request-id", "mine"}});
  (void)server.post("/v1/chat/completions", {{"messages", 1}});
  ASSERT_TRUE(server.wait_until_idle());
  const auto chats = [](TinyServer& from) {  // not those that wait_until_idle() asked for
    std::vector<std::string> lines = from.log();
    std::erase_if(lines, [](const std::string& line) { return json::parse(line).at("route") == "/metrics"; });
    return lines;
  };
  const std::vector<std::string> lines = chats(server);
  ASSERT_EQ(lines.size(), 2u);
  const json line = json::parse(lines[0]);
  EXPECT_EQ(line.at("id"), "mine");
  EXPECT_EQ(line.at("status"), 200);
  EXPECT_EQ(line.at("route"), "/chat/completions");
  EXPECT_GT(line.at("input_tokens"), 0);
  EXPECT_EQ(json::parse(lines[1]).at("status"), 400);
  for (const std::string& one : lines) EXPECT_EQ(one.find("secret"), std::string::npos) << one;
  TinyServer::Setup setup;
  setup.options.log_prompts = true;
  TinyServer telling(setup);
  (void)telling.post("/v1/chat/completions", chat_of("a secret"));
  ASSERT_TRUE(telling.wait_until_idle());
  EXPECT_NE(chats(telling).at(0).find("secret"), std::string::npos);
}

TEST(Application, LogsWhatIsAnsweredOnTheHead) {
  TinyServer server;
  (void)server.get("/health", {{"x-request-id", "mine"}});
  (void)server.get("/nowhere");
  (void)server.post("/v1/chat/completions", chat_of("a secret"), {{"content-type", "text/plain"}});
  (void)server.application().on_broken(413, "too long");
  const std::vector<std::string> lines = server.log();
  ASSERT_EQ(lines.size(), 4u);
  const json health = json::parse(lines[0]), nowhere = json::parse(lines[1]);
  EXPECT_EQ(health.at("id"), "mine");
  EXPECT_EQ(health.at("route"), "/health");
  EXPECT_EQ(health.at("status"), 200);
  EXPECT_EQ(health.at("peer"), "127.0.0.1");
  EXPECT_FALSE(health.contains("error"));
  EXPECT_EQ(nowhere.at("route"), "other");
  EXPECT_EQ(nowhere.at("status"), 404);
  EXPECT_TRUE(nowhere.contains("error"));
  EXPECT_EQ(json::parse(lines[2]).at("status"), 415);
  EXPECT_EQ(json::parse(lines[3]).at("status"), 413);
}

}  // namespace
}  // namespace bumblebee::serve
