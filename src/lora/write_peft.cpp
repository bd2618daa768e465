// PEFT's format: ranks and alphas that differ become patterns of whole paths; targets are names where every layer has
// them, else whole paths.
#include "base/error.h"

#include <nlohmann/json.hpp>
#include "lora/peft_config.h"
#include "lora/writers.h"

namespace bumblebee::lora {
namespace {

/// What names this module in every layer. Of an expert with its number: a shared one may have parts of the same names.
std::string last_name(const std::string& path) {
  const size_t expert = path.find("experts.");
  if (expert != std::string::npos && (expert == 0 || path[expert - 1] == '.')) return path.substr(expert);
  return path.substr(path.rfind('.') + 1);
}

void add_targets(const Adapter& adapter, Json& config) {
  Adapter adapted;  // without modules that only have whole weights
  for (const auto& [path, change] : adapter.modules) {
    if (!change.low_rank) continue;
    if (change.low_rank->experts > 0) {
      config["target_parameters"].push_back(path);
    } else {
      adapted.modules[path];
    }
  }
  const Layout layout = Layout::of(adapted);
  Json names = Json::array();
  config["layers_to_transform"] = nullptr;
  for (const std::string& path : layout.outside) names.push_back(path);
  if (layout.uniform()) {
    std::set<std::string> unique;
    for (const std::string& inside : layout.inside) unique.insert(last_name(inside));
    for (const std::string& name : unique) names.push_back(name);
    const auto said = adapter.facts.find("num_layers");
    const bool all = said != adapter.facts.end() ? said->second == "all" : layout.first == 0;
    const bool chosen = adapter.targets && adapter.targets->names_layers();
    if (!layout.layers.empty() && (!all || chosen)) {
      Json layers = Json::array();
      for (const auto& [layer, paths] : layout.layers) layers.push_back(layer);
      config["layers_to_transform"] = layers;
    }
  } else {
    for (const auto& [path, change] : adapted.modules) {
      if (!layout.outside.contains(path)) names.push_back(path);
    }
  }
  config["target_modules"] = names;
}

void add_scales(const Adapter& adapter, Json& config) {
  const int rank = most_common<int>(adapter, [](const LowRank& low) { return low.rank(); });
  const float scale = most_common<float>(adapter, [](const LowRank& low) { return low.scale; });
  const double alpha = double(scale) * rank;  // exact: 24 bits times a rank
  config["r"] = rank;
  config["lora_alpha"] = number(alpha);
  config["rank_pattern"] = config["alpha_pattern"] = Json::object();
  for (const auto& [path, change] : adapter.modules) {
    if (!change.low_rank) continue;
    const LowRank& low = *change.low_rank;
    const double own = double(low.scale) * low.rank();
    if (low.rank() != rank) config["rank_pattern"][path] = low.rank();
    if (own != alpha) config["alpha_pattern"][path] = number(own);
  }
}

/// Of a parameter with a matrix for each expert: A [experts·rank, in], B [out, rank·experts] with the expert counting
/// first. Of a module's two, PEFT's wrapper of the first is innermost.
void add_parameter(const Adapter& adapter, const std::string& path, const LowRank& low, TensorWriter& tensors) {
  const std::string block = path.substr(0, path.rfind('.'));
  const bool inner = last_name(path).ends_with(kFusedGateUp) && adapter.modules.contains(cat(block, ".", kFusedDown));
  const std::string at = cat(kPeftPrefix, block, inner ? ".base_layer" : "");
  const size_t experts = size_t(low.experts), out = size_t(low.out()), rank = size_t(low.rank());
  Matrix b{int(out), int(rank * experts), std::vector<float>(low.b.values.size())};
  for (size_t e = 0; e < experts; ++e) {
    for (size_t o = 0; o < out; ++o) {
      for (size_t k = 0; k < rank; ++k) b.values[(o * rank + k) * experts + e] = low.b.values[(e * out + o) * rank + k];
    }
  }
  tensors.add(at + ".lora_A.weight", low.a);
  tensors.add(at + ".lora_B.weight", b);
}

void add_tensors(const std::string& path, const ModuleDelta& change, bool inner_bias, TensorWriter& tensors) {
  const std::string at = std::string(kPeftPrefix) + path;
  if (change.low_rank) {
    const LowRank& low = *change.low_rank;
    const bool embedding = is_embedding(path);
    tensors.add(at + (embedding ? ".lora_embedding_A" : ".lora_A.weight"), low.a);
    tensors.add(at + (embedding ? ".lora_embedding_B" : ".lora_B.weight"), low.b);
    if (inner_bias && !embedding) {  // PEFT has it in every module or in none
      tensors.add(at + ".lora_B.bias", {uint64_t(low.b.rows)},
                  low.b_bias.empty() ? std::vector<float>(size_t(low.b.rows)) : low.b_bias);
    }
    if (!low.magnitude.empty()) tensors.add(at + ".lora_magnitude_vector", {low.magnitude.size()}, low.magnitude);
  }
  const std::string inner = at + (change.low_rank ? ".base_layer" : "");
  if (change.weight) tensors.add(inner + ".weight", *change.weight, change.weight->rows == 1);
  if (change.bias) tensors.add(inner + ".bias", {change.bias->size()}, *change.bias);
}

}  // namespace

std::vector<std::string> write_peft(const Adapter& adapter, const std::filesystem::path& directory,
                                    const WriteOptions&) {
  if (adapter.kind == Kind::full) {
    cannot_write(adapter, adapter.modules.begin()->first,
                 "a full fine-tune has no factors, and PEFT's LoRA format must have some");
  }
  TensorWriter tensors;
  Json saved = Json::array();
  bool biases = false, inner_bias = false;
  for (const auto& [path, change] : adapter.modules) {
    if (change.weight && !change.shared_weight) saved.push_back(path);
    biases = biases || (change.bias && !change.weight);
    inner_bias = inner_bias || (change.low_rank && !change.low_rank->b_bias.empty());
  }
  for (const auto& [path, change] : adapter.modules) {
    if (change.low_rank && change.low_rank->experts > 0) {
      add_parameter(adapter, path, *change.low_rank, tensors);
    } else {
      add_tensors(path, change, inner_bias, tensors);
    }
  }
  Json config = {{"peft_type", "LORA"},
                 {"task_type", "CAUSAL_LM"},
                 {"base_model_name_or_path", adapter.base.empty() ? Json(nullptr) : Json(adapter.base)},
                 {"bias", biases ? "all" : "none"},
                 {"fan_in_fan_out", false},
                 {"inference_mode", true},
                 {"init_lora_weights", true},
                 {"lora_bias", inner_bias},
                 {"lora_dropout", dropout_of(adapter)},
                 {"modules_to_save", saved.empty() ? Json(nullptr) : saved},
                 {"use_dora", adapter.kind == Kind::dora},
                 {"use_rslora", false}};
  add_targets(adapter, config);
  add_scales(adapter, config);
  add_on_top_of(adapter, config);
  tensors.write(directory / "adapter_model.safetensors", {{"format", "pt"}});
  write_adapter_config(directory, config);
  return {};
}

}  // namespace bumblebee::lora
