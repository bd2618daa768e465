// Fields that both endpoints have which generate: how tokens are chosen, how long the answer is, how it is sent.
#include <nlohmann/json.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/error.h"
#include "serve/openai/errors.h"
#include "serve/openai/field_reader.h"

namespace bumblebee::serve {
namespace {

constexpr int64_t kChoices = 8;
constexpr size_t kStops = 16, kStopBytes = 1024, kStopTokens = 64, kBiases = 300, kLoras = 16, kModelNameBytes = 256;
constexpr size_t kSaltBytes = 64;
constexpr int64_t kPriority = 1000;
constexpr int64_t kTopK = 1'000'000;

bool is_name(std::string_view text, std::string_view marks) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || marks.find(c) != marks.npos;
  });
}

void read_stop(const JsonIn& value, Draft& draft) {
  std::vector<std::string>& stops = draft.config.stop_strings;
  const auto add = [&](const JsonIn& in) {
    if (in.string(kStopBytes).empty()) in.out_of_range(cat("a string of 1 to ", kStopBytes, " bytes"));
    stops.push_back(in.string());
  };
  if (value.is_string()) return add(value);
  if (!value.is_array()) value.expected(cat("a string, or an array with 0 to ", kStops, " of them"));
  value.array(0, kStops);
  for (size_t i = 0; i < value.size(); ++i) add(value.at(i));
}

void read_logit_bias(const JsonIn& value, Draft& draft) {
  if (value.object().size() > kBiases) value.out_of_range(cat("an object with at most ", kBiases, " keys"));
  draft.config.logit_bias.clear();
  for (const auto& [key, json] : value->items()) {
    const JsonIn bias = value.member(key, json);
    int32_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id < 0 || id >= draft.rules.vocab_size) {
      throw ApiError(Refusal::invalid_value,
                     cat(bias.path(), ": expected a token id from 0 to ", draft.rules.vocab_size - 1, " as the key"),
                     bias.path());
    }
    if (!draft.config.logit_bias.emplace(id, bias.number(-100, 100)).second) {
      throw ApiError(Refusal::invalid_value, cat(bias.path(), ": expected every token once"), bias.path());
    }
  }
}

void read_stream_options(const JsonIn& value, Draft& draft) {
  value.object();
  // Others, for instance include_obfuscation, change no answer.
  const JsonIn usage = value["include_usage"], continuous = value["continuous_usage_stats"];
  if (!usage.is_null()) draft.request.shape.include_usage = usage.boolean();
  if (!continuous.is_null()) draft.request.shape.continuous_usage = continuous.boolean();
}

void read_cache_salt(const JsonIn& value, Draft& draft) {
  const std::string& salt = value.string(kSaltBytes);
  if (!is_name(salt, "_-")) value.out_of_range(cat("1 to ", kSaltBytes, " of A-Z a-z 0-9 _ -"));
  draft.input.cache_salt = salt;
}

void read_lora(const JsonIn& value, Draft& draft) {
  value.array(0, kLoras);
  for (size_t i = 0; i < value.size(); ++i) {
    const JsonIn part = value.at(i);
    const JsonIn name = part.object()["name"], scale = part["scale"];
    if (name.is_null()) name.missing("an adapter's name");
    LoraPart lora{read_adapter_name(name), 1};
    if (!scale.is_null()) lora.scale = float(scale.number(-100, 100));
    for (const LoraPart& earlier : draft.request.lora) {
      if (earlier.name == lora.name) name.out_of_range("every adapter once");
    }
    draft.request.lora.push_back(std::move(lora));
  }
}

void read_response_format(const JsonIn& value, Draft&) {
  const JsonIn type = value.object()["type"];
  if (type.is_null()) type.missing("\"text\"");
  const std::string& name = type.string();
  if (name == "text") return;
  if (name == "json_object" || name == "json_schema" || name == "grammar" || name == "structural_tag") {
    throw ApiError(Refusal::unsupported_parameter,
                   cat("response_format: ", name, " is not implemented yet, and free text in its place would be wrong"),
                   "response_format");
  }
  type.out_of_range("\"text\"");
}

void read_stop_token_ids(const JsonIn& value, Draft& draft) {
  value.array(0, kStopTokens);
  for (size_t i = 0; i < value.size(); ++i) draft.input.stop_token_ids.push_back(read_token_id(value.at(i), draft));
}

void read_top_k(const JsonIn& value, Draft& draft) {
  draft.sampling.top_k = std::max(0, int(value.integer(-1, kTopK)));  // -1: vLLM's word for off
}

