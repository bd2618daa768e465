// Building it and asking it.
#include "tests/serve/core/tiny_server.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <random>
#include <sstream>
#include <thread>

namespace bumblebee::serve {

namespace {

const Repository& tiny() {
  static const Repository repository = local(BB_TEST_DATA "/apps/tiny");
  return repository;
}

}  // namespace

TestFolder::TestFolder() {
  static std::atomic<int> count = 0;
  path_ = std::filesystem::temp_directory_path() /
          ("bb_serve_" + std::to_string(::getpid()) + "_" + std::to_string(count++));
  std::filesystem::create_directories(path_);
}

TestFolder::~TestFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void write_tiny_adapter(const std::filesystem::path& folder, uint32_t seed) {
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "adapter_config.json")
      << R"({"fine_tune_type": "lora", "num_layers": -1, "lora_parameters": {"rank": 2, "scale": 2.0, "dropout": 0.0,)"
      << R"( "keys": ["self_attn.q_proj", "mlp.down_proj"]}})";
  nlohmann::ordered_json header;
  std::string data;
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 0.3F);
  const auto add = [&](const std::string& name, int rows, int columns) {
    const size_t begin = data.size();
    for (int i = 0; i < rows * columns; ++i) {
      const float value = normal(random);
      data.append(reinterpret_cast<const char*>(&value), sizeof value);
    }
    header[name] = {{"dtype", "F32"}, {"shape", {rows, columns}}, {"data_offsets", {begin, data.size()}}};
  };
  for (int layer = 0; layer < 2; ++layer) {
    const std::string at = "model.layers." + std::to_string(layer);
    add(at + ".mlp.down_proj.lora_a", 96, 2);
    add(at + ".mlp.down_proj.lora_b", 2, 64);
    add(at + ".self_attn.q_proj.lora_a", 64, 2);
    add(at + ".self_attn.q_proj.lora_b", 2, 64);
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t size = text.size();
  std::ofstream out(folder / "adapters.safetensors", std::ios::binary);
  out.write(reinterpret_cast<const char*>(&size), sizeof size);
  out << text << data;
}

std::vector<nlohmann::json> Reply::events(bool* done) const {
  std::vector<nlohmann::json> out;
  if (done) *done = false;
  std::istringstream lines(body);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("data: ")) continue;
    if (line == "data: [DONE]") {
      if (done) *done = true;
      continue;
    }
    out.push_back(nlohmann::json::parse(line.substr(6)));
  }
  return out;
}

std::string Reply::text(int index) const {
  std::string text;
  for (const nlohmann::json& event : events()) {
    for (const nlohmann::json& choice : event.value("choices", nlohmann::json::array())) {
      if (choice.at("index") != index) continue;
      if (choice.contains("text")) text += choice.at("text").get<std::string>();
      if (choice.contains("delta") && choice["delta"].contains("content") && choice["delta"]["content"].is_string())
        text += choice["delta"]["content"].get<std::string>();
    }
  }
  return text;
}

const Model& TinyServer::model() {
  static const Model model = [] {
    ModelOptions options;
    options.threads = 2;
    return load_model(tiny(), options);
  }();
  return model;
}

const Tokenizer& TinyServer::tokenizer() {
  static const Tokenizer tokenizer = load_tokenizer(tiny());
  return tokenizer;
}

TinyServer::TinyServer(Setup setup) : setup_(std::move(setup)) {
  ServerOptions options = setup_.options;
  if (options.model_name.empty()) options.model_name = "tiny";
  options.log = [this](std::string_view line) {
    const std::lock_guard lock(mutex_);
    log_.emplace_back(line);
  };
  application_ = std::make_unique<Application>(options, true, [] { return HttpStats{}; });
  if (setup_.serve) serve();
}

