// Whom the server without a network refuses, and how it says so.
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>

#include "serve/openai/fields.h"
#include "tests/serve/core/tiny_server.h"

namespace bumblebee::serve {
namespace {

using nlohmann::json;
using namespace std::chrono_literals;

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
  EXPECT_EQ(server.metric("requests_refused_total"), 1) << "that the serving never heard of";
  for (const TinyServer::Asked& asked : running) server.leave(asked);
  EXPECT_TRUE(server.wait_until_idle());
  EXPECT_EQ(server.get("/ready").status, 200);
}

TEST(Application, WhatNeverFitsIsNotAskedForAgain) {
  TinyServer::Setup setup;
  setup.generation.limits.batch_size = 2;
  setup.generation.max_waiting = 3;
  TinyServer server(setup);
  const auto ask = [&](size_t prompts, int n) {
    return server.post("/v1/completions",
                       {{"prompt", std::vector<std::string>(prompts, "x")}, {"n", n}, {"max_tokens", 2}});
  };
  EXPECT_EQ(ask(5, 1).status, 200);
  for (const Reply& refused : {ask(6, 1), ask(3, 2)}) {
    EXPECT_EQ(refused.status, 400) << refused.body;
    EXPECT_EQ(refused.json().at("error").at("param"), "prompt");
    EXPECT_NE(refused.body.find("expected at most 5 answers"), std::string::npos) << refused.body;
    EXPECT_NE(refused.body.find("got 6"), std::string::npos) << refused.body;
  }
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
  for (const Endpoint endpoint : {Endpoint::chat, Endpoint::completions}) {
    for (const Field& field : fields_of(endpoint)) {
      if (field.name != "priority") continue;
      EXPECT_TRUE(field.about.ends_with("Below 0 only with a key")) << field.about;
    }
  }
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