/// -1 is vLLM's and llama.cpp's word for none: who sends it wants another answer each time.
void read_seed(const JsonIn& value, Draft& draft) {
  const int64_t seed = value.integer(INT64_MIN, INT64_MAX);
  if (seed != -1) draft.sampling.seed = uint64_t(seed);
}

void read_repetition_penalty(const JsonIn& value, Draft& draft) {
  const double penalty = value.number(0, 100);
  if (penalty <= 0) value.out_of_range("a number above 0, to 100");
  draft.sampling.repetition_penalty = penalty;
}

/// Penalties see the whole sequence: what asks for less is remembered, and matters beside a penalty. -1 is llama.cpp's
/// word for all of it.
void read_window(const JsonIn& value, Draft& draft) {
  const int64_t tokens = value.integer(-1, INT64_MAX);
  if (tokens >= 0 && tokens < draft.rules.context) draft.windows.push_back(value.path());
}

void refuse_windows(const Draft& draft) {
  const GenerationConfig& config = draft.config;
  const bool repetition = config.repetition_penalty != 1;
  const bool presence = config.presence_penalty != 0, frequency = config.frequency_penalty != 0;
  for (const std::string& field : draft.windows) {
    const bool matters = field == "repetition_context_size"  ? repetition
                         : field == "presence_context_size"  ? presence
                         : field == "frequency_context_size" ? frequency
                                                             : repetition || presence || frequency;
    if (!matters) continue;
    throw ApiError(Refusal::unsupported_parameter,
                   cat(field, ": penalties count the whole sequence here; leave it out, or the penalty"), field);
  }
}

// Values that change nothing: some clients send every setting that they have.
bool is_zero(const OrderedJson& value) { return is_off(value) || (value.is_number() && value == 0); }
bool is_one(const OrderedJson& value) { return value.is_number() && value == 1; }
bool is_negative(const OrderedJson& value) { return is_off(value) || (value.is_number() && value < 0); }
bool is_not_positive(const OrderedJson& value) { return is_off(value) || (value.is_number() && value <= 0); }

/// More than the context is cut, as what does not fit beside the prompt is; -1 is llama.cpp's and LM Studio's word for
/// no limit.
void read_length(const JsonIn& value, const Draft& draft, std::optional<int64_t>& length) {
  const int64_t tokens = value.integer(-1, INT64_MAX);
  if (tokens == 0) value.out_of_range("a whole number from 1, or -1 for no limit");
  if (tokens > 0) length = std::min<int64_t>(tokens, draft.rules.context);
}

}  // namespace

void read_model(const JsonIn& value, Draft& draft) { draft.request.model = value.string(kModelNameBytes); }

int32_t read_token_id(const JsonIn& value, const Draft& draft) {
  return int32_t(value.integer(0, draft.rules.vocab_size - 1));
}

std::string read_adapter_name(const JsonIn& value) {
  const std::string& name = value.string();
  if (name.size() > 64 || !is_name(name, "._-")) value.out_of_range("a name: 1 to 64 of A-Z a-z 0-9 . _ -");
  return name;
}

