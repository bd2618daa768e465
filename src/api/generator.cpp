// Inputs to requests: adapters, settings, prompt, each checked on the caller's thread before the engine hears of it.
#include "api/generator.h"

#include <algorithm>
#include <utility>

#include "api/answer_sink.h"
#include "api/reaper.h"
#include "api/seeds.h"
#include "api/tokenizer_state.h"
#include "base/error.h"
#include "base/log.h"

namespace bumblebee::text::detail {
namespace {

using std::chrono::milliseconds;

constexpr int kMostAnswers = 64;
constexpr size_t kMostStopTokens = 1024;
constexpr size_t kLongestName = 64;  // of a salt, a class, a client
constexpr milliseconds kLongestTime = std::chrono::hours(24 * 365);

void require(bool ok, const char* field, const std::string& expected) {
  if (!ok) throw Error(ErrorCode::bad_request, "generation", cat(field, ": expected ", expected));
}

void check_time(std::optional<milliseconds> time, const char* field) {
  if (!time) return;
  require(time->count() >= 1 && *time <= kLongestTime, field, cat("1 ms to a year, got ", time->count(), " ms"));
}

/// Its alphabet is small so that a salt can stand in a file name or a log as it is.
bool is_salt(const std::string& salt) {
  return salt.size() <= kLongestName && std::all_of(salt.begin(), salt.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' ||
                  c == '.';
         });
}

void check_input(const Input& input) {
  require(input.n >= 1 && input.n <= kMostAnswers, "n", cat("1 to ", kMostAnswers, ", got ", input.n));
  require(is_salt(input.cache_salt), "cache_salt",
          cat("at most ", kLongestName, " letters, digits, '-', '_' and '.', got ", input.cache_salt.size(), " bytes"));
  require(input.client.size() <= kLongestName, "client",
          cat("at most ", kLongestName, " bytes, got ", input.client.size()));
  require(input.stop_token_ids.size() <= kMostStopTokens, "stop_token_ids",
          cat("at most ", kMostStopTokens, ", got ", input.stop_token_ids.size()));
  check_time(input.queue_timeout, "queue_timeout");
  check_time(input.deadline, "deadline");
}

/// Of what is not the engine's own (engine::check_options).
void check_options(const GenerationOptions& options) {
  require(options.max_active_per_client >= 0, "max_active_per_client",
          cat("0 (no limit) or more, got ", options.max_active_per_client));
  const std::vector<std::string>& keys = options.batch_keys;
  for (auto key = keys.begin(); key != keys.end(); ++key) {
    require(!key->empty() && key->size() <= kLongestName, "batch_keys",
            cat("names of 1 to ", kLongestName, " bytes, got ", key->size()));
    require(std::find(keys.begin(), key, *key) == key, "batch_keys", cat("each once, got '", *key, "' twice"));
  }
}

/// What a step tells is followed by this on the serving's thread, whatever it throws.
std::function<void()> guarded(std::function<void()> on_step) {
  if (!on_step) return nullptr;
  return [on_step = std::move(on_step)] {
    const api::OnServingsThread here;
    try {
      on_step();
    } catch (const std::exception& error) {
      log(LogLevel::error, "on_step threw: what='", error.what(), "'");
    } catch (...) {
      log(LogLevel::error, "on_step threw: what='no std::exception'");
    }
  };
}

/// Options of the engine and its executor, once the sequence length is one that the model and its memory have.
std::shared_ptr<engine::Engine> make_engine(const api::ModelState& model, const GenerationOptions& options) {
  check_options(options);
  const ModelInfo& info = model.info;
  const bool own_chunk = options.prefill_chunk != 0;
  engine::EngineOptions engine{.batch_size = options.limits.batch_size,
                               .sequence_length = options.limits.sequence_length,
                               .prefill_chunk = own_chunk ? options.prefill_chunk : kPromptRows,
                               .prefill_alone = own_chunk ? 0 : model.device->backend().prompt_rows(),
                               .vocab = info.vocab,
                               .d_model = info.hidden,
                               .stretch_beyond = model.model().dims().stretch_beyond,
                               .max_waiting = options.max_waiting,
                               .max_waiting_tokens = options.max_waiting_tokens,
                               .max_active_per_key = options.max_active_per_client,
                               .step_target_ms = options.step_target_ms,
                               .batch_timeout_ms = options.batch_timeout_ms,
                               .prefix_cache = options.prefix_cache,
                               .on_step = guarded(options.on_step)};
  uint64_t bytes = options.kv_bytes > 0 ? options.kv_bytes : exec::default_cache_bytes(*model.device);
  if (engine.sequence_length == 0) {
    // The whole context, or as much of it as the memory for keys and values holds.
    const uint64_t page = std::max<uint64_t>(info.kv_bytes(exec::kPageSize, model.options.kv_type), 1);
    const nn::ModelDims& dims = model.model().dims();
    const uint64_t states = uint64_t(exec::state_count(dims, engine.batch_size, bytes)) * info.state_bytes;
    const uint64_t tokens = (bytes - std::min(bytes, states)) / page * exec::kPageSize;
    engine.sequence_length = int(std::clamp<uint64_t>(tokens, exec::kPageSize, uint64_t(info.context)));
  }
  engine::check_options(engine, info.context);
  auto executor = model.make_executor({.sequences = engine.batch_size,
                                       .sequence_length = engine.sequence_length,
                                       .spare_pages = engine::kSparePages,
                                       .dtype = {},
                                       .bytes = bytes,
                                       .fill = options.kv_bytes > 0});
  const exec::MemoryReport memory = executor->memory();
  log(LogLevel::info, "memory planned: kv_bytes=", uint64_t(memory.pages) * memory.page_bytes, " of=", bytes,
      " pages=", memory.pages, " states=", memory.states, " state_bytes=", memory.state_bytes,
      " sequences=", engine.batch_size, " sequence_length=", engine.sequence_length, " context=", info.context,
      " weight_bytes=", memory.device.weights, " free_bytes=", memory.device.free,
      " adapter_limit_bytes=", model.device->adapters().use().limit);
  return api::share(std::make_unique<engine::Engine>(std::move(executor), engine));
}

}  // namespace

