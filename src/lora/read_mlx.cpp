// mlx-lm's adapters: factors transposed to PyTorch's orientation, one scale for all modules, used as it stands.
// Source: mlx_lm/tuner/{lora,dora,utils}.py and its history.
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <set>

#include "base/error.h"
#include "base/log.h"
#include "io/quote.h"
#include "lora/adapter_config.h"
#include "lora/readers.h"

namespace bumblebee::lora {
namespace {

/// Which number multiplied B(A x) in the version of mlx-lm that wrote a file, by the keys that it wrote: all arguments
/// of the run, so that each version's are there. Their history, as the releases on PyPI have it:
///   0.6 to 0.13.0    lora_layers                        scale·alpha/rank
///   0.13.1 to 0.14.1 + use_dora                         scale·alpha/rank
///   0.14.3 to 0.18   the same keys                      scale (June 2024)
///   from 0.19        num_layers, fine_tune_type         scale (October 2024); alpha is in the defaults until 0.22.2
enum class Formula : uint8_t { scale, scale_alpha_rank, unknown };

/// adapter_config.json: all arguments of the training run, of which these matter here.
struct MlxConfig {
  Formula formula = Formula::unknown;

  Kind kind = Kind::lora;
  int64_t layers = 0;  // the last so many; 0 for all
  bool has_layers = false;
  std::optional<double> scale, alpha;
  int64_t rank = 0;  // 0: not said
  std::optional<std::vector<std::string>> keys;
};

Kind read_kind(const AdapterConfig& config) {
  const std::string type = string_or(config.json, "fine_tune_type", config.where, "");
  const bool old_dora = bool_or(config.json, "use_dora", config.where, false);  // before `fine_tune_type`
  if (old_dora && !type.empty() && type != "dora") {
    throw Error(ErrorCode::bad_config, config.where,
                cat("'use_dora' is true: expected 'fine_tune_type' dora, got ", in_quotes(type)));
  }
  if (type == "dora" || old_dora) return Kind::dora;
  if (type == "lora" || type.empty()) return Kind::lora;
  if (type == "full") return Kind::full;
  throw Error(ErrorCode::unsupported, config.where,
              cat("'fine_tune_type': expected lora, dora or full, got ", in_quotes(type)));
}

Formula formula_of(const AdapterConfig& config) {
  const auto has = [&](const char* key) { return config.json->contains(key); };
  if (has("num_layers") || has("fine_tune_type")) return Formula::scale;
  for (const char* later : {"use_dora", "optimizer", "mask_prompt", "report_to", "wandb"}) {
    if (has(later)) return Formula::unknown;
  }
  for (const char* argument : {"lora_layers", "seed", "batch_size", "iters", "steps_per_eval", "save_every"}) {
    if (!has(argument)) return Formula::unknown;  // not as mlx-lm left it
  }
  return Formula::scale_alpha_rank;
}

void read_layers(const AdapterConfig& config, MlxConfig& result) {
  std::optional<int64_t> layers;
  for (const char* key : {"num_layers", "lora_layers"}) {  // the second until October 2024
    if (config.find(key) == nullptr) continue;
    const int64_t n = require_int(config.json, key, config.where, -1, 100000);
    if (layers && *layers != n) {
      throw Error(ErrorCode::bad_config, config.where,
                  cat("'lora_layers': expected 'num_layers', which is ", *layers, ", got ", n));
    }
    layers = n;
  }
  result.has_layers = layers.has_value();
  result.layers = std::max<int64_t>(layers.value_or(0), 0);
}

void read_parameters(const AdapterConfig& config, MlxConfig& result) {
  const Json* parameters = config.find("lora_parameters");
  if (parameters == nullptr) return;
  const std::string where = config.where + ", lora_parameters";
  if (!parameters->is_object()) {
    throw Error(ErrorCode::bad_config, where, cat("expected an object, got ", brief(*parameters)));
  }
  for (const auto& [key, value] : parameters->items()) {
    if (key == "rank" || key == "scale" || key == "alpha" || key == "dropout" || key == "keys" || is_falsy(value))
      continue;
    // mlx-lm reads none of these; a tool that writes such a one may mean another result than mlx-lm's.
    for (const char* other :
         {"use_rslora", "rslora", "use_dora", "rank_pattern", "alpha_pattern", "layers_to_transform"}) {
      if (key == other)
        throw Error(ErrorCode::unsupported, where, cat("unknown key ", in_quotes(key), ": ", brief(value)));
    }
    note(where, "unknown key ", in_quotes(key), ": ", brief(value), ": left out, as in mlx-lm");
  }
  result.rank = int_or(*parameters, "rank", where, 1, INT32_MAX, 0);
  if (parameters->contains("scale") && !(*parameters)["scale"].is_null())
    result.scale = number_or(*parameters, "scale", where, 0);
  if (parameters->contains("alpha") && !(*parameters)["alpha"].is_null())
    result.alpha = number_or(*parameters, "alpha", where, 0);
  if (parameters->contains("keys") && !(*parameters)["keys"].is_null())
    result.keys = strings_or(*parameters, "keys", where);
}

MlxConfig read_config(const AdapterConfig& config) {
  if (config.find("peft_type") != nullptr) {
    throw Error(ErrorCode::bad_config, config.where,
                "expected mlx-lm's keys beside adapters.safetensors, got PEFT's ('peft_type')");
  }
  MlxConfig result;
  result.kind = read_kind(config);
  result.formula = formula_of(config);
  read_layers(config, result);
  read_parameters(config, result);
  return result;
}

/// The scale, once the rank of the tensors is known. Where the keys do not date the file, it is refused unless both
/// formulas give one number.
double scale_of(const MlxConfig& config, int64_t rank, const std::string& where, bool overridden) {
  if (overridden) return 0;
  if (!config.scale) {
    throw Error(ErrorCode::bad_config, where,
                "missing 'lora_parameters'.'scale': give the scale when loading (--adapter SRC:scale=NUMBER)");
  }
  if (!config.alpha || config.formula == Formula::scale || *config.alpha == double(rank)) return *config.scale;
  const double product = *config.scale * *config.alpha / double(rank);
  if (config.formula == Formula::unknown) {
    throw Error(ErrorCode::unsupported, where,
                cat("'alpha' ", *config.alpha, " with rank ", rank,
                    ": mlx-lm before June 2024 trained with scale·alpha/rank = ", product, ", later ones with scale = ",
                    *config.scale, ": give the right one when loading (--adapter SRC:scale=", product,
                    " or SRC:scale=", *config.scale, ")"));
  }
  return product;
}

/// Whether the file has layers that the config does not count. Its tensors are what was trained: the config may be that
/// of a later run of mlx-lm, which wrote it anew even to measure (--test).
bool has_more_layers(const TensorSet& tensors, const AdapterConfig& config, const MlxConfig& c,
                     const std::map<std::string, ModuleTensors>& modules) {
  if (c.layers <= 0) return false;
  int low = INT32_MAX, high = -1;
  for (const auto& [path, module] : modules) {
    const int layer = layer_of(path);
    if (layer < 0 || (c.keys && std::find(c.keys->begin(), c.keys->end(), path) != c.keys->end())) continue;
    low = std::min(low, layer);
    high = std::max(high, layer);
  }
  if (high < 0 || int64_t{high} - low < c.layers) return false;
  note(config.where, "'num_layers' is ", c.layers, ", but ", tensors.where(), " has layers ", low, " to ", high,
       ": all of them are applied");
  return true;
}

Targets targets_of(const MlxConfig& c, const AdapterConfig& config,
                   const std::map<std::string, ModuleTensors>& modules) {
  std::vector<std::string> keys;
  if (c.keys) {
    keys = *c.keys;
  } else {  // every linear of a layer, or by the version the attention's q and v: what one layer has, all must have
    std::set<std::string, std::less<>> seen;
    for (const auto& [path, module] : modules) seen.emplace(inside_layer(path));
    keys.assign(seen.begin(), seen.end());
  }
  Targets targets = Targets::mlx(std::move(keys), int(c.layers));
  check_cost(modules, targets.cost(), config.where);
  std::vector<std::string> strange;
  for (const auto& [path, module] : modules) {
    if (!targets.covers(path, 0)) strange.push_back(path);
  }
  if (!strange.empty()) {
    throw Error(ErrorCode::bad_config, config.where,
                cat("'lora_parameters'.'keys': expected every module that has factors, got none for ", strange.size(),
                    ": ", list_names(strange)));
  }
  return targets;
}

/// Factors of a stack of experts, which are not transposed.
LowRank read_stack(const TensorSet& tensors, const ModuleTensors& module, const MlxConfig& c) {
  tensors.expect_stack(*module.a, "[experts, rank, in]");
  tensors.expect_stack(*module.b, "[experts, out, rank]");
  const uint64_t experts = module.a->shape[0], rank = module.a->shape[1];
  if (module.b->shape[0] != experts || module.b->shape[2] != rank) {
    tensors.fail(*module.b, cat("expected [", experts, ", out, ", rank, "] beside ", in_quotes(module.a->name), " ",
                                shape_text(module.a->shape), ", got ", shape_text(module.b->shape)));
  }
  if (c.rank != 0 && rank != uint64_t(c.rank)) {
    tensors.fail(*module.a, cat("rank: expected ", c.rank, ", as the config says, got ", shape_text(module.a->shape)));
  }
  if (module.magnitude != nullptr)
    throw Error(ErrorCode::unsupported, tensors.where(),
                cat("tensor ", in_quotes(module.magnitude->name), ": DoRA of experts is not supported"));
  LowRank low{tensors.stacked(*module.a), tensors.stacked(*module.b), 0, {}, {}};
  low.experts = int(experts);
  return low;
}

LowRank read_low_rank(const TensorSet& tensors, const ModuleTensors& module, const MlxConfig& c) {
  if (module.a->shape.size() == 3 || module.b->shape.size() == 3) return read_stack(tensors, module, c);
  tensors.expect_matrix(*module.a, "[in, rank]");
  tensors.expect_matrix(*module.b, "[rank, out]");
  const uint64_t rank = module.a->shape[1];
  if (module.b->shape[0] != rank) {
    tensors.fail(*module.b, cat("rank: expected ", rank, " rows, as ", in_quotes(module.a->name), " has columns, got ",
                                shape_text(module.b->shape)));
  }
  if (c.rank != 0 && rank != uint64_t(c.rank)) {
    tensors.fail(*module.a,
                 cat("rank: expected ", c.rank, " columns, as the config says, got ", shape_text(module.a->shape)));
  }
  LowRank low{tensors.matrix(*module.a, true), tensors.matrix(*module.b, true), 0, {}, {}};
  if (module.magnitude != nullptr) {
    low.magnitude = tensors.vector(*module.magnitude);
    // A linear has one per output, an embedding one per token: bind_to_base() knows which it is.
    if (low.magnitude.size() != size_t(low.b.rows) && low.magnitude.size() != size_t(low.a.cols)) {
      tensors.fail(*module.magnitude,
                   cat("shape: expected [", low.b.rows, "], got ", shape_text(module.magnitude->shape)));
    }
  }
  return low;
}

void read_full(const TensorSet& tensors, Adapter& adapter) {
  for (const TensorEntry& tensor : tensors.entries()) {
    if (tensor.name.ends_with(".scales") || tensor.name.ends_with(".biases") || tensor.dtype == DType::u32) {
      throw Error(ErrorCode::unsupported, tensors.where(),
                  cat("tensor ", in_quotes(tensor.name), ": quantized weights in a full fine-tune are not supported"));
    }
  }
  const auto modules =
      sort_tensors(tensors, "", {{".weight", &ModuleTensors::weight}, {".bias", &ModuleTensors::bias}});
  for (const auto& [path, module] : modules) {
    ModuleDelta& change = adapter.modules[path];
    if (module.weight != nullptr) change.weight = tensors.parameter(*module.weight);
    if (module.bias != nullptr) change.bias = tensors.vector(*module.bias);
  }
}

void read_factors(const TensorSet& tensors, const AdapterConfig& config, const MlxConfig& c, const ReadOptions& options,
                  Adapter& adapter) {
  const auto modules = sort_tensors(
      tensors, "", {{".lora_a", &ModuleTensors::a}, {".lora_b", &ModuleTensors::b}, {".m", &ModuleTensors::magnitude}});
  Targets targets = targets_of(c, config, modules);
  if (!has_more_layers(tensors, config, c, modules)) adapter.targets = std::move(targets);
  if (c.formula == Formula::scale_alpha_rank && c.alpha && !options.scale) {
    note(config.where,
         "its keys are those of mlx-lm before June 2024, which multiplied by scale·alpha/rank, not by scale");
  }
  std::vector<std::string> other;
  for (const auto& [path, module] : modules) {
    LowRank low = read_low_rank(tensors, module, c);
    if ((module.magnitude != nullptr) != (c.kind == Kind::dora)) other.push_back(path);
    low.scale = checked_scale(scale_of(c, low.rank(), config.where, options.scale.has_value()), config.where, "scale");
    adapter.modules[path].low_rank = std::move(low);
  }
  if (!other.empty()) {
    throw Error(ErrorCode::bad_config, config.where,
                cat("'fine_tune_type' is ", to_string(c.kind), ": expected ", c.kind == Kind::dora ? "a" : "no",
                    " magnitude ('.m') in each module, got ", c.kind == Kind::dora ? "none" : "one", " in ",
                    other.size(), ": ", list_names(other)));
  }
}

}  // namespace

Adapter read_mlx(const TensorSet& tensors, const AdapterConfig& config, const ReadOptions& options) {
  const MlxConfig c = read_config(config);
  Adapter adapter;
  adapter.dialect = Dialect::mlx;
  adapter.kind = c.kind;
  adapter.base = string_or(config.json, "model", config.where, "");
  if (c.has_layers) adapter.facts["num_layers"] = c.layers == 0 ? "all" : std::to_string(c.layers);
  if (c.rank != 0) adapter.facts["rank"] = std::to_string(c.rank);
  if (c.scale) adapter.facts["scale"] = cat(*c.scale);
  if (c.alpha) adapter.facts["alpha"] = cat(*c.alpha, c.formula == Formula::scale ? " (mlx-lm does not use it)" : "");
  const Json* parameters = config.find("lora_parameters");
  if (parameters != nullptr) add_common_facts(*parameters, "dropout", config.where, adapter.facts);
  add_common_facts(config.json, nullptr, config.where, adapter.facts);
  if (c.kind == Kind::full) {
    read_full(tensors, adapter);
  } else {
    read_factors(tensors, config, c, options, adapter);
  }
  return adapter;
}

}  // namespace bumblebee::lora
