// The server without a network: what every endpoint answers, who is refused and how, and the laws that hold over the
// API as they do in the library.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <random>
#include <thread>

#include "tests/serve/core/tiny_server.h"

namespace bumblebee::serve {
namespace {

using nlohmann::json;
using namespace std::chrono_literals;

std::string said(const Reply& reply, int choice = 0) {
  if (reply.status != 200) return "status " + std::to_string(reply.status) + ": " + reply.body;
  const json one = reply.json().at("choices").at(size_t(choice));
  return one.contains("text") ? one.at("text").get<std::string>() : one.at("message").at("content").dump();
}

json long_chat(const std::string& text = "Go on", int tokens = 3000) {
  json body = chat_of(text, tokens);
  body["ignore_eos"] = true;
  return body;
}

json streamed(json body) {
  body["stream"] = true;
  return body;
}

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

TEST(Application, RefusesOnTheHead) {
  TinyServer server;
  EXPECT_EQ(server.get("/").status, 404);
  EXPECT_EQ(server.get("/v1/responses").status, 404);
  const Reply wrong = server.get("/v1/chat/completions");
  EXPECT_EQ(wrong.status, 405);
  EXPECT_EQ(wrong.headers.at("allow"), "POST, OPTIONS");
  EXPECT_EQ(wrong.json().at("error").at("type"), "invalid_request_error");
  EXPECT_EQ(server.ask("OPTIONS", "/v1/models", "").status, 204);
  EXPECT_EQ(server.ask("OPTIONS", "/v1/models", "").headers.at("allow"), "GET, HEAD, OPTIONS");
  EXPECT_EQ(server.post("/v1/chat/completions", chat_of("x"), {{"content-type", "text/plain"}}).status, 415);
  EXPECT_EQ(
      server.post("/v1/chat/completions", chat_of("x"), {{"content-type", "application/x-www-form-urlencoded"}}).status,
      415);
  EXPECT_EQ(server.post("/v1/chat/completions", chat_of("x"), {{"content-encoding", "gzip"}}).status, 415);
  EXPECT_EQ(
      server.post("/v1/chat/completions", chat_of("x"), {{"content-encoding", "gzip"}, {"content-encoding", "br"}})
          .status,
      415);
  EXPECT_EQ(
      server.post("/v1/chat/completions", chat_of("x"), {{"content-type", "Application/JSON ; charset=utf-8"}}).status,
      200);
  EXPECT_EQ(server.ask("POST", "/v1/chat/completions", std::string((8 << 20) + 1, ' ')).status, 413);
  EXPECT_EQ(server.get("/health", {{"host", "evil.example"}}).status, 403);
  EXPECT_EQ(server.get("/health", {{"origin", "https://evil.example"}}).status, 403);
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

TEST(Application, KeysOpenWhatTheyAreFor) {
  TestFolder folder;
  std::ofstream(folder / "keys") << "user-key\n";
  std::ofstream(folder / "admin") << "admin-key\n";
  TinyServer::Setup setup;
  setup.options.api_key_file = folder / "keys";
  setup.options.admin_key_file = folder / "admin";
  TinyServer server(setup);
  EXPECT_EQ(server.get("/health").status, 200);
  for (const Route& route : routes()) {
    if (route.scope == Scope::open) continue;
    const std::string path = std::string(route.path) + (route.id == RouteId::model ? "tiny" : "");
    EXPECT_EQ(server.ask(std::string(route.method), path, "{}").status, 401) << path;
    const int with_key =
        server.ask(std::string(route.method), path, "{}", {{"authorization", "Bearer user-key"}}).status;
    if (route.scope == Scope::admin)
      EXPECT_EQ(with_key, 403) << path;
    else
      EXPECT_TRUE(with_key == 200 || with_key == 400) << path << ": " << with_key;
  }
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

class WithAdapters : public testing::Test {
 protected:
  WithAdapters() {
    write_tiny_adapter(folder_ / "a", 1);
    write_tiny_adapter(folder_ / "b", 2);
    write_tiny_adapter(folder_ / "c", 3);
    setup_.options.adapter_root = folder_.path();
    for (const char* name : {"a", "b"})
      setup_.adapters.push_back({name, load_adapter(local(folder_ / name), {.scale = {}, .name = name})});
  }
  TestFolder folder_;
  TinyServer::Setup setup_;
};

TEST_F(WithAdapters, AreNamedInThreeWays) {
  TinyServer server(setup_);
  const auto ask = [&](json more) {
    json body = chat_of("Who are you?", 16);
    body.update(more);
    return server.post("/v1/chat/completions", body);
  };
  const std::string base = said(ask(json::object())), a = said(ask({{"model", "a"}}));
  EXPECT_NE(a, base);
  EXPECT_EQ(said(ask({{"model", "tiny"}})), base);
  EXPECT_EQ(said(ask({{"model", "default"}})), base);
  EXPECT_EQ(said(ask({{"model", "tiny:a"}})), a);
  EXPECT_EQ(said(ask({{"lora", {{{"name", "a"}}}}})), a);
  EXPECT_EQ(said(ask({{"model", "tiny"}, {"lora", {{{"name", "a"}, {"scale", 1.0}}}}})), a);
  EXPECT_EQ(said(ask({{"lora", {{{"name", "a"}, {"scale", 0}}}}})), base);
  EXPECT_NE(said(ask({{"model", "b"}})), a);
  EXPECT_EQ(ask({{"model", "z"}}).status, 404);
  EXPECT_EQ(ask({{"model", "tiny:z"}}).status, 404);
  EXPECT_EQ(ask({{"lora", {{{"name", "z"}}}}}).status, 404);
  EXPECT_EQ(ask({{"model", "a"}, {"lora", {{{"name", "b"}}}}}).status, 400);
  EXPECT_EQ(ask({{"lora", {{{"name", "a"}}, {{"name", "a"}}}}}).status, 400);
  const json models = server.get("/v1/models").json().at("data");
  ASSERT_EQ(models.size(), 3u);
  EXPECT_EQ(models[1].at("id"), "a");
  EXPECT_EQ(models[1].at("parent"), "tiny");
  EXPECT_EQ(server.get("/v1/models/tiny:b").json().at("parent"), "tiny");
}

TEST_F(WithAdapters, AreLoadedReplacedAndUnloaded) {
  TinyServer server(setup_);
  const auto load = [&](const std::string& path, json more = json::object()) {
    json body = {{"lora_name", "x"}, {"lora_path", path}};
    body.update(more);
    return server.post("/v1/load_lora_adapter", body);
  };
  json body = chat_of("Who are you?", 16);
  const std::string base = said(server.post("/v1/chat/completions", body));
  body["model"] = "a";
  const std::string a = said(server.post("/v1/chat/completions", body));
  body["model"] = "x";
  EXPECT_EQ(server.post("/v1/chat/completions", body).status, 404);
  const Reply loaded = load("a");
  ASSERT_EQ(loaded.status, 200) << loaded.body;
  EXPECT_EQ(said(server.post("/v1/chat/completions", body)), a);
  EXPECT_EQ(load("b").status, 409);
  EXPECT_EQ(load("b").headers.at("x-should-retry"), "false");
  const int64_t generation = loaded.json().at("generation");
  EXPECT_EQ(load("b", {{"load_inplace", true}, {"expected_generation", generation + 1}}).status, 409);
  const Reply replaced = load("c", {{"load_inplace", true}, {"expected_generation", generation}});
  ASSERT_EQ(replaced.status, 200) << replaced.body;
  EXPECT_GT(replaced.json().at("generation"), generation);
  const std::string c = said(server.post("/v1/chat/completions", body));
  EXPECT_NE(c, a);
  EXPECT_EQ(server.get("/v1/lora_adapters").json().at("data").size(), 3u);
  EXPECT_EQ(server.post("/v1/unload_lora_adapter", {{"lora_name", "x"}, {"expected_generation", generation}}).status,
            409);
  EXPECT_EQ(server.post("/v1/unload_lora_adapter", {{"lora_name", "x"}}).status, 200);
  EXPECT_EQ(server.post("/v1/unload_lora_adapter", {{"lora_name", "x"}}).status, 404);
  EXPECT_EQ(server.post("/v1/chat/completions", body).status, 404);
  for (const char* path : {"../a", "/etc", "absent", "a/adapters.safetensors", "hf://org/name"})
    EXPECT_EQ(load(path).status, 400) << path;
  EXPECT_EQ(load((folder_ / "a").string()).status, 200) << "absolute, and below the root";
  EXPECT_EQ(server.post("/v1/load_lora_adapter", {{"lora_name", "../x"}, {"lora_path", "a"}}).status, 400);
  EXPECT_EQ(
      server.post("/v1/load_lora_adapter", {{"lora_name", "tiny"}, {"lora_path", "a"}, {"load_inplace", true}}).status,
      409);
  body.erase("model");
  EXPECT_EQ(said(server.post("/v1/chat/completions", body)), base);
}

TEST_F(WithAdapters, OfTwoNamesForTheSameOneStays) {
  TinyServer server(setup_);
  ASSERT_EQ(server.post("/v1/load_lora_adapter", {{"lora_name", "x"}, {"lora_path", "a"}}).status, 200);
  const int packed = TinyServer::model().adapter_memory().adapters;
  ASSERT_EQ(server.post("/v1/unload_lora_adapter", {{"lora_name", "x"}}).status, 200);
  EXPECT_EQ(TinyServer::model().adapter_memory().adapters, packed) << "'a' has the same weights";
  ASSERT_EQ(server.post("/v1/unload_lora_adapter", {{"lora_name", "a"}}).status, 200);
  EXPECT_EQ(TinyServer::model().adapter_memory().adapters, packed - 1);
}

TEST_F(WithAdapters, OneThatAWaitingRequestNeedsIsGoneAfterIt) {
  setup_.generation.limits.batch_size = 2;
  setup_.options.keep_alive = 100ms;
  TinyServer server(setup_);
  std::vector<TinyServer::Asked> running;
  for (int i = 0; i < 2; ++i) running.push_back(server.begin("/v1/chat/completions", streamed(long_chat("x", 4000))));
  ASSERT_TRUE(running[1].exchange->wait_for_text("assistant"));
  json body = chat_of("Who are you?", 4);
  body["model"] = "a";
  const TinyServer::Asked waiting = server.begin("/v1/chat/completions", streamed(body));
  ASSERT_TRUE(waiting.exchange->wait_for_text("assistant"));
  const int packed = TinyServer::model().adapter_memory().adapters;
  ASSERT_EQ(server.post("/v1/unload_lora_adapter", {{"lora_name", "a"}}).status, 200);
  for (const TinyServer::Asked& asked : running) server.leave(asked);
  ASSERT_TRUE(waiting.exchange->wait_until_ended());
  EXPECT_NE(waiting.exchange->body().find("[DONE]"), std::string::npos);
  ASSERT_TRUE(server.wait_until_idle());
  for (int i = 0; i < 500 && TinyServer::model().adapter_memory().adapters >= packed; ++i)
    std::this_thread::sleep_for(20ms);
  EXPECT_LT(TinyServer::model().adapter_memory().adapters, packed);
}

TEST_F(WithAdapters, WhatIsNoIdOfTheHubIsNoPathEither) {
  setup_.options.adapter_root.reset();
  setup_.options.allow_hub = true;
  TinyServer server(setup_);
  for (const char* path :
       {"hf://", "hf://tmp", "hf:///tmp/a", "hf://../tmp", "/tmp/a", "hf://org/name@", "hf://a/b/../c"})
    EXPECT_EQ(server.post("/v1/load_lora_adapter", {{"lora_name", "x"}, {"lora_path", path}}).status, 400) << path;
}

TEST_F(WithAdapters, AreBoundedInNumber) {
  setup_.options.max_adapters = 2;
  TinyServer server(setup_);
  const Reply full = server.post("/v1/load_lora_adapter", {{"lora_name", "x"}, {"lora_path", "c"}});
  EXPECT_GE(full.status, 400);
  EXPECT_EQ(
      server.post("/v1/load_lora_adapter", {{"lora_name", "a"}, {"lora_path", "c"}, {"load_inplace", true}}).status,
      200);
}

TEST_F(WithAdapters, ARequestKeepsTheGenerationItBeganWith) {
  TinyServer server(setup_);
  json body = long_chat("Who are you?", 600);
  body["model"] = "a";
  const std::string alone = said(server.post("/v1/chat/completions", body));
  const TinyServer::Asked running = server.begin("/v1/chat/completions", streamed(body));
  ASSERT_TRUE(running.exchange->wait_for_text("content\":\""));
  const Reply replaced =
      server.post("/v1/load_lora_adapter", {{"lora_name", "a"}, {"lora_path", "b"}, {"load_inplace", true}});
  ASSERT_EQ(replaced.status, 200) << replaced.body;
  EXPECT_FALSE(running.exchange->ended()) << "the swap should come in the middle";
  ASSERT_TRUE(running.exchange->wait_until_ended());
  Reply reply{.status = 200, .body = running.exchange->body(), .headers = {}};
  EXPECT_EQ(reply.text(), json::parse(alone).get<std::string>());
  EXPECT_NE(said(server.post("/v1/chat/completions", body)), alone);
}

TEST_F(WithAdapters, WarmIsColdInAnyOrder) {
  TinyServer server(setup_);
  const std::vector<json> sets = {json::array(),
                                  {{{"name", "a"}}},
                                  {{{"name", "b"}}},
                                  {{{"name", "a"}}, {{"name", "b"}}},
                                  {{{"name", "a"}, {"scale", 0.5}}}};
  const std::string shared(400, 'x');
  std::vector<json> bodies;
  for (const json& lora : sets) {
    for (const char* end : {"one", "two"}) {
      json body = chat_of(shared + end, 8);
      body["lora"] = lora;
      body["logprobs"] = true;
      body["top_logprobs"] = 2;
      bodies.push_back(body);
    }
  }
  std::vector<json> cold;
  for (json body : bodies) {
    body["cache_prompt"] = false;
    const Reply reply = server.post("/v1/chat/completions", body);
    ASSERT_EQ(reply.status, 200) << reply.body;
    cold.push_back(reply.json().at("choices"));
  }
  std::mt19937 random(7);
  const char* orders = std::getenv("BB_ORDERS");  // 1,000 for the long form
  int64_t cached = 0;
  for (int i = 0; i < (orders ? std::atoi(orders) : 100); ++i) {
    const size_t which = random() % bodies.size();
    const json reply = server.post("/v1/chat/completions", bodies[which]).json();
    ASSERT_EQ(reply.at("choices"), cold[which]) << i;
    cached += reply.at("usage").at("prompt_tokens_details").at("cached_tokens").get<int64_t>();
  }
  EXPECT_GT(cached, 0);
  EXPECT_GT(server.metric("prefix_cache_hits_total"), 0);
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

TEST(Application, AFullQueueRefusesAtOnce) {
  TinyServer::Setup setup;
  setup.generation.limits.batch_size = 2;
  setup.generation.max_waiting = 3;
  TinyServer server(setup);
  std::vector<TinyServer::Asked> running;
  for (int i = 0; i < 5; ++i) {
    running.push_back(server.begin("/v1/chat/completions", streamed(long_chat())));
    ASSERT_TRUE(running.back().exchange->wait_for_text("assistant")) << i;
  }
  const auto started = std::chrono::steady_clock::now();
  const Reply refused = server.post("/v1/chat/completions", long_chat());
  EXPECT_LT(std::chrono::steady_clock::now() - started, 1s);
  EXPECT_EQ(refused.status, 429);
  const int wait = std::stoi(refused.headers.at("retry-after"));
  EXPECT_GE(wait, 1);
  EXPECT_LE(wait, 60);
  EXPECT_EQ(server.get("/health").status, 200);
  EXPECT_EQ(server.get("/ready").status, 503);
  for (const TinyServer::Asked& asked : running) server.leave(asked);
  EXPECT_TRUE(server.wait_until_idle());
  EXPECT_EQ(server.get("/ready").status, 200);
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
  server.application().drain(60s);
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

TEST(Application, OnlyCallersWithAKeyGoBeforeOthers) {
  json body = chat_of("x");
  body["priority"] = -1;
  TinyServer open;
  const Reply refused = open.post("/v1/chat/completions", body);
  EXPECT_EQ(refused.status, 400);
  EXPECT_EQ(refused.json().at("error").at("param"), "priority");
  TestFolder folder;
  std::ofstream(folder / "keys") << "user-key\n";
  TinyServer::Setup setup;
  setup.options.api_key_file = folder / "keys";
  TinyServer locked(setup);
  EXPECT_EQ(locked.post("/v1/chat/completions", body, {{"x-api-key", "user-key"}}).status, 200);
}

TEST(Application, FieldsThatNobodyKnowsAreNamed) {
  TinyServer server;
  json body = chat_of("x");
  body["frobnicate"] = 1;
  const Reply reply = server.post("/v1/chat/completions", body);
  EXPECT_EQ(reply.status, 200) << reply.body;
  EXPECT_EQ(reply.headers.at("x-bumblebee-ignored"), "frobnicate");
  EXPECT_EQ(server.metric("ignored_fields_total"), 1);
  TinyServer::Setup setup;
  setup.options.strict = true;
  TinyServer strict(setup);
  EXPECT_EQ(strict.post("/v1/chat/completions", body).status, 400);
}

TEST(Application, PromptsAtTheEdgeOfTheContext) {
  TinyServer::Setup setup;
  setup.generation.limits.sequence_length = 256;
  TinyServer server(setup);
  const auto ask = [&](int tokens) {
    return server.post("/v1/completions", {{"prompt", std::vector<int>(size_t(tokens), 65)}, {"ignore_eos", true}});
  };
  const Reply fits = ask(255);
  ASSERT_EQ(fits.status, 200) << fits.body;
  EXPECT_EQ(fits.json().at("usage").at("completion_tokens"), 1);
  for (const int tokens : {256, 257, 5000}) {
    const Reply refused = ask(tokens);
    EXPECT_EQ(refused.status, 400) << tokens;
    EXPECT_EQ(refused.json().at("error").at("code"), "context_length_exceeded");
    EXPECT_NE(refused.body.find("maximum context length"), std::string::npos) << refused.body;
  }
  EXPECT_EQ(server.post("/v1/chat/completions", chat_of(std::string(1 << 20, 'a'))).json().at("error").at("code"),
            "context_length_exceeded");
}

}  // namespace
}  // namespace bumblebee::serve