void TinyServer::serve() {
  text::GenerationOptions options = setup_.generation;
  if (options.limits.batch_size == 1) options.limits.batch_size = 8;
  if (options.limits.sequence_length == 0) options.limits.sequence_length = 4096;
  if (options.kv_bytes == 0) options.kv_bytes = 64 << 20;
  application_->serve(model(), tokenizer(), load_generation_config(tiny(), tokenizer()), options, setup_.adapters);
}

TinyServer::Asked TinyServer::begin(const std::string& method, const std::string& path, std::string body,
                                    Headers headers) {
  HttpHead head;
  head.method = method;
  head.path = path;
  head.peer = "127.0.0.1";
  head.headers = std::move(headers);
  const auto has = [&](const std::string& name) {
    for (const auto& [key, value] : head.headers) {
      if (key == name) return true;
    }
    return false;
  };
  if (!has("host")) head.headers.emplace_back("host", "127.0.0.1:8080");
  if (method == "POST" && !has("content-type")) head.headers.emplace_back("content-type", "application/json");
  head.content_length = body.size();
  Asked asked{.id = ++ids_, .exchange = std::make_shared<FakeExchange>(), .refused = application_->on_head(head)};
  if (!asked.refused) application_->on_request(asked.id, std::move(head), std::move(body), asked.exchange);
  return asked;
}

TinyServer::Asked TinyServer::begin(const std::string& path, const nlohmann::json& body, Headers headers) {
  return begin("POST", path, body.dump(), std::move(headers));
}

void TinyServer::leave(const Asked& asked) {
  asked.exchange->leave();
  application_->on_gone(asked.id);
}

Reply TinyServer::ask(const std::string& method, const std::string& path, const std::string& body, Headers headers) {
  const Asked asked = begin(method, path, body, std::move(headers));
  Reply reply;
  if (asked.refused) {
    reply.status = asked.refused->status;
    reply.body = asked.refused->body;
    for (const auto& [name, value] : asked.refused->headers) reply.headers[name] = value;
    return reply;
  }
  EXPECT_TRUE(asked.exchange->wait_until_ended()) << path << " was not answered";
  reply.status = asked.exchange->status();
  reply.body = asked.exchange->body();
  for (const auto& [name, value] : asked.exchange->headers()) reply.headers[name] = value;
  return reply;
}

double TinyServer::metric(const std::string& name) {
  const std::string text = get("/metrics").body;
  const size_t at = text.find("\nbumblebee_" + name + " ");
  if (at == std::string::npos) {
    ADD_FAILURE() << "no metric " << name;
    return -1;
  }
  return std::stod(text.substr(text.find(' ', at + 1) + 1));
}

bool TinyServer::wait_until_idle() {
  for (int i = 0; i < 3000; ++i) {
    if (metric("num_requests_running") == 0 && metric("num_requests_waiting") == 0 &&
        metric("kv_pages{state=\"used\"}") == 0 && metric("requests_in_flight") == 0)
      return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

std::vector<std::string> TinyServer::log() const {
  EXPECT_TRUE(application_->flush_log(std::chrono::seconds(60)));
  const std::lock_guard lock(mutex_);
  return log_;
}

nlohmann::json chat_of(const std::string& text, int max_tokens) {
  return {{"messages", {{{"role", "user"}, {"content", text}}}}, {"max_tokens", max_tokens}};
}

nlohmann::json long_chat(const std::string& text, int tokens) {
  nlohmann::json body = chat_of(text, tokens);
  body["ignore_eos"] = true;
  return body;
}

nlohmann::json streamed(nlohmann::json body) {
  body["stream"] = true;
  return body;
}

std::string said(const Reply& reply, int choice) {
  if (reply.status != 200) return "status " + std::to_string(reply.status) + ": " + reply.body;
  const nlohmann::json one = reply.json().at("choices").at(size_t(choice));
  return one.contains("text") ? one.at("text").get<std::string>() : one.at("message").at("content").dump();
}

}  // namespace bumblebee::serve
