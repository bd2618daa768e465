// The whole server in one process over the tiny model, with clients that need no network.
#pragma once

#include <nlohmann/json.hpp>

#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "bumblebee/bumblebee.h"
#include "serve/application.h"
#include "tests/serve/core/fake_exchange.h"

namespace bumblebee::serve {

/// A folder of its own that is gone at the end.
class TestFolder {
 public:
  TestFolder();
  ~TestFolder();
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// Writes an adapter for the tiny model whose values follow from `seed`; strong enough to change what is said.
void write_tiny_adapter(const std::filesystem::path& folder, uint32_t seed);

struct Reply {
  int status = 0;
  std::string body;
  std::map<std::string, std::string> headers;
  nlohmann::json json() const { return nlohmann::json::parse(body); }
  /// The data of a stream's events, without [DONE]; `done`: it was there.
  std::vector<nlohmann::json> events(bool* done = nullptr) const;
  /// A stream's text of one choice.
  std::string text(int index = 0) const;
};

class TinyServer {
 public:
  struct Setup {
    ServerOptions options = {};
    text::GenerationOptions generation = {};
    std::vector<NamedAdapter> adapters = {};
    bool serve = true;
  };
  TinyServer() : TinyServer(Setup{}) {}
  explicit TinyServer(Setup setup);

  Application& application() { return *application_; }
  /// Begins to serve, where the setup did not.
  void serve();

  Reply get(const std::string& path, Headers headers = {}) { return ask("GET", path, "", std::move(headers)); }
  Reply post(const std::string& path, const nlohmann::json& body, Headers headers = {}) {
    return ask("POST", path, body.dump(), std::move(headers));
  }
  Reply ask(const std::string& method, const std::string& path, const std::string& body, Headers headers = {});

  /// A request whose client does as it likes.
  struct Asked {
    uint64_t id = 0;
    std::shared_ptr<FakeExchange> exchange;
    std::optional<HttpResponse> refused;
  };
  Asked begin(const std::string& path, const nlohmann::json& body, Headers headers = {});
  void leave(const Asked& asked);

  /// A line of /metrics.
  double metric(const std::string& name);
  /// Waits until nothing runs, waits or holds pages.
  bool wait_until_idle();
  std::vector<std::string> log() const;

  static const Model& model();
  static const Tokenizer& tokenizer();

 private:
  Asked begin(const std::string& method, const std::string& path, std::string body, Headers headers);

  mutable std::mutex mutex_;
  std::vector<std::string> log_;
  Setup setup_;
  std::unique_ptr<Application> application_;
  std::atomic<uint64_t> ids_ = 0;
};

/// A chat of one message.
nlohmann::json chat_of(const std::string& text, int max_tokens = 12);
/// One that ends at so many tokens, not before.
nlohmann::json long_chat(const std::string& text = "Go on", int tokens = 3000);
nlohmann::json streamed(nlohmann::json body);
/// What a whole answer says, a chat's as JSON; of a refusal, its status and body.
std::string said(const Reply& reply, int choice = 0);

}  // namespace bumblebee::serve