std::vector<FieldReader> generation_fields() {
  using enum FieldUse;
  return {
      {{"model", accepted, "The model, an adapter's name, or `model:adapter`. Absent: the model"}, read_model},
      {{"max_tokens", accepted,
        "1 or more; what does not fit beside the prompt is cut, as `length`. -1 or absent, as `max_completion_tokens` "
        "is: the rest of the context"},
       [](const JsonIn& v, Draft& d) { read_length(v, d, d.max_tokens); }},
      {{"max_completion_tokens", accepted, "The same; of both, the smaller one counts"},
       [](const JsonIn& v, Draft& d) { read_length(v, d, d.max_completion_tokens); }},
      {{"min_tokens", accepted, "0 to `max_tokens` and what fits beside the prompt: no token ends the answer before"},
       [](const JsonIn& v, Draft& d) { d.min_tokens = v.integer(0, d.rules.context); }},
      {{"temperature", accepted, "0 to 2; 0: always the most likely token. Absent: the model's"},
       [](const JsonIn& v, Draft& d) { d.sampling.temperature = v.number(0, 2); }},
      {{"top_p", accepted, "0 to 1; 0: always the most likely token; 1: off"},
       [](const JsonIn& v, Draft& d) { d.sampling.top_p = v.number(0, 1); }},
      {{"top_k", accepted, "0 or -1: off"}, read_top_k},
      {{"min_p", accepted, "0 to 1; 0: off"}, [](const JsonIn& v, Draft& d) { d.sampling.min_p = v.number(0, 1); }},
      {{"presence_penalty", accepted, "-2 to 2"},
       [](const JsonIn& v, Draft& d) { d.sampling.presence_penalty = v.number(-2, 2); }},
      {{"frequency_penalty", accepted, "-2 to 2"},
       [](const JsonIn& v, Draft& d) { d.sampling.frequency_penalty = v.number(-2, 2); }},
      {{"repetition_penalty", accepted, "Above 0, to 100; 1: off"}, read_repetition_penalty},
      {{"repetition_context_size", accepted,
        "Penalties count the whole sequence: beside one, -1 or the context's size only"},
       read_window},
      {{"presence_context_size", accepted, "The same"}, read_window},
      {{"frequency_context_size", accepted, "The same"}, read_window},
      {{"repeat_last_n", accepted, "The same"}, read_window},
      {{"penalty_last_n", accepted, "The same"}, read_window},
      {{"logit_bias", accepted, "At most 300 token ids, each with -100 to 100"}, read_logit_bias},
      {{"seed", accepted,
        "A whole number of 64 bits with sign. Absent or -1: a random one. The header `x-bumblebee-seed` says which"},
       read_seed},
      {{"stop", accepted, "A string, or at most 16, of 1 to 1,024 bytes each"}, read_stop},
      {{"stop_token_ids", accepted, "At most 64 token ids that end the answer too"}, read_stop_token_ids},
      {{"ignore_eos", accepted, "Goes on after tokens that end the answer"},
       [](const JsonIn& v, Draft& d) { d.input.ignore_eos = v.boolean(); }},
      {{"skip_special_tokens", accepted, "false: control tokens are text"},
       [](const JsonIn& v, Draft& d) { d.input.skip_special_tokens = v.boolean(); }},
      {{"n", accepted, "1 to 8 answers, each with a seed of its own"},
       [](const JsonIn& v, Draft& d) { d.input.n = int(v.integer(1, kChoices)); }},
      {{"best_of", accepted, "Equal to `n` only"},
       [](const JsonIn& v, Draft& d) { d.best_of = v.integer(1, kChoices); }},
      {{"stream", accepted, ""}, [](const JsonIn& v, Draft& d) { d.request.shape.stream = v.boolean(); }},
      {{"stream_options", accepted, "`include_usage`, `continuous_usage_stats`; others are ignored"},
       read_stream_options},
      {{"response_format", accepted, "`{\"type\": \"text\"}` only; `json_object` and `json_schema`: not yet"},
       read_response_format},
      {{"lora", accepted, "At most 16 of `{\"name\", \"scale\"}`, -100 to 100, composed"}, read_lora},
      {{"adapter", accepted, "One adapter by name, instead of `lora`"},
       [](const JsonIn& v, Draft& d) { d.request.adapter = read_adapter_name(v); }},
      {{"priority", accepted, "-1,000 to 1,000; lower is served first. Below 0 only with a key"},
       [](const JsonIn& v, Draft& d) { d.input.priority = int(v.integer(-kPriority, kPriority)); }},
      {{"cache_salt", accepted, "1 to 64 of `A-Z a-z 0-9 _ -`: who shares computed prompts. Changes no answer"},
       read_cache_salt},
      {{"cache_prompt", accepted, "false: computes the prompt anew, and leaves nothing"},
       [](const JsonIn& v, Draft& d) { d.input.cache = v.boolean(); }},
      {{"timings_per_token", accepted, "Every chunk has `timings`"},
       [](const JsonIn& v, Draft& d) { d.request.shape.timings = v.boolean(); }},
      {{"return_token_ids", accepted, "`prompt_token_ids` and `token_ids`"},
       [](const JsonIn& v, Draft& d) { d.request.shape.token_ids = v.boolean(); }},

      {{"user", ignored, ""}},
      {{"metadata", ignored, ""}},
      {{"store", ignored, ""}},
      {{"service_tier", ignored, ""}},
      {{"safety_identifier", ignored, ""}},
      {{"prompt_cache_key", ignored, "The cache needs no help"}},
      {{"prompt_cache_options", ignored, ""}},
      {{"prompt_cache_retention", ignored, ""}},
      {{"prediction", ignored, ""}},
      {{"verbosity", ignored, ""}},
      {{"xtc_threshold", ignored, "Nothing without the setting that it is of, nor are the next ones"}},
      {{"dry_base", ignored, ""}},
      {{"dry_allowed_length", ignored, ""}},
      {{"dry_penalty_last_n", ignored, ""}},
      {{"dry_sequence_breakers", ignored, ""}},
      {{"mirostat_tau", ignored, ""}},
      {{"mirostat_eta", ignored, ""}},
      {{"dynatemp_exponent", ignored, ""}},

      {{"moderation", refused, ""}},
      {{"use_beam_search", refused, ""}},
      {{"penalty_alpha", refused, "Contrastive search is for the library: one such request stops everybody's"},
       nullptr,
       is_zero},
      {{"prompt_logprobs", refused, ""}},
      {{"repeat_penalty", refused, "Use `repetition_penalty`"}, nullptr, is_one},
      {{"n_predict", refused, "Use `max_tokens`"}, nullptr, is_negative},
      {{"bad_words", refused, "Use `logit_bias`"}, nullptr, is_empty},
      {{"allowed_token_ids", refused, ""}, nullptr, is_empty},
      {{"include_stop_str_in_output", refused, ""}},
      {{"truncate_prompt_tokens", refused, "A prompt that is too long is refused"}},
      {{"enable_thinking", refused, "Put it into `chat_template_kwargs`"},
       nullptr,
       [](const OrderedJson&) { return false; }},
      {{"typical_p", refused, "1: off"}, nullptr, is_one},
      {{"xtc_probability", refused, "0: off"}, nullptr, is_zero},
      {{"dry_multiplier", refused, "0: off"}, nullptr, is_zero},
      {{"mirostat", refused, "0: off"}, nullptr, is_zero},
      {{"dynatemp_range", refused, "0: off"}, nullptr, is_zero},
      {{"top_n_sigma", refused, "0 or below: off"}, nullptr, is_not_positive},
      {{"tfs_z", refused, "1: off"}, nullptr, is_one},
      {{"top_a", refused, "0: off"}, nullptr, is_zero},
      {{"epsilon_cutoff", refused, "0: off"}, nullptr, is_zero},
      {{"eta_cutoff", refused, "0: off"}, nullptr, is_zero},
      {{"no_repeat_ngram_size", refused, "0: off"}, nullptr, is_zero},
      {{"guidance_scale", refused, "1: off"}, nullptr, is_one},
      {{"num_beams", refused, "1: off"}, nullptr, is_one},
      {{"stop_regex", refused, ""}, nullptr, is_empty},
      {{"no_stop_trim", refused, ""}},
      // What mlx-lm, LoRAX and SGLang call an adapter: passed over, it would be the base's answer.
      {{"adapters", refused, "Use `model`, `adapter` or `lora`"}, nullptr, is_empty},
      {{"adapter_path", refused, "Use `model`, `adapter` or `lora`"}, nullptr, is_empty},
      {{"adapter_id", refused, "Use `model`, `adapter` or `lora`"}, nullptr, is_empty},
      {{"lora_path", refused, "Use `model`, `adapter` or `lora`"}, nullptr, is_empty},

      {{"grammar", later, ""}},
      {{"json_schema", later, ""}},
      {{"structured_outputs", later, ""}, nullptr, is_empty},
      {{"structural_tag", later, ""}},
      {{"regex", later, ""}},
      {{"ebnf", later, ""}},
      {{"guided_json", later, ""}},
      {{"guided_regex", later, ""}},
      {{"guided_choice", later, ""}},
      {{"guided_grammar", later, ""}},
      {{"guided_whitespace_pattern", later, ""}},
      {{"thinking_token_budget", later, ""}},
  };
}

