// An HTTP server with OpenAI's API over one model and its adapters. docs/serving.md has its endpoints, fields and
// limits.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bumblebee/serving.h"

namespace bumblebee {

struct ServerOptions {
  std::string host = "127.0.0.1";  // an address, or "localhost"
  int port = 8080;                 // 0: any that is free
  /// Files with one key a line. Without api_key_file only loopback may be listened on, unless `insecure`.
  std::filesystem::path api_key_file, admin_key_file;
  bool insecure = false;                           // another address than loopback without keys; any Host
  std::filesystem::path tls_certificate, tls_key;  // PEM
  std::vector<std::string> allowed_hosts;          // beside the address itself, for the Host header
  std::vector<std::string> allowed_origins;        // of browsers; CORS is off without

  std::string model_name;                 // in answers and lists; empty: its architecture
  std::string tool_parser = "auto";       // a name of docs/serving.md ("hermes", "glm", ...), "none", "auto"
  std::string reasoning_parser = "auto";  // "think", "none"
  std::string reasoning_field = "reasoning_content";
  std::optional<std::filesystem::path> adapter_root;  // adapters may be loaded from below it
  bool allow_hub = false;                             // and from the Hub
  int max_adapters = 64;
  bool strict = false;  // refuses fields it does not know, instead of ignoring and naming them

  int max_connections = 2048, max_connections_per_address = 256;  // loopback has no limit of its own
  /// Of one request, at most 8 MB; of all that are being sent, and as much again of those that wait to be read.
  uint64_t max_body_bytes = 8 << 20, max_bodies_bytes = 256 << 20;
  std::chrono::milliseconds write_stall{30'000}, keep_alive{10'000};  // keep_alive: between comments in a quiet stream
  std::chrono::milliseconds queue_timeout{0};                         // 0: none
  bool log_prompts = false;
  /// JSON, one line a request, on a thread of its own; empty: nowhere.
  std::function<void(std::string_view line)> log;
};

/// An adapter that the server has from the start.
struct NamedAdapter {
  std::string name;
  Adapter adapter;
};

/// What a server found out about its model.
struct ServingReport {
  std::string model;                                   // by what name requests know it
  std::string tool_parser, tool_parser_why;            // such a name, and what decided
  std::string reasoning_parser, reasoning_parser_why;  // "think", "none"
  text::GenerationLimits limits;
};

namespace serve {
class ServerState;
}

/// A running server. It listens from the constructor on and answers 503 until it has a model. Every method may be
/// called from any thread.
class Server {
 public:
  /// Throws Error(bad_request) for options that exclude each other, Error(bad_file) for keys and certificates that
  /// cannot be read, Error(network) for an address that cannot be had, with what to do.
  explicit Server(ServerOptions options);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  int port() const;
  /// Answers from now on. `options.on_step` is the server's. Throws what generation() and Model::prepare_adapters()
  /// throw, and Error(bad_request) for names of adapters that are none, or are there twice.
  ServingReport serve(const Model& model, const Tokenizer& tokenizer, const GenerationConfig& config,
                      text::GenerationOptions options, const std::vector<NamedAdapter>& adapters = {});
  /// Refuses what is new with 503, lets answers end for `grace`, then ends them with an error and takes no connections
  /// any more. Returns when all are closed.
  void drain(std::chrono::milliseconds grace);
  /// Reads keys and certificates again; keeps those it has where that fails, and throws.
  void reload();

 private:
  std::unique_ptr<serve::ServerState> state_;
};

}  // namespace bumblebee
