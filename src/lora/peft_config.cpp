// Key by key. A key that is not listed is refused when it is set: PEFT adds options that change what an adapter
// computes with every release, and ignoring one runs well and answers wrongly.
#include "lora/peft_config.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <span>
#include <string_view>

#include "base/error.h"
#include "io/quote.h"
#include "lora/adapter_config.h"

namespace bumblebee::lora {
namespace {

constexpr size_t kMostPatterns = 4096, kMostSteps = 400'000;

/// Read elsewhere in this file.
constexpr std::string_view kRead[] = {"alpha_pattern",       "bias",
                                      "ensure_weight_tying", "exclude_modules",
                                      "init_lora_weights",   "layers_pattern",
                                      "layers_to_transform", "lora_alpha",
                                      "lora_bias",           "modules_to_save",
                                      "peft_type",           "r",
                                      "rank_pattern",        "target_modules",
                                      "target_parameters",   "use_dora",
                                      "use_rslora"};

/// About training, initialisation, provenance or memory: the tensors compute the same whatever they say. With
/// fan_in_fan_out only the layout of the base differs, and ours has one layout.
constexpr std::string_view kHarmless[] = {
    "auto_mapping",   "base_model_name_or_path", "corda_config",  "eva_config",
    "fan_in_fan_out", "inference_mode",          "loftq_config",  "lora_dropout",
    "lora_ga_config", "megatron_config",         "megatron_core", "merge_weights",
    "on_top_of",  // ours, read_peft() keeps it
    "peft_version",   "qalora_group_size",       "revision",      "runtime_config",
    "task_type",      "unsloth_fixed",           "velora_config"};

/// Known to change what is computed.
struct Refused {
  std::string_view key, why;
};
constexpr Refused kRefused[] = {
    {"alora_invocation_tokens", "activated LoRA (aLoRA) acts on part of a prompt only"},
    {"arrow_config", "routed adapters (Arrow)"},
    {"enable_lora", "merged linears of old PEFT versions"},
    {"layer_replication", "a base with replicated layers"},
    {"trainable_token_indices", "trained single tokens"},
    {"use_bdlora", "block-diagonal factors (BD-LoRA)"},
    {"use_qalora", "factors over pooled inputs (QA-LoRA)"},
};

bool is_listed(std::span<const std::string_view> list, std::string_view key) {
  return std::find(list.begin(), list.end(), key) != list.end();
}

/// Names of versions and notes of other tools.
bool is_provenance(std::string_view key) {
  constexpr std::string_view kNotes[] = {"author",
                                         "base_model_class",
                                         "base_model_name",
                                         "created_at",
                                         "created_by",
                                         "dataset",
                                         "date",
                                         "epochs",
                                         "framework",
                                         "language",
                                         "learning_rate",
                                         "library_name",
                                         "loraplus_lr_ratio",
                                         "max_seq_length",
                                         "model_type",
                                         "random_state",
                                         "seed",
                                         "torch_dtype",
                                         "trained_by",
                                         "training_args",
                                         "use_gradient_checkpointing"};
  return is_listed(kNotes, key) || key.starts_with("_") || key.ends_with("_version") || key.ends_with("_comment") ||
         key == "comment" || key == "name" || key == "description" || key == "license" || key == "tags";
}

void check_keys(const AdapterConfig& config) {
  for (const auto& [key, value] : config.json->items()) {
    if (is_falsy(value) || is_listed(kRead, key) || is_listed(kHarmless, key) || is_provenance(key)) continue;
    for (const Refused& refused : kRefused) {
      if (key == refused.key) {
        throw Error(ErrorCode::unsupported, config.where,
                    cat("'", key, "': ", refused.why, ": not supported: expected none, got ", brief(value)));
      }
    }
    throw Error(ErrorCode::unsupported, config.where,
                cat("unknown key ", in_quotes(key), " may change the result: expected none, got ", brief(value)));
  }
}

/// These initialisations subtract from the base what they put into the factors, so that the file fits a base which was
/// never saved. PEFT can convert such an adapter when it saves it, and then writes `true` here.
void check_init(const AdapterConfig& config) {
  const Json* init = config.find("init_lora_weights");
  if (init == nullptr || init->is_boolean()) return;
  if (!init->is_string()) {
    throw Error(ErrorCode::bad_config, config.where,
                cat("'init_lora_weights': expected a string, true or false, got ", brief(*init)));
  }
  const std::string name = init->get<std::string>();
  for (const char* known : {"gaussian", "eva", "orthogonal"}) {
    if (name == known) return;
  }
  for (const char* changes : {"pissa", "olora", "corda", "loftq", "lora_ga"}) {
    if (name.starts_with(changes)) {
      throw Error(ErrorCode::unsupported, config.where,
                  cat("'init_lora_weights' is ", in_quotes(name),
                      ": the adapter was saved unconverted and fits a changed base only: save it with PEFT's "
                      "path_initial_model_for_weight_conversion"));
    }
  }
  throw Error(ErrorCode::unsupported, config.where, cat("'init_lora_weights': unknown value ", in_quotes(name)));
}

template <class T, class Read>
std::vector<std::pair<Pattern, T>> read_patterns(const AdapterConfig& config, const char* key, const Read& read) {
  std::vector<std::pair<Pattern, T>> patterns;
  const auto it = config.ordered->find(key);
  if (it == config.ordered->end() || it->is_null()) return patterns;
  if (!it->is_object()) {
    throw Error(ErrorCode::bad_config, config.where,
                cat("'", key, "': expected an object, got ", brief(*config.find(key))));
  }
  if (it->size() > kMostPatterns) {
    throw Error(ErrorCode::bad_config, config.where,
                cat("'", key, "': expected at most ", kMostPatterns, " patterns, got ", it->size()));
  }
  const std::string where = cat(config.where, ", '", key, "'");
  const Json& values = *config.find(key);
  size_t steps = 0;
  for (const auto& [pattern, ignored] : it->items()) {
    if (pattern.find('\0') != std::string::npos) throw Error(ErrorCode::bad_config, where, "a zero byte in a pattern");
    // As PEFT has it, down to the numbers of groups: the pattern may stand for the end of the path, after a dot.
    patterns.emplace_back(Pattern("(.*\\.)?(" + pattern + ")$", where), read(values, pattern.c_str(), where));
    steps += patterns.back().first.cost();
    if (steps > kMostSteps) throw Error(ErrorCode::bad_config, where, "too many or too large patterns");
  }
  return patterns;
}

std::optional<Pattern> pattern_or(const AdapterConfig& config, const char* key) {
  const Json* value = config.find(key);
  if (value == nullptr || !value->is_string()) return std::nullopt;
  return Pattern(value->get<std::string>(), cat(config.where, ", '", key, "'"));
}

std::optional<std::vector<int>> read_layers(const AdapterConfig& config) {
  const Json* value = config.find("layers_to_transform");
  if (value == nullptr || (value->is_array() && value->empty())) return std::nullopt;
  std::vector<int> layers;
  const auto add = [&](const Json& item) {
    if (!item.is_number_integer() || item.get<int64_t>() < 0 || item.get<int64_t>() > 100000) {
      throw Error(ErrorCode::bad_config, config.where,
                  cat("'layers_to_transform': expected numbers of layers, got ", brief(item)));
    }
    layers.push_back(item.get<int>());
  };
  if (value->is_array()) {
    for (const Json& item : *value) add(item);
  } else {
    add(*value);
  }
  return layers;
}

std::optional<Targets> read_targets(const AdapterConfig& config) {
  const Json* target = config.find("target_modules");
  if (target == nullptr) return std::nullopt;
  Targets::Peft peft;
  if (target->is_string() && *target == "all-linear") {
    peft.all_linear = true;
  } else if (target->is_string()) {
    peft.pattern = pattern_or(config, "target_modules");
  } else {
    peft.names = strings_or(config.json, "target_modules", config.where);
    if (peft.names.size() == 1 && peft.names.front() == "all-linear") {
      peft.all_linear = true;
      peft.names.clear();
    }
  }
  peft.excluded_pattern = pattern_or(config, "exclude_modules");
  if (!peft.excluded_pattern) peft.excluded = strings_or(config.json, "exclude_modules", config.where);
  peft.layers = read_layers(config);
  if (peft.layers && peft.names.empty()) {
    throw Error(ErrorCode::bad_config, config.where,
                "'layers_to_transform': expected 'target_modules' to be a list of names, got a pattern");
  }
  peft.layer_patterns = strings_or(config.json, "layers_pattern", config.where);
  std::erase(peft.layer_patterns, "");
  for (const std::string& pattern : peft.layer_patterns) {
    if (!std::all_of(pattern.begin(), pattern.end(),
                     [](unsigned char c) { return std::isalnum(c) != 0 || c == '_'; })) {
      throw Error(ErrorCode::unsupported, config.where,
                  cat("'layers_pattern': expected a name, got ", in_quotes(pattern)));
    }
  }
  return Targets::peft(std::move(peft));
}

}  // namespace

PeftConfig PeftConfig::read(const AdapterConfig& config) {
  const std::string& where = config.where;
  const std::string type = string_or(config.json, "peft_type", where, "");
  if (type.empty()) throw Error(ErrorCode::bad_config, where, "missing 'peft_type': expected 'LORA'");
  if (type != "LORA")
    throw Error(ErrorCode::unsupported, where, cat("'peft_type': expected 'LORA', got ", in_quotes(type)));
  check_keys(config);
  check_init(config);

  PeftConfig c;
  c.r = int_or(config.json, "r", where, 1, INT32_MAX, 8);
  c.alpha = number_or(config.json, "lora_alpha", where, 8);
  c.rslora = bool_or(config.json, "use_rslora", where, false);
  c.dora = bool_or(config.json, "use_dora", where, false);
  c.lora_bias = bool_or(config.json, "lora_bias", where, false);
  if (c.dora && c.lora_bias) {
    throw Error(ErrorCode::unsupported, where, "'lora_bias' with 'use_dora': PEFT does not have both: expected one");
  }
  c.tied_embeddings = bool_or(config.json, "ensure_weight_tying", where, false);
  const std::string bias = string_or(config.json, "bias", where, "none");
  if (bias == "all") {
    c.bias = Bias::all;
  } else if (bias == "lora_only") {
    c.bias = Bias::lora_only;
  } else if (bias != "none") {
    throw Error(ErrorCode::bad_config, where, cat("'bias': expected none, all or lora_only, got ", in_quotes(bias)));
  }
  c.rank_pattern =
      read_patterns<int64_t>(config, "rank_pattern", [](const Json& values, const char* key, std::string_view at) {
        return require_int(values, key, at, 1, INT32_MAX);
      });
  c.alpha_pattern =
      read_patterns<double>(config, "alpha_pattern", [](const Json& values, const char* key, std::string_view at) {
        if (!values[key].is_number())
          throw Error(ErrorCode::bad_config, at, cat(in_quotes(key), ": expected a number, got ", brief(values[key])));
        return number_or(values, key, at, 0);
      });
  c.modules_to_save = strings_or(config.json, "modules_to_save", where);
  c.targets = read_targets(config);
  c.parameters = strings_or(config.json, "target_parameters", where);
  for (const std::string& name : c.parameters) {
    const std::string_view last = std::string_view(name).substr(name.rfind('.') + 1);
    if (last == kFusedGateUp || last == kFusedDown) continue;
    throw Error(
        ErrorCode::unsupported, where,
        cat("'target_parameters': expected ", kFusedGateUp, " and ", kFusedDown, " of experts, got ", in_quotes(name)));
  }
  return c;
}

bool PeftConfig::has_parameter(std::string_view path) const {
  return std::any_of(parameters.begin(), parameters.end(), [&](const std::string& name) {
    return path == name || (path.ends_with(name) && path[path.size() - name.size() - 1] == '.');
  });
}

int64_t PeftConfig::rank_of(std::string_view path) const {
  for (const auto& [pattern, rank] : rank_pattern) {
    if (pattern.matches(path)) return rank;
  }
  return r;
}

double PeftConfig::scale_of(std::string_view path) const {
  double a = alpha;
  for (const auto& [pattern, value] : alpha_pattern) {
    if (pattern.matches(path)) {
      a = value;
      break;
    }
  }
  const auto rank = double(rank_of(path));
  return rslora ? a / std::sqrt(rank) : a / rank;
}

size_t PeftConfig::cost() const {
  size_t steps = modules_to_save.size();
  for (const auto& [pattern, rank] : rank_pattern) steps += 2 * pattern.cost();
  for (const auto& [pattern, value] : alpha_pattern) steps += pattern.cost();
  return steps + (targets ? targets->cost() : 0);
}

}  // namespace bumblebee::lora
