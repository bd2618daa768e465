// Adapters in the server without a network: how requests name them, and how they come and go under answers.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <random>
#include <thread>

#include "tests/serve/core/tiny_server.h"

namespace bumblebee::serve {
namespace {

using nlohmann::json;
using namespace std::chrono_literals;

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
  EXPECT_EQ(said(ask({{"model", "default_model"}})), base) << "mlx-lm's word";
  EXPECT_EQ(said(ask({{"model", "tiny:a"}})), a);
  EXPECT_EQ(said(ask({{"lora", {{{"name", "a"}}}}})), a);
  EXPECT_EQ(said(ask({{"model", "tiny"}, {"lora", {{{"name", "a"}, {"scale", 1.0}}}}})), a);
  EXPECT_EQ(said(ask({{"lora", {{{"name", "a"}, {"scale", 0}}}}})), base);
  EXPECT_NE(said(ask({{"model", "b"}})), a);
  EXPECT_EQ(ask({{"model", "z"}}).status, 404);
  EXPECT_EQ(ask({{"model", "tiny:z"}}).status, 404);
  for (const char* field : {"lora", "adapter"}) {
    const Reply none = ask({{field, field == std::string("lora") ? json{{{"name", "z"}}} : json("z")}});
    EXPECT_EQ(none.status, 404);
    const json error = none.json().at("error");
    EXPECT_EQ(error.at("code"), "adapter_not_found");
    EXPECT_EQ(error.at("param"), field);
    EXPECT_EQ(error.at("message"), "there is no adapter 'z'; there are 'a', 'b'");
  }
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
  for (const char* path : {"../a", "/etc", "absent", "a/adapters.safetensors", "hf://org/name"}) {
    const Reply refused = load(path);
    EXPECT_EQ(refused.status, path == std::string("absent") ? 404 : 400) << path;
    EXPECT_EQ(refused.json().at("error").at("code"), path == std::string("absent")          ? "adapter_not_found"
                                                     : path == std::string("hf://org/name") ? "invalid_value"
                                                                                            : "bad_request");
    EXPECT_EQ(refused.json().at("error").at("param"), "lora_path") << path;
  }
  EXPECT_EQ(load((folder_ / "a").string()).status, 200) << "absolute, and below the root";
  std::filesystem::create_directories(folder_ / "empty");
  const Reply empty = load("empty", {{"load_inplace", true}});
  EXPECT_EQ(empty.status, 400);
  EXPECT_NE(empty.body.find("[empty] "), std::string::npos) << "by the name that was asked for: " << empty.body;
  EXPECT_EQ(server.post("/v1/load_lora_adapter", {{"lora_name", "../x"}, {"lora_path", "a"}}).status, 400);
  EXPECT_EQ(
      server.post("/v1/load_lora_adapter", {{"lora_name", "tiny"}, {"lora_path", "a"}, {"load_inplace", true}}).status,
      409);
  body.erase("model");
  EXPECT_EQ(said(server.post("/v1/chat/completions", body)), base);
}

TEST_F(WithAdapters, NothingButTheBaseIsCalledDefault) {
  TinyServer server(setup_);
  json body = chat_of("Who are you?", 16);
  const std::string base = said(server.post("/v1/chat/completions", body));
  for (const std::string name : {"default", "default_model"}) {
    const Reply refused =
        server.post("/v1/load_lora_adapter", {{"lora_name", name}, {"lora_path", "a"}, {"load_inplace", true}});
    EXPECT_EQ(refused.status, 409) << refused.body;
    EXPECT_EQ(refused.json().at("error").at("code"), "adapter_exists");
    body["model"] = name;
    EXPECT_EQ(said(server.post("/v1/chat/completions", body)), base);
    EXPECT_EQ(server.get("/v1/models/" + name).json().at("id"), "tiny");
  }
  setup_.adapters.push_back({"default", load_adapter(local(folder_ / "a"), {.scale = {}, .name = "default"})});
  EXPECT_THROW(TinyServer{setup_}, Error);
}

TEST_F(WithAdapters, ARootMayBeRelativeAndAPathBelowItWhole) {
  setup_.options.adapter_root = std::filesystem::relative(folder_.path());
  TinyServer server(setup_);
  const std::string whole = std::filesystem::canonical(folder_ / "c").string();
  for (const std::string& path : {whole, (*setup_.options.adapter_root / "c").string(), std::string("c")}) {
    const Reply loaded =
        server.post("/v1/load_lora_adapter", {{"lora_name", "x"}, {"lora_path", path}, {"load_inplace", true}});
    EXPECT_EQ(loaded.status, 200) << path << ": " << loaded.body;
  }
  for (const std::string& path : {whole + "/../../..", std::string("/etc")})
    EXPECT_EQ(server.post("/v1/load_lora_adapter", {{"lora_name", "y"}, {"lora_path", path}}).status, 400) << path;
}

TEST_F(WithAdapters, ARootMayEndWithASlash) {
  setup_.options.adapter_root = folder_.path().string() + "//";
  TinyServer server(setup_);
  for (const std::string& path : {(folder_ / "c").string(), std::string("c")}) {
    const Reply loaded =
        server.post("/v1/load_lora_adapter", {{"lora_name", "x"}, {"lora_path", path}, {"load_inplace", true}});
    EXPECT_EQ(loaded.status, 200) << path << ": " << loaded.body;
  }
}

/// A Hub that takes connections, and never says a word.
class SilentHub {
 public:
  SilentHub() : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    EXPECT_EQ(::bind(socket_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(::listen(socket_, 8), 0);
    EXPECT_EQ(::getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    ::setenv("HF_ENDPOINT", ("http://127.0.0.1:" + std::to_string(ntohs(address.sin_port))).c_str(), 1);
    ::setenv("HF_HUB_ETAG_TIMEOUT", "3600", 1);
  }
  ~SilentHub() {
    ::unsetenv("HF_ENDPOINT");
    ::unsetenv("HF_HUB_ETAG_TIMEOUT");
    ::close(socket_);
  }
  /// Until somebody asks.
  void wait() const {
    pollfd asked{.fd = socket_, .events = POLLIN, .revents = 0};
    EXPECT_EQ(::poll(&asked, 1, 60'000), 1);
  }

 private:
  const int socket_;
};

TEST_F(WithAdapters, ADownloadThatHangsHoldsUpNoEnd) {
  const SilentHub hub;
  ::setenv("HF_HUB_CACHE", (folder_ / "cache").c_str(), 1);
  setup_.options.allow_hub = true;
  auto server = std::make_unique<TinyServer>(setup_);
  const json body = {{"lora_name", "x"}, {"lora_path", "hf://org/name"}};
  const TinyServer::Asked hangs = server->begin("/v1/load_lora_adapter", body);
  hub.wait();
  const Reply busy = server->post("/v1/load_lora_adapter", body);
  EXPECT_EQ(busy.status, 429);
  EXPECT_EQ(busy.json().at("error").at("code"), "adapter_busy");
  EXPECT_EQ(busy.headers.at("retry-after"), std::to_string(kind_of(Refusal::adapter_busy).retry_after));
  server.reset();  // else for an hour
  EXPECT_TRUE(hangs.exchange->wait_until_ended());
  EXPECT_EQ(hangs.exchange->status(), 503);
  ::unsetenv("HF_HUB_CACHE");
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

}  // namespace
}  // namespace bumblebee::serve
