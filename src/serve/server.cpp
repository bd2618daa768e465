// The public class: an application and its transport.
#include "bumblebee/server.h"

#include <arpa/inet.h>

#include <algorithm>
#include <array>
#include <thread>

#include "base/deadline.h"
#include "base/error.h"
#include "serve/application.h"
#include "serve/http/http.h"

namespace bumblebee {

namespace serve {

namespace {

bool is_address(int family, const std::string& text) {
  std::array<unsigned char, 16> out{};
  return ::inet_pton(family, text.c_str(), out.data()) == 1;
}

std::vector<std::string> addresses_of(const std::string& host) {
  if (host == "localhost") return {"127.0.0.1"};
  if (!is_address(AF_INET, host) && !is_address(AF_INET6, host))
    throw Error(ErrorCode::bad_request, "serve",
                cat("host: expected an address such as 127.0.0.1, or localhost, got '", host, "'"));
  return {host};
}

bool is_loopback(const std::string& address) { return address.starts_with("127.") || address == "::1"; }

ServerOptions checked(ServerOptions options) {
  const std::vector<std::string> addresses = addresses_of(options.host);
  const bool loopback = std::all_of(addresses.begin(), addresses.end(), is_loopback);
  if (!loopback && options.api_key_file.empty() && !options.insecure)
    throw Error(ErrorCode::bad_request, "serve",
                cat("host: expected keys for ", options.host,
                    ", which others can reach: api_key_file names their file, --insecure does without"));
  if (options.tls_certificate.empty() != options.tls_key.empty())
    throw Error(ErrorCode::bad_request, "serve", "tls_certificate: expected it and tls_key, got one of them");
  if (options.port < 0 || options.port > 65535)
    throw Error(ErrorCode::bad_request, "serve", cat("port: expected 0 to 65535, got ", options.port));
  if (options.max_body_bytes > ServerOptions().max_body_bytes)
    throw Error(ErrorCode::bad_request, "serve",
                cat("max_body_bytes: expected at most ", ServerOptions().max_body_bytes,
                    ", which is what is read of one", " request, got ", options.max_body_bytes));
  std::error_code unknown;
  if (options.adapter_root && !std::filesystem::is_directory(*options.adapter_root, unknown))
    throw Error(ErrorCode::bad_file, options.adapter_root->string(), "expected a directory with adapters, found none");
  return options;
}

HttpOptions http_options(const ServerOptions& options) {
  HttpOptions http;
  http.addresses = addresses_of(options.host);
  http.port = options.port;
  http.tls_certificate = options.tls_certificate;
  http.tls_key = options.tls_key;
  http.max_connections = options.max_connections;
  http.max_connections_per_address = options.max_connections_per_address;
  http.write_stall = options.write_stall;
  http.max_body_bytes = options.max_body_bytes;
  http.max_bodies_bytes = options.max_bodies_bytes;
  http.threads = std::thread::hardware_concurrency() > 4 ? 2 : 1;
  return http;
}

}  // namespace

class ServerState {
 public:
  explicit ServerState(ServerOptions options)
      : application_(options, is_loopback(addresses_of(options.host).front()),
                     [this] { return started_ ? http_->stats() : HttpStats{}; }),
        http_(start_http(http_options(options), application_)) {
    started_ = true;
  }
  ~ServerState() { drain(std::chrono::milliseconds(0)); }

  int port() const { return http_->port(); }
  Application& application() { return application_; }

  void drain(std::chrono::milliseconds grace) {
    using std::chrono::milliseconds;
    const auto latest = from_now(grace);
    application_.start_draining();
    http_->start_closing();
    application_.drain(grace);
    // Answers are complete; what is left is bytes that clients have yet to take.
    const auto left = std::chrono::duration_cast<milliseconds>(latest - std::chrono::steady_clock::now());
    http_->close(std::max(milliseconds(500), left));
  }
  void reload() {
    application_.reload_keys([this] { http_->reload_tls(); });
  }

 private:
  std::atomic<bool> started_ = false;
  Application application_;
  std::unique_ptr<HttpServer> http_;
};

}  // namespace serve

Server::Server(ServerOptions options)
    : state_(std::make_unique<serve::ServerState>(serve::checked(std::move(options)))) {}

Server::~Server() = default;

int Server::port() const { return state_->port(); }

ServingReport Server::serve(const Model& model, const Tokenizer& tokenizer, const GenerationConfig& config,
                            text::GenerationOptions options, const std::vector<NamedAdapter>& adapters) {
  return state_->application().serve(model, tokenizer, config, std::move(options), adapters);
}

void Server::drain(std::chrono::milliseconds grace) { state_->drain(grace); }

void Server::reload() { state_->reload(); }

}  // namespace bumblebee