Generator::Generator(const Model& model, const Tokenizer& tokenizer, const GenerationConfig& config,
                     const GenerationOptions& options)
    : model_(model.state()),
      tokenizer_(tokenizer),
      config_(config),
      batch_keys_(options.batch_keys),
      adapters_(options.adapters),
      engine_(make_engine(*model_, options)) {
  set_ = model_->open(adapters_);
}

GenerationLimits Generator::limits() const {
  const exec::MemoryReport memory = engine_->memory();
  return {.sequence_length = engine_->sequence_length(),
          .kv_bytes = uint64_t(memory.pages) * memory.page_bytes + uint64_t(memory.states) * memory.state_bytes};
}

void Generator::set_adapters(const std::vector<WeightedAdapter>& adapters) {
  auto set = model_->open(adapters);  // the old one goes when the lock is gone
  auto copy = adapters;
  const std::lock_guard lock(mutex_);
  adapters_.swap(copy);
  set_.swap(set);
}

/// Of requests that wait, nothing is packed: that comes with their place.
std::vector<lora::AdapterCache::Part> Generator::adapters_of(const Input& input) const {
  if (input.without_adapters && !input.adapters.empty())
    throw Error(ErrorCode::bad_request, "generation", "adapters and without_adapters exclude each other");
  if (input.without_adapters) return {};
  if (!input.adapters.empty()) {
    auto parts = api::parts_of(input.adapters);
    model_->device->adapters().check(parts);
    return parts;
  }
  const std::lock_guard lock(mutex_);
  return api::parts_of(adapters_);
}

GenerationConfig Generator::config_of(const Input& input) const {
  GenerationConfig config = input.config.value_or(config_);
  if (input.ignore_eos) config.eos_token_ids.clear();
  for (const int32_t id : input.stop_token_ids) {
    require(id >= 0 && id < model_->info.vocab, "stop_token_ids",
            cat("ids below the vocabulary of ", model_->info.vocab, ", got ", id));
    config.eos_token_ids.push_back(id);
  }
  validate(config);
  return config;
}

