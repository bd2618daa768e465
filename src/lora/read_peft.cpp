// PEFT's adapters: the factors as they are, the scale from alpha and the rank, module by module. Source:
// peft/tuners/lora/{layer,model}.py and peft/utils/save_and_load.py.
#include "base/error.h"
#include "io/quote.h"
#include "lora/adapter_config.h"
#include "lora/peft_config.h"
#include "lora/readers.h"

namespace bumblebee::lora {
namespace {

using Modules = std::map<std::string, ModuleTensors>;

Modules sort(const TensorSet& tensors) {
  for (const TensorEntry& tensor : tensors.entries()) {
    const std::string& name = tensor.name;
    if (name.find("trainable_tokens_") != std::string::npos) {
      throw Error(ErrorCode::unsupported, tensors.where(),
                  cat("tensor ", in_quotes(name), ": trained single tokens are not supported"));
    }
    for (const char* leaf : {".lora_A.", ".lora_B.", ".lora_embedding_A.", ".lora_embedding_B."}) {
      const size_t at = name.find(leaf);
      if (at == std::string::npos) continue;
      const std::string_view rest = std::string_view(name).substr(at + std::string_view(leaf).size());
      if (rest == "weight" || rest == "bias") continue;
      tensors.fail(tensor,
                   cat("expected no name of an adapter inside, as save_pretrained() writes, got ", in_quotes(rest)));
    }
  }
  return sort_tensors(tensors, kPeftPrefix,
                      {{".lora_A.weight", &ModuleTensors::a},
                       {".lora_B.weight", &ModuleTensors::b},
                       {".lora_B.bias", &ModuleTensors::b_bias},
                       {".lora_embedding_A", &ModuleTensors::a, true},
                       {".lora_embedding_B", &ModuleTensors::b, true},
                       {".lora_magnitude_vector", &ModuleTensors::magnitude},
                       {".lora_magnitude_vector.weight", &ModuleTensors::magnitude},  // until PEFT 0.11
                       {".base_layer.weight", &ModuleTensors::weight},
                       {".base_layer.bias", &ModuleTensors::bias},
                       {".weight", &ModuleTensors::weight},
                       {".bias", &ModuleTensors::bias}});
}

/// Whether an entry of modules_to_save names this module or one that holds it.
bool is_saved(const std::string& entry, std::string_view path) {
  for (size_t end = path.size();; end = path.rfind('.', end - 1)) {
    if (end == std::string_view::npos) return false;
    const std::string_view head = path.substr(0, end);
    if (head.ends_with(entry)) return true;  // PEFT asks for no dot before it
    if (end == 0) return false;
  }
}

bool is_saved(const PeftConfig& c, std::string_view path) {
  for (const std::string& entry : c.modules_to_save) {
    if (is_saved(entry, path)) return true;
  }
  return false;
}

/// save_pretrained() writes the whole embedding and head when one of them was adapted or resized.
bool is_embedding_or_head(std::string_view path) {
  const std::string_view last = path.substr(path.rfind('.') + 1);
  return last == "embed_tokens" || last == "lm_head";
}

/// The parameter whose factors these are: PEFT wraps the module that has it, once more for each further one, so that
/// the first is innermost. Empty where the module is a linear.
std::string parameter_of(const PeftConfig& c, const std::string& path) {
  constexpr std::string_view kExperts = ".experts", kInner = ".base_layer";
  std::string_view block = path;
  const bool inner = block.ends_with(kInner);
  if (inner) block.remove_suffix(kInner.size());
  if (!block.ends_with(kExperts)) return "";
  const std::string gate_up = cat(block, ".", kFusedGateUp), down = cat(block, ".", kFusedDown);
  if (inner) return c.has_parameter(gate_up) && c.has_parameter(down) ? gate_up : "";
  return c.has_parameter(down) ? down : c.has_parameter(gate_up) ? gate_up : "";
}

/// Everything that tensors and config must agree on, before any value is read.
void check_names(const TensorSet& tensors, const AdapterConfig& config, const PeftConfig& c, const Modules& modules) {
  std::vector<std::string> untargeted, unsaved, biased;
  for (const auto& [path, module] : modules) {
    const bool saved = is_saved(c, path);
    const bool parameter = module.a != nullptr && !parameter_of(c, path).empty();
    if (module.a != nullptr && !parameter && c.targets && !c.targets->covers(path, 0, module.embedding))
      untargeted.push_back(path);
    if (module.weight != nullptr && !saved && !is_embedding_or_head(path)) unsaved.push_back(path);
    if (module.bias != nullptr && !saved) {
      const bool allowed =
          c.bias == PeftConfig::Bias::all || (c.bias == PeftConfig::Bias::lora_only && module.a != nullptr);
      if (!allowed) biased.push_back(path);
    }
  }
  const auto refuse = [&](std::string_view key, std::string_view what, const std::vector<std::string>& names) {
    if (names.empty()) return;
    throw Error(ErrorCode::bad_config, config.where,
                cat("'", key, "': expected ", what, " in ", tensors.where(), ", got none for ", names.size(), ": ",
                    list_names(names)));
  };
  refuse("target_modules", "every module that has factors", untargeted);
  refuse("modules_to_save", "every module that has a whole weight", unsaved);
  refuse("bias", "every module that has a bias", biased);

  std::vector<std::string> missing;
  for (const std::string& entry : c.modules_to_save) {
    bool found = false;
    for (const auto& [path, module] : modules) {
      found = found || ((module.weight != nullptr || module.bias != nullptr) && is_saved(entry, path));
    }
    if (!found) missing.push_back(entry);
  }
  if (!missing.empty()) {
    throw Error(ErrorCode::bad_config, config.where,
                cat("'modules_to_save': expected tensors of each in ", tensors.where(), ", got none of ",
                    missing.size(), ": ", list_names(missing)));
  }
}

/// A part that the config announces must be in every module, and one that it does not, in none.
void check_part(const TensorSet& tensors, const AdapterConfig& config, const Modules& modules, const char* key,
                bool wanted, const char* tensor, const TensorEntry* ModuleTensors::*part) {
  std::vector<std::string> wrong;
  for (const auto& [path, module] : modules) {
    // Embeddings have no bias of B.
    if (module.a == nullptr || (module.embedding && part == &ModuleTensors::b_bias)) continue;
    if ((module.*part != nullptr) != wanted) wrong.push_back(path);
  }
  if (wrong.empty()) return;
  throw Error(ErrorCode::bad_config, config.where,
              cat("'", key, "' is ", wanted ? "true" : "false", ": expected ", wanted ? "" : "no ", "'", tensor,
                  "' in ", wanted ? "each module of " : "", tensors.where(), ", got ", wanted ? "none" : "one", " in ",
                  wrong.size(), ": ", list_names(wrong)));
}

LowRank read_low_rank(const TensorSet& tensors, const std::string& path, const ModuleTensors& module,
                      const PeftConfig& c, const AdapterConfig& config) {
  tensors.expect_matrix(*module.a, module.embedding ? "[rank, vocab]" : "[rank, in]");
  tensors.expect_matrix(*module.b, module.embedding ? "[dims, rank]" : "[out, rank]");
  const uint64_t rank = module.a->shape[0];
  if (module.b->shape[1] != rank) {
    tensors.fail(*module.b, cat("rank: expected ", rank, " columns, as ", in_quotes(module.a->name), " has rows, got ",
                                shape_text(module.b->shape)));
  }
  if (const int64_t declared = c.rank_of(path); rank != uint64_t(declared)) {
    tensors.fail(*module.a,
                 cat("rank: expected ", declared, " rows, as the config says, got ", shape_text(module.a->shape)));
  }
  LowRank low{tensors.matrix(*module.a),
              tensors.matrix(*module.b),
              checked_scale(c.scale_of(path), config.where, "'lora_alpha'"),
              {},
              {}};
  const auto vector = [&](const TensorEntry* tensor) {
    std::vector<float> values = tensors.vector(*tensor);
    if (values.size() != size_t(low.b.rows)) {
      tensors.fail(*tensor, cat("shape: expected [", low.b.rows, "], got ", shape_text(tensor->shape)));
    }
    return values;
  };
  if (module.magnitude != nullptr) low.magnitude = vector(module.magnitude);
  if (module.b_bias != nullptr) low.b_bias = vector(module.b_bias);
  return low;
}

/// Factors of all experts at once: A [experts·rank, in], B [out, rank·experts] with the expert counting first.
LowRank read_parameter(const TensorSet& tensors, const std::string& parameter, const ModuleTensors& module,
                       const PeftConfig& c, const AdapterConfig& config) {
  tensors.expect_matrix(*module.a, "[experts·rank, in]");
  tensors.expect_matrix(*module.b, "[out, rank·experts]");
  const uint64_t all = module.a->shape[0], rank = uint64_t(c.rank_of(parameter));
  if (all % rank != 0 || module.b->shape[1] != all) {
    tensors.fail(*module.b,
                 cat("expected [out, ", all, "] beside ", in_quotes(module.a->name), " ", shape_text(module.a->shape),
                     ", a multiple of the rank ", rank, " of the config, got ", shape_text(module.b->shape)));
  }
  LowRank low{
      tensors.matrix(*module.a), {}, checked_scale(c.scale_of(parameter), config.where, "'lora_alpha'"), {}, {}};
  const Matrix stored = tensors.matrix(*module.b);
  const size_t experts = size_t(all / rank), out = size_t(stored.rows), r = size_t(rank);
  low.experts = int(experts);
  low.b = {int(experts * out), int(rank), std::vector<float>(stored.values.size())};
  for (size_t o = 0; o < out; ++o) {
    for (size_t k = 0; k < r; ++k) {
      for (size_t e = 0; e < experts; ++e)
        low.b.values[(e * out + o) * r + k] = stored.values[(o * r + k) * experts + e];
    }
  }
  return low;
}

void check_tying(const AdapterConfig& config, const PeftConfig& c, const Modules& modules) {
  if (!c.tied_embeddings) return;
  for (const auto& [path, module] : modules) {
    if (is_embedding_or_head(path)) {
      throw Error(
          ErrorCode::unsupported, config.where,
          cat("'ensure_weight_tying': an adapter that ties ", in_quotes(path), " to the head is not supported"));
    }
  }
}

}  // namespace

Adapter read_peft(const TensorSet& tensors, const AdapterConfig& config) {
  const PeftConfig c = PeftConfig::read(config);
  const Modules modules = sort(tensors);
  check_cost(modules, c.cost(), config.where);
  check_names(tensors, config, c, modules);
  check_part(tensors, config, modules, "use_dora", c.dora, "lora_magnitude_vector", &ModuleTensors::magnitude);
  check_part(tensors, config, modules, "lora_bias", c.lora_bias, "lora_B.bias", &ModuleTensors::b_bias);
  check_tying(config, c, modules);

  Adapter adapter;
  adapter.dialect = Dialect::peft;
  adapter.kind = c.dora ? Kind::dora : Kind::lora;
  adapter.base = string_or(config.json, "base_model_name_or_path", config.where, "");
  adapter.targets = c.targets;
  adapter.facts["r"] = std::to_string(c.r);
  adapter.facts["lora_alpha"] = cat(c.alpha);
  if (c.rslora) adapter.facts["use_rslora"] = "true";
  add_common_facts(config.json, "lora_dropout", config.where, adapter.facts);
  for (const auto& [path, module] : modules) {
    if (const std::string parameter = module.a == nullptr ? "" : parameter_of(c, path); !parameter.empty()) {
      adapter.modules[parameter].low_rank = read_parameter(tensors, parameter, module, c, config);
      continue;
    }
    ModuleDelta& change = adapter.modules[path];
    if (module.a != nullptr) change.low_rank = read_low_rank(tensors, path, module, c, config);
    if (module.weight != nullptr) {
      change.weight = tensors.parameter(*module.weight);
      change.shared_weight = !is_saved(c, path);
    }
    if (module.bias != nullptr) change.bias = tensors.vector(*module.bias);
  }
  return adapter;
}

}  // namespace bumblebee::lora
