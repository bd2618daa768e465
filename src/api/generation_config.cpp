// Reads Hugging Face's generation_config.json (or the generation keys of an old config.json) and checks settings. A key
// that would change the result and is not implemented is refused by name; keys that only steer other programs are left
// alone.
#include "bumblebee/generation_config.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>

#include "api/tokenizer_state.h"
#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mapped_file.h"
#include "base/utf8.h"
#include "bumblebee/tokenizer.h"

namespace bumblebee {
namespace {

constexpr size_t kMaxConfigBytes = size_t{16} << 20;
constexpr int kMaxTokens = 1 << 30;
constexpr int64_t kMaxId = INT32_MAX;

/// What transformers wrote as the default of `max_length` into every file for years. Prompt included, it would refuse
/// any prompt of more than 19 tokens, and no author chose it: read as "not given".
constexpr int kTransformersDefaultMaxLength = 20;

bool given(const Json& json, const char* key) {
  const auto found = json.find(key);
  return found != json.end() && !found->is_null();
}

[[noreturn]] void refuse(const char* key, const Json& value, std::string_view where) {
  throw Error(ErrorCode::unsupported, where,
              cat(key, ": ", brief(value),
                  " changes the result and is not implemented; remove the key or set it to its default"));
}

std::vector<int32_t> ids(const Json& json, const char* key, std::string_view where) {
  std::vector<int32_t> result;
  if (!given(json, key)) return result;
  const auto add = [&](const Json& value) {
    if (value == -1) return;  // how some tools write "none"
    if (!value.is_number_integer() || value < 0 || value > kMaxId) {
      throw Error(ErrorCode::bad_config, where, cat(key, ": expected token ids, got ", brief(value)));
    }
    result.push_back(value.get<int32_t>());
  };
  const Json& value = json.at(key);
  if (value.is_array()) {
    for (const Json& one : value) add(one);
  } else {
    add(value);
  }
  return result;
}

std::optional<int32_t> one_id(const Json& json, const char* key, std::string_view where) {
  const auto all = ids(json, key, where);
  return all.empty() ? std::nullopt : std::optional(all.front());
}

std::optional<int> count(const Json& json, const char* key, std::string_view where) {
  if (!given(json, key)) return std::nullopt;
  const int n = int(require_int(json, key, where, -1, kMaxTokens));
  return n < 0 ? std::nullopt : std::optional(n);  // -1: none
}

/// Refuses `key` unless it is absent, null, false, an empty container or the number that switches it off.
void refuse_unless(const Json& json, const char* key, double off, std::string_view where) {
  if (!given(json, key)) return;
  const Json& value = json.at(key);
  const bool is_off = (value.is_boolean() && !value.get<bool>()) || (value.is_structured() && value.empty()) ||
                      (value.is_number() && value.get<double>() == off);
  if (!is_off) refuse(key, value, where);
}

void refuse_unimplemented(const Json& json, bool sampling, std::string_view where) {
  constexpr std::pair<const char*, double> kAlways[] = {
      {"num_beams", 1},
      {"num_beam_groups", 1},
      {"diversity_penalty", 0},
      {"guidance_scale", 1},
      {"num_return_sequences", 1},
      {"encoder_repetition_penalty", 1},
      {"encoder_no_repeat_ngram_size", 0},
      {"exponential_decay_length_penalty", 0},
      {"constraints", 0},
      {"force_words_ids", 0},
      {"begin_suppress_tokens", 0},
      {"forced_decoder_ids", 0},
      {"watermarking_config", 0},
      {"dola_layers", 0},
      {"token_healing", 0},
      {"max_time", 0},
  };
  for (const auto& [key, off] : kAlways) refuse_unless(json, key, off, where);
  // These two act on encoder-decoder models' first and last token; no field carries them.
  for (const char* key : {"forced_bos_token_id", "forced_eos_token_id"}) {
    if (given(json, key)) refuse(key, json.at(key), where);
  }
  if (!sampling) return;  // transformers applies the rest only when it samples
  refuse_unless(json, "typical_p", 1, where);
  refuse_unless(json, "epsilon_cutoff", 0, where);
  refuse_unless(json, "eta_cutoff", 0, where);
  refuse_unless(json, "top_h", 0, where);
}

Strategy read_strategy(const Json& json, std::string_view where) {
  const int top_k = std::max(0, int(int_or(json, "top_k", where, -1, kMaxId, 0)));  // -1: off, as in vLLM
  const double alpha = number_or(json, "penalty_alpha", where, 0);
  // Absent top_k is off, as in Bumblebee; transformers would fill in 50 here.
  if (bool_or(json, "do_sample", where, false)) {
    return MultinomialSampling{
        .top_k = top_k, .top_p = number_or(json, "top_p", where, 1), .min_p = number_or(json, "min_p", where, 0)};
  }
  if (top_k > 1 && alpha > 0) return ContrastiveSearch{.top_k = top_k, .alpha = alpha};
  return GreedySearch{};
}

void read_lengths(const Json& json, GenerationConfig& config, std::string_view where) {
  config.max_new_tokens = count(json, "max_new_tokens", where);
  if (!config.max_new_tokens) {  // given both, transformers lets max_new_tokens win
    config.max_length = count(json, "max_length", where);
    if (config.max_length == kTransformersDefaultMaxLength) config.max_length.reset();
  }
  config.min_new_tokens = count(json, "min_new_tokens", where);
  if (!config.min_new_tokens) config.min_length = count(json, "min_length", where);
  if (config.min_length == 0) config.min_length.reset();
}

/// Lists of token sequences: those of one token are what we can express.
void read_sequences(const Json& json, GenerationConfig& config, std::string_view where) {
  if (given(json, "bad_words_ids")) {
    const Json& words = json.at("bad_words_ids");
    if (!words.is_array()) refuse("bad_words_ids", words, where);
    for (const Json& word : words) {
      if (!word.is_array() || word.size() != 1 || !word[0].is_number_integer()) refuse("bad_words_ids", words, where);
      for (const int32_t id : ids(Json{{"bad_words_ids", word[0]}}, "bad_words_ids", where))
        config.suppressed_token_ids.push_back(id);
    }
  }
  if (given(json, "sequence_bias")) {
    const Json& biases = json.at("sequence_bias");
    if (!biases.is_array()) refuse("sequence_bias", biases, where);
    for (const Json& one : biases) {
      const bool single =
          one.is_array() && one.size() == 2 && one[0].is_array() && one[0].size() == 1 && one[1].is_number();
      if (!single) refuse("sequence_bias", biases, where);
      for (const int32_t id : ids(Json{{"sequence_bias", one[0]}}, "sequence_bias", where))
        config.logit_bias[id] += one[1].get<double>();
    }
  }
}

void read_stop_strings(const Json& json, GenerationConfig& config, std::string_view where) {
  if (!given(json, "stop_strings")) return;
  const Json& value = json.at("stop_strings");
  const Json list = value.is_string() ? Json::array({value}) : value;
  for (const Json& one : list) {
    if (!one.is_string())
      throw Error(ErrorCode::bad_config, where, cat("stop_strings: expected strings, got ", brief(value)));
    config.stop_strings.push_back(one.get<std::string>());
  }
}

Json read_object(const std::filesystem::path& path) {
  Json json = parse_json(read_text_file(path, kMaxConfigBytes), path.string());
  if (!json.is_object())
    throw Error(ErrorCode::bad_config, path.string(), cat("expected a JSON object, got ", brief(json)));
  return json;
}

/// Nothing for a file that is no JSON: defaults are not worth a model. mlx-lm and transformers go on without it, too.
std::optional<Json> read_if_json(const std::filesystem::path& path) try {
  return read_object(path);
} catch (const Error& error) {
  if (error.code() != ErrorCode::bad_file) throw;
  log(LogLevel::warning, error.what(), "; its settings are left out");
  return {};
}

void require(bool ok, const char* field, const std::string& what) {
  if (!ok) throw Error(ErrorCode::bad_request, "generation config", cat(field, ": ", what));
}

void require_ids(const std::vector<int32_t>& list, const char* field) {
  for (int32_t id : list) require(id >= 0, field, cat("expected token ids, got ", id));
}

void validate_strategy(const Strategy& strategy) {
  if (const auto* sampling = std::get_if<MultinomialSampling>(&strategy)) {
    require(sampling->top_k >= 0, "top_k", cat("expected 0 (off) or more, got ", sampling->top_k));
    require(sampling->top_p > 0 && sampling->top_p <= 1, "top_p",
            cat("expected a number in (0, 1], got ", sampling->top_p));
    require(sampling->min_p >= 0 && sampling->min_p <= 1, "min_p",
            cat("expected a number in [0, 1], got ", sampling->min_p));
  } else if (const auto* contrastive = std::get_if<ContrastiveSearch>(&strategy)) {
    require(contrastive->top_k >= 1 && contrastive->top_k <= 64, "top_k",
            cat("expected 1 to 64 candidates for contrastive search, got ", contrastive->top_k));
    require(contrastive->alpha >= 0 && contrastive->alpha <= 1, "alpha",
            cat("expected a number in [0, 1], got ", contrastive->alpha));
  }
}

void validate_characters(const GenerationConfig& config) {
  require(!config.min_chars || *config.min_chars >= 0, "min_chars",
          cat("expected 0 or more, got ", config.min_chars.value_or(0)));
  require(!config.max_chars || *config.max_chars >= 1, "max_chars",
          cat("expected 1 or more, got ", config.max_chars.value_or(0)));
  if (config.min_chars && config.max_chars) {
    require(*config.min_chars <= *config.max_chars, "min_chars",
            cat("expected at most max_chars (", *config.max_chars, "), got ", *config.min_chars));
  }
}

void validate_lengths(const GenerationConfig& config) {
  require(!(config.max_new_tokens && config.max_length), "max_new_tokens",
          "only one of max_new_tokens and max_length may be given, got both");
  require(!(config.min_new_tokens && config.min_length), "min_new_tokens",
          "only one of min_new_tokens and min_length may be given, got both");
  require(!config.max_new_tokens || *config.max_new_tokens >= 1, "max_new_tokens",
          cat("expected 1 or more, got ", config.max_new_tokens.value_or(0)));
  require(!config.max_length || *config.max_length >= 1, "max_length",
          cat("expected 1 or more, got ", config.max_length.value_or(0)));
  require(!config.min_new_tokens || *config.min_new_tokens >= 0, "min_new_tokens",
          cat("expected 0 or more, got ", config.min_new_tokens.value_or(0)));
  require(!config.min_length || *config.min_length >= 0, "min_length",
          cat("expected 0 or more, got ", config.min_length.value_or(0)));
  if (config.min_new_tokens && config.max_new_tokens) {
    require(*config.min_new_tokens <= *config.max_new_tokens, "min_new_tokens",
            cat("expected at most max_new_tokens (", *config.max_new_tokens, "), got ", *config.min_new_tokens));
  }
  if (config.min_length && config.max_length) {
    require(*config.min_length <= *config.max_length, "min_length",
            cat("expected at most max_length (", *config.max_length, "), got ", *config.min_length));
  }
}

}  // namespace

void validate(const GenerationConfig& config) {
  validate_lengths(config);
  validate_characters(config);
  validate_strategy(config.strategy);
  require(std::isfinite(config.temperature) && config.temperature >= 0, "temperature",
          cat("expected a finite number from 0, got ", config.temperature));
  require(std::isfinite(config.repetition_penalty) && config.repetition_penalty > 0, "repetition_penalty",
          cat("expected a finite number above 0, got ", config.repetition_penalty));
  require(std::isfinite(config.presence_penalty), "presence_penalty", "expected a finite number");
  require(std::isfinite(config.frequency_penalty), "frequency_penalty", "expected a finite number");
  require(config.no_repeat_ngram_length >= 0, "no_repeat_ngram_length",
          cat("expected 0 (off) or more, got ", config.no_repeat_ngram_length));
  for (const auto& [id, bias] : config.logit_bias) {
    require(id >= 0 && std::isfinite(bias), "logit_bias",
            cat("expected a finite bias for a token id, got ", bias, " for ", id));
  }
  require_ids(config.suppressed_token_ids, "suppressed_token_ids");
  require_ids(config.eos_token_ids, "eos_token_ids");
  for (const auto& [index, id] : config.forced_token_ids) {
    require(index >= 0 && id >= 0, "forced_token_ids",
            cat("expected an index and a token id, got ", index, " and ", id));
  }
  require(config.stop_strings.size() <= 64, "stop_strings",
          cat("expected at most 64, got ", config.stop_strings.size()));
  for (const std::string& stop : config.stop_strings) {
    require(!stop.empty() && stop.size() <= 1024, "stop_strings", cat("expected 1 to 1024 bytes, got ", stop.size()));
    require(valid_utf8(stop), "stop_strings", "expected UTF-8");
  }
  require(config.top_logprobs >= 0 && config.top_logprobs <= 20, "top_logprobs",
          cat("expected 0 to 20, got ", config.top_logprobs));
}

namespace {

/// A word of the vocabulary, and no token that stands beside it.
bool is_word(const txt::Tokenizer& tokenizer, int32_t id) {
  const auto& added = tokenizer.added_tokens();
  return tokenizer.token_of(id) && std::none_of(added.begin(), added.end(), [&](const auto& t) { return t.id == id; });
}

/// All that any file says: each of them is stale or incomplete in some repository, and an answer that runs on past its
/// end is worse than one that ends at a token which no answer contains.
std::vector<int32_t> endings(const Json& own, const Json& model, std::string_view own_name, std::string_view model_name,
                             const txt::Tokenizer* tokenizer) {
  std::vector<int32_t> all = ids(own, "eos_token_id", own_name);
  const bool said = !all.empty();
  const auto add = [&](int32_t id) {
    if (std::find(all.begin(), all.end(), id) == all.end()) all.push_back(id);
  };
  const auto text = model.find("text_config");
  for (const Json* level : {&model, text != model.end() && text->is_object() ? &*text : nullptr}) {
    if (level == nullptr) continue;
    for (const int32_t id : ids(*level, "eos_token_id", model_name)) {
      if (said && tokenizer != nullptr && is_word(*tokenizer, id)) {
        // Llama's default of 2, say, in a config for another vocabulary.
        note(model_name, "'eos_token_id' ", id, " left out: an ordinary word of the tokenizer");
        continue;
      }
      add(id);
    }
  }
  if (tokenizer != nullptr && tokenizer->eos_id()) add(*tokenizer->eos_id());
  return all;
}

GenerationConfig read_files(const Repository& repository, const txt::Tokenizer* tokenizer) {
  const auto directory = repository.text_directory();
  const auto own = directory / "generation_config.json", model = directory / "config.json";
  const bool has_own = std::filesystem::exists(own), has_model = std::filesystem::exists(model);
  if (!has_own && !has_model) {
    throw Error(ErrorCode::bad_file, repository.name(),
                cat("no model here: neither generation_config.json nor config.json in ", directory.string()));
  }
  const Json fallback = has_model ? read_object(model) : Json::object();
  const std::optional<Json> found = has_own ? read_if_json(own) : std::nullopt;
  const Json& json = found ? *found : fallback;
  const std::string where = (found ? own : model).string();

  GenerationConfig config;
  config.strategy = read_strategy(json, where);
  refuse_unimplemented(json, std::holds_alternative<MultinomialSampling>(config.strategy), where);
  read_lengths(json, config, where);
  // transformers leaves the temperature alone unless it samples; for greedy search it makes no difference.
  if (!std::holds_alternative<ContrastiveSearch>(config.strategy))
    config.temperature = number_or(json, "temperature", where, 1);
  config.repetition_penalty = number_or(json, "repetition_penalty", where, 1);
  config.no_repeat_ngram_length = std::max(0, int(int_or(json, "no_repeat_ngram_size", where, -1, kMaxTokens, 0)));
  config.suppressed_token_ids = ids(json, "suppress_tokens", where);
  read_sequences(json, config, where);
  read_stop_strings(json, config, where);

  config.eos_token_ids = endings(found ? json : Json::object(), fallback, where, model.string(), tokenizer);
  // These come from whichever file has them; generation_config.json wins.
  const auto source = [&](const char* key) -> const Json& { return given(json, key) ? json : fallback; };
  config.bos_token_id = one_id(source("bos_token_id"), "bos_token_id", where);
  config.pad_token_id = one_id(source("pad_token_id"), "pad_token_id", where);
  try {
    validate(config);
  } catch (const Error& error) {
    throw Error(ErrorCode::bad_config, where, error.what());
  }
  return config;
}

}  // namespace

GenerationConfig load_generation_config(const Repository& repository) {
  std::optional<txt::Tokenizer> tokenizer;
  const std::filesystem::path directory = repository.text_directory();
  if (std::filesystem::exists(directory / "tokenizer.json")) tokenizer = txt::Tokenizer::load(directory);
  return read_files(repository, tokenizer ? &*tokenizer : nullptr);
}

GenerationConfig load_generation_config(const Repository& repository, const Tokenizer& tokenizer) {
  return read_files(repository, &tokenizer.state()->tokenizer);
}

}  // namespace bumblebee
