// What is decided on the I/O thread, and the life of the whole.
#include "serve/application.h"

#include <algorithm>

#include "base/ascii.h"
#include "base/blake2b.h"
#include "base/deadline.h"
#include "base/error.h"
#include "base/hex.h"
#include "base/log.h"
#include "bumblebee/version.h"
#include "serve/random_id.h"

namespace bumblebee::serve {

namespace {

constexpr size_t kLeastReading = 256;  // so many requests may wait to be read, whatever may wait for its answer

int worker_count() { return std::max(1, int(std::thread::hardware_concurrency()) / 4); }

HttpResponse json(int status, std::string body) {
  return {status, {{"content-type", "application/json"}}, std::move(body)};
}

/// What a client may call its request: it comes back, and into the log.
bool good_request_id(std::string_view id) {
  return !id.empty() && id.size() <= 128 &&
         std::all_of(id.begin(), id.end(), [](char c) { return c > 0x20 && c < 0x7F; });
}

bool is_json(const HttpHead& head) {
  const std::optional<std::string_view> type = head.header("content-type");
  if (!type) return false;
  const std::string name = lower(trimmed(type->substr(0, type->find(';'))));
  return name == "application/json" || (name.starts_with("application/") && name.ends_with("+json"));
}

}  // namespace

Application::Application(ServerOptions options, bool loopback, std::function<HttpStats()> http)
    : options_(std::move(options)),
      loopback_(loopback),
      http_(std::move(http)),
      guard_(options_, loopback),
      log_(options_.log),
      calls_(metrics_, log_),
      administration_(1, 1, options_.max_bodies_bytes),
      workers_(worker_count(), kLeastReading, options_.max_bodies_bytes),
      clock_([this] { keep_time(); }) {}

Application::~Application() {
  drain(std::chrono::milliseconds(0));
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  stop_.notify_all();
  clock_.join();
}

std::shared_ptr<Application::Live> Application::live() const {
  const std::lock_guard lock(mutex_);
  return live_;
}

ServingReport Application::serve(const Model& model, const Tokenizer& tokenizer, const GenerationConfig& config,
                                 text::GenerationOptions options, const std::vector<NamedAdapter>& adapters) {
  if (live()) throw Error(ErrorCode::bad_request, "serve", "expected to be called once: a server has one model");
  const ModelFormats formats = detect_formats(tokenizer, options_.tool_parser, options_.reasoning_parser);
  const ModelInfo& info = model.info();
  const std::string name = options_.model_name.empty() ? info.architecture : options_.model_name;
  options.on_step = [this] { calls_.flush(); };
  text::Generation generation = text::generation(model, tokenizer, config, options);
  const text::GenerationLimits limits = generation.limits();

  RequestRules rules;
  rules.config = config;
  rules.config.max_new_tokens = kNoLimit;  // no limit named means the rest of the context
  rules.config.max_length.reset();
  rules.context = limits.sequence_length;
  rules.vocab_size = std::min(info.vocab, tokenizer.vocab_size());
  rules.developer_role = has_developer_role(tokenizer.chat_template());
  rules.null_content = takes_null_content(tokenizer);
  rules.thought_beside_content = takes_thought_beside_content(tokenizer);
  const ToolsPlace tools_place = place_of_tools(tokenizer);
  rules.tools_in_message = tools_place == ToolsPlace::message;
  rules.shows_tools = tools_place != ToolsPlace::nowhere || formats.tools != ToolFormat::none;
  rules.chat_template = tokenizer.chat_template();
  if (tools_place == ToolsPlace::nowhere && formats.tools != ToolFormat::none) {
    note("chat template", "tools: expected it to show them to the model, got the same prompt with and without: ",
         "a template file that does, or the system message's text, must bring them");
  }
  rules.strict = options_.strict;

  Blake2b hash(8);
  const std::string facts =
      cat(name, '\n', info.architecture, ' ', info.parameters, ' ', info.weight_bytes, ' ', version(), ' ', commit());
  hash.update(std::as_bytes(std::span(facts)));
  std::array<uint8_t, 8> digest{};
  hash.finish(digest);
  const auto now = std::chrono::system_clock::now().time_since_epoch();

  Served served{.model = model,
                .tokenizer = tokenizer,
                .generation = std::move(generation),
                .rules = std::move(rules),
                .formats = formats,
                .name = name,
                .fingerprint = "fp_" + hex(digest),
                .reasoning_field = options_.reasoning_field,
                .created = std::chrono::duration_cast<std::chrono::seconds>(now).count(),
                .bytes = [tokenizer](int32_t token) -> std::string {
                  if (token >= tokenizer.vocab_size()) return "";  // a row of the model that no token has
                  std::optional<std::string> bytes = tokenizer.bytes_of(token);
                  return bytes ? std::move(*bytes) : tokenizer.token_of(token);
                }};
  auto fresh = std::make_shared<Live>(std::move(served), options_.max_adapters, options);
  for (const NamedAdapter& one : adapters) {
    if (!Adapters::good_name(one.name))
      throw Error(ErrorCode::bad_request, "adapter",
                  cat("expected a name of letters, digits and ._-, got '", one.name, "'"));
    model.prepare_adapters({one.adapter});
    try {
      fresh->adapters.put(one.name, one.adapter, one.name, {});
    } catch (const ApiError& error) {
      throw Error(ErrorCode::bad_request, "adapter", error.what());
    }
  }
  workers_.allow(std::max(kLeastReading, size_t(options.max_waiting)));
  {
    const std::lock_guard lock(mutex_);
    live_ = std::move(fresh);
  }
  return {.model = name,
          .tool_parser = std::string(to_string(formats.tools)),
          .tool_parser_why = formats.tools_why,
          .reasoning_parser = formats.reasoning ? "think" : "none",
          .reasoning_parser_why = formats.reasoning_why,
          .limits = limits};
}

void Application::drain(std::chrono::milliseconds grace) {
  start_draining();
  const Call::Clock::time_point latest = from_now(grace);
  const std::shared_ptr<Live> now = live();
  if (now) {
    // What was read already is accepted or refused by now; what is not is refused when it is submitted.
    now->served.generation.drain(grace);
    calls_.wait_until_empty(std::max(latest, Call::Clock::now() + std::chrono::milliseconds(200)));
  }
  calls_.refuse_all(ApiError(Refusal::draining, "the server is shutting down; this answer is not complete"));
  drained_ = true;  // what is still being downloaded is for nobody
  (void)log_.flush(std::chrono::milliseconds(100));
}

Headers Application::common_headers(const HttpHead& head, std::string& request_id) const {
  const std::optional<std::string_view> sent = head.header("x-request-id");
  request_id = sent && good_request_id(*sent) ? std::string(*sent) : "req-" + random_id();
  Headers headers = guard_.cors(head);
  headers.emplace_back("x-request-id", request_id);
  return headers;
}

std::optional<HttpResponse> Application::on_head(const HttpHead& head) noexcept {
  const Call::Clock::time_point started = Call::Clock::now();
  const RouteId* route = nullptr;
  std::optional<HttpResponse> response;
  std::string id;
  const char* code = "";
  try {
    try {
      response = decide(head, route);
    } catch (...) {
      const ApiError error = current_api_error();
      code = error.kind().code;
      response = error_response(error);
      if (const Match found = match(head.method, head.path); found.kind == Match::Kind::wrong_method)
        response->headers.emplace_back("allow", found.allow);
    }
    if (!response) return std::nullopt;
    for (auto& header : common_headers(head, id)) response->headers.push_back(std::move(header));
  } catch (...) {
    response.emplace();
    response->status = 503;
  }
  calls_.answered_on_head({.head = head, .route = route, .id = id, .started = started}, response->status, code);
  return response;
}

HttpResponse Application::on_broken(int status, std::string_view why) noexcept {
  HttpResponse response;
  const char* code = "";
  try {
    const Refusal refusal = status == 413   ? Refusal::body_too_large
                            : status == 503 ? Refusal::queue_full
                                            : Refusal::bad_request;
    code = kind_of(refusal).code;
    response = error_response(ApiError(refusal, std::string(why)));
  } catch (...) {  // the status says it too
  }
  response.status = status;
  const HttpHead none;
  calls_.answered_on_head({.head = none, .route = nullptr, .id = {}, .started = Call::Clock::now()}, status, code);
  return response;
}

/// Throws ApiError where the request may not go on.
std::optional<HttpResponse> Application::decide(const HttpHead& head, const RouteId*& route) {
  if (const std::optional<ApiError> denied = guard_.check_origin(head)) throw *denied;
  const Match found = match(head.method, head.path);
  if (found.kind == Match::Kind::no_such_path)
    throw ApiError(Refusal::no_route,
                   cat("there is no ", head.path.substr(0, 200), " here; docs/serving.md lists what there is"));
  route = &found.route->id;
  if (found.kind == Match::Kind::options) {
    HttpResponse response{204, guard_.cors_preflight(head, found.allow), ""};
    response.headers.emplace_back("allow", found.allow);
    return response;
  }
  if (found.kind == Match::Kind::wrong_method)
    throw ApiError(Refusal::method, cat("expected ", found.allow, ", got ", head.method.substr(0, 16)));
  Caller caller;
  if (const std::optional<ApiError> denied = guard_.check_key(head, found.route->scope, caller)) throw *denied;
  const std::shared_ptr<Live> now = live();
  if (std::optional<HttpResponse> answer = answer_at_once(found, now.get())) return answer;
  refuse_what_cannot_be_done(head, *found.route, now.get());
  return std::nullopt;
}

std::optional<HttpResponse> Application::answer_at_once(const Match& found, Live* now) {
  const RouteId id = found.route->id;
  if (id == RouteId::health || id == RouteId::ready) return health(id == RouteId::ready, now);
  if (id == RouteId::version) return json(200, cat("{\"version\":\"", version(), "\",\"commit\":\"", commit(), "\"}"));
  if (id == RouteId::metrics)
    return HttpResponse{200, {{"content-type", "text/plain; version=0.0.4; charset=utf-8"}}, metrics_text(now)};
  if (found.route->method != "GET") return std::nullopt;
  if (!now) throw ApiError(Refusal::loading, "the model is being loaded");
  if (id == RouteId::list_adapters) return json(200, adapters_answer(now->adapters));
  const Served& served = now->served;
  const auto entry = [&](const std::string& name, const ServedAdapter* adapter) {
    ModelEntry model{.id = name,
                     .root = served.name,
                     .parent = {},
                     .created = served.created,
                     .max_model_len = served.rules.context};
    if (!adapter) return model;
    model.root = adapter->source;
    model.parent = served.name;
    model.created = std::chrono::duration_cast<std::chrono::seconds>(adapter->loaded.time_since_epoch()).count();
    return model;
  };
  if (id == RouteId::model) {
    if (now->adapters.is_base(found.argument)) return json(200, model_answer(entry(served.name, nullptr)));
    (void)now->adapters.choose(found.argument, "", {});  // throws for one that there is not
    const std::string prefix = served.name + ":";
    const std::string& name = found.argument;
    const auto adapter = now->adapters.find(name.starts_with(prefix) ? name.substr(prefix.size()) : name);
    if (!adapter) throw ApiError(Refusal::model_not_found, cat("there is no model '", name.substr(0, 200), "'"));
    return json(200, model_answer(entry(name, adapter.get())));
  }
  std::vector<ModelEntry> models = {entry(served.name, nullptr)};
  for (const std::shared_ptr<const ServedAdapter>& one : now->adapters.list())
    models.push_back(entry(one->name, one.get()));
  return json(200, models_answer(models));
}

HttpResponse Application::health(bool ready, Live* now) const {
  if (draining_) return json(503, R"({"status":"draining"})");
  if (!now) return json(503, R"({"status":"loading"})");
  if (ready && queue_full(*now, now->served.generation.stats())) return json(503, R"({"status":"busy"})");
  return json(200, R"({"status":"ok"})");
}

void Application::refuse_what_cannot_be_done(const HttpHead& head, const Route& route, Live* now) {
  if (draining_) throw ApiError(Refusal::draining, "the server is shutting down");
  if (!now) throw ApiError(Refusal::loading, "the model is being loaded");
  if (std::any_of(head.headers.begin(), head.headers.end(),
                  [](const auto& h) { return h.first == "content-encoding" && h.second != "identity"; }))
    throw ApiError(Refusal::media_type, "expected a body without content-encoding");
  if (!is_json(head)) throw ApiError(Refusal::media_type, "expected the header 'content-type: application/json'");
  if (head.content_length.value_or(0) > options_.max_body_bytes)
    throw ApiError(Refusal::body_too_large,
                   cat("expected a body of at most ", options_.max_body_bytes, " bytes, got ", *head.content_length));
  if (!route.generates) return;
  const text::ServingStats stats = now->served.generation.stats();  // one look: what refuses also says for how long
  if (queue_full(*now, stats))
    throw ApiError(Refusal::queue_full, "too many requests wait already; try again later")
        .retry_after(retry_after(stats, ends_per_second_));
}

bool Application::queue_full(const Live& now, const text::ServingStats& stats) const {
  return now.queue.full(stats) || workers_.full();
}

std::string Application::metrics_text(Live* now) const {
  Metrics::Now state;
  text::ServingStats stats;
  if (now) {
    stats = now->served.generation.stats();
    state.serving = &stats;
    state.adapter_count = int(now->adapters.list().size());
  }
  if (http_) state.http = http_();
  state.adapters.bytes = adapter_bytes_;
  state.adapters.host_bytes = adapter_host_bytes_;
  state.requests = calls_.size();
  state.log_lines_dropped = log_.dropped();
  return metrics_.print(state);
}

void Application::on_request(uint64_t id, HttpHead head, std::string body,
                             std::shared_ptr<HttpExchange> exchange) noexcept {
  std::shared_ptr<Call> call;
  try {
    Match found = match(head.method, head.path);
    Caller caller;
    if (found.kind != Match::Kind::route || guard_.check_key(head, found.route->scope, caller)) {
      exchange->respond(error_response(ApiError(Refusal::no_route, "the request changed while it was read")));
      return;
    }
    std::string name;
    Headers headers = common_headers(head, name);
    const bool administer_it = found.route->scope == Scope::admin;
    call = std::make_shared<Call>(id, std::move(head), std::move(found), std::move(caller), std::move(name),
                                  std::move(headers), std::move(exchange));
    calls_.add(call);
    if (options_.log_prompts) call->note([&](CallFacts& facts) { facts.body = body; });
    if (administer_it) {
      if (adapter_busy_.exchange(true)) throw ApiError(Refusal::adapter_busy, "another adapter is being loaded");
      try {
        administration_.finish([this, call, body = std::move(body)] { administer(call, body); });
      } catch (...) {
        adapter_busy_ = false;
        throw;
      }
      return;
    }
    const uint64_t bytes = body.size();
    if (!workers_.post([this, call, body = std::move(body)] { work(call, body); }, bytes))
      throw ApiError(Refusal::queue_full, "too many requests wait to be read; try again later");
  } catch (...) {
    if (call) calls_.refuse_current_exception(call);
  }
}

/// Comments in quiet streams, and figures that are looked at now and then.
void Application::keep_time() {
  using std::chrono::milliseconds;
  const milliseconds quiet = options_.keep_alive;
  const milliseconds pause = std::clamp(quiet / 8, milliseconds(20), milliseconds(1000));
  uint64_t ended = 0;
  Call::Clock::time_point before = Call::Clock::now();
  std::unique_lock lock(mutex_);
  while (!stop_.wait_for(lock, pause, [this] { return stopping_; })) {
    const std::shared_ptr<Live> now = live_;
    lock.unlock();
    calls_.keep_alive(quiet);
    if (now) unload_again(*now);
    const Call::Clock::time_point time = Call::Clock::now();
    const double seconds = std::chrono::duration<double>(time - before).count();
    if (now && seconds >= 1) {
      const text::ServingStats stats = now->served.generation.stats();
      const uint64_t ends = stats.ended_stop + stats.ended_length + stats.ended_cancelled + stats.failed;
      ends_per_second_ = 0.8 * ends_per_second_ + 0.2 * double(ends - ended) / seconds;
      ended = ends;
      before = time;
      const AdapterMemory memory = now->served.model.adapter_memory();
      adapter_bytes_ = memory.bytes;
      adapter_host_bytes_ = memory.host_bytes;
    }
    lock.lock();
  }
}

}  // namespace bumblebee::serve