void finish_generation(Draft& draft) {
  GenerationConfig& config = draft.config;
  if (!draft.request.adapter.empty() && !draft.request.lora.empty()) {
    throw ApiError(Refusal::invalid_value, "adapter: expected one of adapter and lora, got both", "adapter");
  }
  if (draft.best_of && *draft.best_of != draft.input.n) {
    throw ApiError(Refusal::unsupported_parameter,
                   cat("best_of: expected n (", draft.input.n, "), got ", *draft.best_of), "best_of");
  }
  const int64_t limit = std::min(draft.max_tokens.value_or(kNoLimit), draft.max_completion_tokens.value_or(kNoLimit));
  config.max_length.reset();
  config.max_new_tokens = int(limit);
  if (draft.min_tokens) {
    if (*draft.min_tokens > limit) {
      throw ApiError(Refusal::invalid_value,
                     cat("min_tokens: expected 0 to max_tokens (", limit, "), got ", *draft.min_tokens), "min_tokens");
    }
    config.min_length.reset();
    config.min_new_tokens = int(*draft.min_tokens);
  }
  if (std::holds_alternative<ContrastiveSearch>(config.strategy)) config.strategy = GreedySearch{};
  apply(draft.sampling, config);
  refuse_windows(draft);
  draft.input.seed = draft.sampling.seed;
}

}  // namespace bumblebee::serve