void Generator::require_fits(std::string_view text) const {
  const size_t longest = size_t(tokenizer_.max_token_bytes()), limit = size_t(engine_->sequence_length());
  if (longest == 0 || text.size() / longest < limit) return;
  const size_t least = text.size() / longest;
  throw TooLong("generation",
                cat("prompt: expected fewer tokens than the sequence length of ", limit, ", got ", text.size(),
                    " bytes, which are ", least, " tokens at least; shorten it or raise the sequence length"),
                int64_t(least), int64_t(limit));
}

std::vector<int32_t> Generator::prompt_of(const Input& input) const {
  if (!input.messages.empty()) {
    const txt::RenderedPrompt rendered = api::render(*tokenizer_.state(), input.messages, input.chat);
    require_fits(rendered.text);
    return tokenizer_.state()->tokenizer.encode(rendered);
  }
  if (!input.tokens.empty()) return input.tokens;
  require_fits(input.text);
  // As in mlx-lm, a text that spells its beginning gets no second one.
  const auto& bos = tokenizer_.state()->tokenizer.config().bos_token;
  const bool begins = input.parse_control_tokens && bos && !bos->empty() && input.text.starts_with(*bos);
  return tokenizer_.encode(input.text,
                           {.add_special_tokens = !begins, .parse_control_tokens = input.parse_control_tokens});
}

std::string Generator::key_of(const Input& input, const engine::Request& request) const {
  if (!input.batch_key.empty()) {
    if (std::find(batch_keys_.begin(), batch_keys_.end(), input.batch_key) == batch_keys_.end()) {
      std::string known;
      for (const std::string& key : batch_keys_) known += (known.empty() ? "" : ", ") + key;
      throw Error(ErrorCode::bad_request, "generation",
                  cat("unknown batch key: ", input.batch_key.substr(0, kLongestName),
                      " (expected one of: ", known.empty() ? "none" : known, ")"));
    }
    return "key:" + input.batch_key;
  }
  if (!input.client.empty()) return "client:" + input.client;
  std::string adapters;
  for (const auto& part : request.adapters) adapters += "+" + to_string(part.adapter->id);
  return adapters;
}

Generator::Prepared Generator::prepare(const Input& input) const {
  check_input(input);
  engine_->require_room(input.n);
  Prepared prepared{.request = {},
                    .answers = input.n,
                    .skip_special = input.skip_special_tokens,
                    .queue_timeout = input.queue_timeout,
                    .deadline = input.deadline};
  engine::Request& request = prepared.request;
  request.adapters = adapters_of(input);
  request.key = key_of(input, request);
  request.config = config_of(input);
  request.seed = input.seed ? *input.seed : request.config.seed ? *request.config.seed : api::random_seed();
  request.salt = input.cache_salt;
  request.cache = input.cache;
  request.priority = input.priority;
  request.prompt = prompt_of(input);
  engine_->check(request);
  return prepared;
}

std::shared_ptr<RequestState> Generator::submit(const Prepared& prepared, std::shared_ptr<Listener> listener) const {
  auto state = std::make_shared<RequestState>(prepared.answers, std::move(listener), engine_);
  const auto now = std::chrono::steady_clock::now();
  std::vector<engine::Request> requests(size_t(prepared.answers), prepared.request);
  for (int i = 0; i < prepared.answers; ++i) {
    engine::Request& request = requests[size_t(i)];
    request.seed = api::seed_of(prepared.request.seed, i);
    if (prepared.queue_timeout) request.queue_deadline = now + *prepared.queue_timeout;
    if (prepared.deadline) request.deadline = now + *prepared.deadline;
    request.sink = std::make_shared<api::AnswerSink>(
        state, i, request.seed, int(request.prompt.size()),
        api::AnswerText(tokenizer_.state()->tokenizer, request.config, request.prompt, prepared.skip_special));
  }
  state->submitted(engine_->submit(std::move(requests)));
  return state;
}

}  // namespace bumblebee::text::detail
