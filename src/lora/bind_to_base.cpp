// Module by module against the target modules of a base; then the other way round, for modules that were trained and
// are missing.
#include "lora/bind_to_base.h"

#include <algorithm>
#include <iterator>
#include <unordered_map>

#include "base/error.h"
#include "base/log.h"
#include "io/checkpoint.h"
#include "io/quote.h"
#include "lora/expert_paths.h"

namespace bumblebee::lora {
namespace {

using TargetModules = std::unordered_map<std::string, const nn::TargetModule*>;
using ModuleKind = nn::TargetModule::Kind;

constexpr std::string_view kKvB = "kv_b_proj", kEmbedQ = "embed_q";

/// A path that ends in `leaf`, up to it.
std::string without_leaf(const std::string& path, std::string_view leaf) {
  return path.substr(0, path.size() - leaf.size());
}

std::string pair_text(int rows, int cols) { return cat("[", rows, ", ", cols, "]"); }

std::string shape_of(const Matrix& matrix) { return pair_text(matrix.rows, matrix.cols); }

/// Factors that multiply to zero, as mlx-lm's files have them where a layer lacks what its neighbours have.
bool adds_nothing(const ModuleDelta& change) {
  if (!change.low_rank || change.weight || change.bias || !change.low_rank->magnitude.empty()) return false;
  const auto zero = [](const std::vector<float>& values) {
    return std::all_of(values.begin(), values.end(), [](float v) { return v == 0; });
  };
  return change.low_rank->b_bias.empty() && (zero(change.low_rank->a.values) || zero(change.low_rank->b.values));
}

/// What is wrong with these factors at this module; empty when nothing is.
std::string low_rank_problem(const LowRank& low, const nn::TargetModule& module, Dialect dialect) {
  if (module.kind == ModuleKind::norm) return "a norm cannot have factors";
  if (low.experts > 0) return cat("factors of one linear: expected, got those of ", low.experts, " experts");
  if (low.a.cols != module.in) return cat("inputs of A: expected ", module.in, ", got ", low.a.cols);
  if (low.b.rows != module.out) return cat("outputs of B: expected ", module.out, ", got ", low.b.rows);
  if (low.magnitude.empty()) return "";
  const bool per_token = module.kind == ModuleKind::embedding && dialect == Dialect::mlx;
  const auto size = size_t(per_token ? module.in : module.out);
  if (low.magnitude.size() != size) return cat("magnitude: expected [", size, "], got [", low.magnitude.size(), "]");
  return "";
}

std::string weight_problem(const Matrix& weight, const nn::TargetModule& module) {
  int rows = module.out, cols = module.in;
  if (module.kind == ModuleKind::embedding) std::swap(rows, cols);
  if (module.kind == ModuleKind::norm) rows = 1;
  if (weight.rows == rows && weight.cols == cols) return "";
  return cat("weight: expected ", pair_text(rows, cols), ", got ", shape_of(weight));
}

std::string problem(const ModuleDelta& change, const nn::TargetModule& module, Dialect dialect) {
  std::string text;
  if (change.low_rank) text = low_rank_problem(*change.low_rank, module, dialect);
  if (text.empty() && change.weight) text = weight_problem(*change.weight, module);
  if (text.empty() && change.bias) {
    if (!module.bias) return "bias: the base has none here";
    if (change.bias->size() != size_t(module.out)) {
      return cat("bias: expected [", module.out, "], got [", change.bias->size(), "]");
    }
  }
  return text;
}

/// What a change of a stack, or of one of its experts, has beside factors; empty when nothing.
std::string beside_factors(const ModuleDelta& change) {
  if (change.weight || !change.low_rank) return "a whole weight";
  if (change.bias) return "a bias";
  return change.low_rank->magnitude.empty() ? "" : "DoRA";
}

/// The two products that are computed in place of kv_b_proj.
struct LatentHeads {
  const nn::TargetModule *embed_q = nullptr, *unembed_out = nullptr;
};

/// The same as problem() for factors of kv_b_proj.
std::string heads_problem(const LowRank& low, const LatentHeads& heads) {
  const int rows = heads.embed_q->experts * (heads.embed_q->in + heads.unembed_out->out);
  if (low.experts > 0) return cat("factors of one linear: expected, got those of ", low.experts, " experts");
  if (low.a.cols != heads.unembed_out->in)
    return cat("inputs of A: expected ", heads.unembed_out->in, ", got ", low.a.cols);
  if (low.b.rows != rows) return cat("outputs of B: expected ", rows, ", got ", low.b.rows);
  return "";
}

/// The same as problem() for the stack `module`, or for one of its experts.
std::string expert_problem(const LowRank& low, const nn::TargetModule& module, bool stack, int parts) {
  if (low.experts != (stack ? module.experts : 0))
    return stack ? cat("experts: expected ", module.experts, ", got ", low.experts) : "expected factors of one expert";
  if (low.a.cols != module.in) return cat("inputs of A: expected ", module.in, ", got ", low.a.cols);
  if (low.out() != parts * module.out) return cat("outputs of B: expected ", parts * module.out, ", got ", low.out());
  return "";
}

[[noreturn]] void refuse(const Adapter& adapter, const Base& base, std::string_view what) {
  throw Error(ErrorCode::bad_request, adapter.where.empty() ? adapter.name : adapter.where,
              cat("adapter ", in_quotes(adapter.name), " does not fit the base ", in_quotes(base.name), ": ", what,
                  adapter.base.empty() ? std::string() : cat(" (it was made for ", in_quotes(adapter.base), ")")));
}

int layers_of(const Base& base) {
  int layers = 0;
  for (const nn::TargetModule& module : base.target_modules) layers = std::max(layers, layer_of(module.name) + 1);
  return layers;
}

/// The base's name for a module that another packaging of the same model calls otherwise.
std::string base_path(const std::string& path, const TargetModules& modules) {
  if (modules.contains(path)) return path;
  std::string name = plain_path(path);
  if (modules.contains(name)) return name;
  // Mixtral's block, which transformers 5 calls as all others.
  if (const size_t at = name.find(".mlp."); at != std::string::npos) {
    name.replace(at, std::string_view(".mlp.").size(), ".block_sparse_moe.");
    if (modules.contains(name)) return name;
  }
  return path;
}

/// The stacks that PEFT's factors of a parameter change (lora/peft_config.h): of "….experts.gate_up_proj" gate and up.
/// `stacks` is what the base has beside or below "experts".
std::vector<std::string> stacks_of_parameter(const std::string& path, std::string_view stacks) {
  const auto stack = [&](std::string_view parameter, std::string_view part) {
    return cat(path.substr(0, path.size() - parameter.size()), stacks, part);
  };
  constexpr std::string_view kGateUp = ".experts.gate_up_proj", kDown = ".experts.down_proj";
  if (path.ends_with(kGateUp)) return {stack(kGateUp, "gate_proj"), stack(kGateUp, "up_proj")};
  if (path.ends_with(kDown)) return {stack(kDown, "down_proj")};
  return {};
}

/// Of the path of kv_b_proj; empty where the base has no such products, or files where neither is a module of its own.
LatentHeads latent_heads(const std::string& path, const TargetModules& modules) {
  if (!path.ends_with(cat(".", kKvB))) return {};
  const std::string at = without_leaf(path, kKvB);
  const auto find = [&](std::string_view name) -> const nn::TargetModule* {
    const auto it = modules.find(base_path(cat(at, name), modules));
    return it != modules.end() && it->second->experts > 0 ? it->second : nullptr;
  };
  const LatentHeads heads{find(kEmbedQ), find("unembed_out")};
  return heads.embed_q != nullptr && heads.unembed_out != nullptr ? heads : LatentHeads{};
}

/// What changes which module, by the base's names.
using Changes = std::map<std::string, const ModuleDelta*>;
using ExpertChanges = std::map<std::string, std::vector<FactorView>>;
using LatentChanges = std::map<std::string, std::pair<const LowRank*, LatentHeads>>;  // by the name of embed_q

/// Stacks by the names of their experts.
std::unordered_map<std::string, const nn::TargetModule*> stacks_by_expert(const Base& base) {
  std::unordered_map<std::string, const nn::TargetModule*> stacks;
  for (const nn::TargetModule& module : base.target_modules) {
    if (module.kind == ModuleKind::experts) stacks.emplace(module.each, &module);
  }
  return stacks;
}

/// The stack that a module of one expert is a part of; null where it is none.
const nn::TargetModule* stack_of_expert(const std::string& path,
                                        const std::unordered_map<std::string, const nn::TargetModule*>& stacks) {
  const ExpertPath expert = expert_path(path);
  auto stack = stacks.find(expert.each);
  if (stack == stacks.end()) stack = stacks.find(plain_path(expert.each));
  const bool found = stack != stacks.end() && expert.expert >= 0 && expert.expert < stack->second->experts;
  return found ? stack->second : nullptr;
}

/// Whether the base lacks this module in one of its layers and has it in another: mlx-lm makes every layer alike.
bool is_of_another_layer(const std::string& path, const Base& base, const TargetModules& modules,
                         const std::unordered_map<std::string, const nn::TargetModule*>& stacks) {
  const int layers = layers_of(base), own = layer_of(path);
  if (own < 0 || own >= layers) return false;
  const std::string inside(inside_layer(path));
  const std::string head = path.substr(0, path.size() - inside.size() - std::to_string(own).size() - 1);
  for (int layer = 0; layer < layers; ++layer) {
    const std::string there = cat(head, layer, ".", inside), each = expert_path(there).each;
    if (modules.contains(base_path(there, modules)) || stacks.contains(each) || stacks.contains(plain_path(each)))
      return true;
  }
  return false;
}

/// Factors of kv_b_proj [heads·(keys + values), rank] · [rank, latent] as those of each head: of embed_q, which takes a
/// query q of a head to Wᵀ·q, they are Aᵀ and the transposed rows of B that make its keys; of unembed_out A and the
/// rows that make its values.
void bind_heads(const LowRank& low, const LatentHeads& heads, BoundAdapter& bound) {
  bound.of_heads.insert({heads.embed_q->name, heads.unembed_out->name});
  const size_t count = size_t(heads.embed_q->experts), rank = size_t(low.a.rows), keys = size_t(heads.embed_q->in),
               values = size_t(heads.unembed_out->out);
  const auto keep = [&](std::vector<float> own) -> std::span<const float> {
    bound.transposed.push_back(std::make_unique<const std::vector<float>>(std::move(own)));
    return *bound.transposed.back();
  };
  const std::span<const float> up = keep(transposed(low.a).values), b = low.b.values;
  std::vector<float> down(count * rank * keys);
  for (size_t h = 0; h < count; ++h) {
    for (size_t i = 0; i < keys; ++i) {
      for (size_t k = 0; k < rank; ++k) down[(h * rank + k) * keys + i] = b[(h * (keys + values) + i) * rank + k];
    }
  }
  const std::span<const float> of_keys = keep(std::move(down));
  std::vector<FactorView>&into = bound.experts[heads.embed_q->name], &from = bound.experts[heads.unembed_out->name];
  for (size_t h = 0; h < count; ++h) {
    into.push_back({.rank = int(rank),
                    .a = of_keys.subspan(h * rank * keys, rank * keys),
                    .b = up,
                    .bias = {},
                    .scale = low.scale});
    from.push_back({.rank = int(rank),
                    .a = low.a.values,
                    .b = b.subspan((h * (keys + values) + keys) * rank, values * rank),
                    .bias = {},
                    .scale = low.scale});
  }
}

/// Modules that the config says were trained, and that the file lacks; and the other way round where the number of
/// layers decides: an adapter for the last 16 of 28 layers is another one for a base of 36.
void check_targets(const Adapter& adapter, const Base& base, const TargetModules& modules, const Changes& changes,
                   const std::unordered_map<std::string, const nn::TargetModule*>& stacks, const ExpertChanges& experts,
                   const LatentChanges& latents) {
  if (!adapter.targets) return;
  const int layers = layers_of(base);
  std::vector<std::string> missing, outside;
  for (const nn::TargetModule& module : base.target_modules) {
    // Of the two products in place of kv_b_proj the first one answers for it, under the name that configs have.
    if (module.kind == ModuleKind::heads && module.experts > 0 && module.name.ends_with(kEmbedQ)) {
      const std::string whole = cat(without_leaf(module.name, kEmbedQ), kKvB);
      if (!latents.contains(module.name) && adapter.targets->covers(whole, layers)) missing.push_back(whole);
    }
    if (module.kind == ModuleKind::norm || module.kind == ModuleKind::heads || changes.contains(module.name) ||
        experts.contains(module.name))
      continue;
    // What of a mixture of experts is a linear module depends on who trained: in transformers 5 none of these is.
    if (adapter.dialect == Dialect::peft && (module.kind == ModuleKind::experts || module.router)) continue;
    if (adapter.targets->covers(module.name, layers, module.kind == ModuleKind::embedding))
      missing.push_back(module.name);
  }
  for (const auto& [path, change] : adapter.modules) {
    const auto module = modules.find(base_path(path, modules));
    const bool found = module != modules.end();
    const nn::TargetModule* const stack = found ? nullptr : stack_of_expert(path, stacks);
    if (!change.low_rank || (!found && stack == nullptr && latent_heads(path, modules).embed_q == nullptr)) continue;
    if (stack != nullptr && adapter.targets->covers(stack->name, layers, false)) continue;
    const bool embedding = found && module->second->kind == ModuleKind::embedding;
    if (!adapter.targets->covers(path, layers, embedding)) outside.push_back(path);
  }
  if (!outside.empty()) {
    refuse(adapter, base,
           cat("by its config it changes other layers of a base with ", layers, ": expected none of ", outside.size(),
               ": ", list_names(outside)));
  }
  if (!missing.empty()) {
    refuse(adapter, base,
           cat("modules that its config names and its tensors lack: expected none, got ", missing.size(), ": ",
               list_names(missing)));
  }
}

/// mlx-lm has one module for both ends of a tied model: `as_linear` of the adapted embedding is the head. In PEFT they
/// are two modules that share a parameter, and only that is changed for both.
void tie_head(BoundAdapter& bound, const Base& base) {
  const Adapter& adapter = *bound.adapter;
  for (const nn::TargetModule& module : base.target_modules) {
    if (module.kind != ModuleKind::embedding || !bound.modules.contains(module.name)) continue;
    const ModuleDelta& table = *bound.modules.at(module.name);
    const auto own_head = bound.modules.find("lm_head");
    ModuleDelta head;
    if (adapter.dialect == Dialect::peft) {
      if (!table.weight || !table.shared_weight) return;
      if (own_head != bound.modules.end()) head = *own_head->second;
      if (head.weight) return;
      head.weight = table.weight;
    } else {
      if (own_head != bound.modules.end())
        refuse(adapter, base,
               cat("the head is tied to ", in_quotes(module.name), ": expected one of the two, got both"));
      if (table.low_rank) {
        // E' = E + s·(B A)ᵀ, so E'·x = E·x + s·Aᵀ(Bᵀ x).
        head.low_rank = LowRank{transposed(table.low_rank->b),
                                transposed(table.low_rank->a),
                                table.low_rank->scale,
                                {},
                                table.low_rank->magnitude};
      }
      head.weight = table.weight;
    }
    bound.derived.push_back(std::make_unique<const ModuleDelta>(std::move(head)));
    bound.modules["lm_head"] = bound.derived.back().get();
    return;
  }
}

}  // namespace

std::string plain_path(std::string_view path) {
  constexpr std::pair<std::string_view, std::string_view> kNames[] = {
      {"language_model.", ""}, {"model.language_model.model.", "model."}, {"model.language_model.", "model."}};
  for (const auto& [theirs, ours] : kNames) {
    if (path.starts_with(theirs)) return cat(ours, path.substr(theirs.size()));
  }
  return std::string(path);
}

BoundAdapter bind_to_base(const Adapter& adapter, const Base& base) {
  if (adapter.modules.empty()) refuse(adapter, base, "expected modules, got none");
  TargetModules modules;
  for (const nn::TargetModule& module : base.target_modules) modules.emplace(module.name, &module);
  Changes changes;
  ExpertChanges experts;
  const auto stacks = stacks_by_expert(base);
  const bool has_heads = std::any_of(base.target_modules.begin(), base.target_modules.end(),
                                     [](const auto& module) { return module.kind == ModuleKind::heads; });
  std::vector<std::string> unknown, wrong, beside, more, of_heads, more_of_heads;
  LatentChanges latents;
  // Of a stack all experts, or `only` one; `part` of `parts` that follow each other in B's rows.
  const auto add_experts = [&](const std::string& path, const ModuleDelta& change, const nn::TargetModule& stack,
                               int only, size_t part = 0, size_t parts = 1) {
    if (const std::string text = beside_factors(change); !text.empty()) {
      more.push_back(cat(path, " (", text, ")"));
      return;
    }
    if (const std::string text = expert_problem(*change.low_rank, stack, only < 0, int(parts)); !text.empty()) {
      wrong.push_back(cat(path, " (", text, ")"));
      return;
    }
    std::vector<FactorView>& views = experts[stack.name];
    views.resize(size_t(stack.experts));
    for (int e = 0; e < stack.experts; ++e) {
      if (only >= 0 && e != only) continue;
      if (views[size_t(e)].rank > 0)
        refuse(adapter, base, cat("expected one module for expert ", e, " of ", in_quotes(stack.name), ", got two"));
      FactorView own = view(*change.low_rank, only < 0 ? e : 0);
      own.b = own.b.subspan(part * own.b.size() / parts, own.b.size() / parts);
      views[size_t(e)] = own;
    }
  };
  for (const auto& [path, change] : adapter.modules) {
    // gpt-oss names a stack as PEFT does a parameter, whose factors are laid out otherwise.
    const auto it = is_parameter(adapter, path) ? modules.end() : modules.find(base_path(path, modules));
    const bool heads = it == modules.end() ? has_heads && path.ends_with(kKvB)  // in the file as two
                                           : it->second->kind == ModuleKind::heads;
    if (const LatentHeads of = latent_heads(path, modules); of.embed_q != nullptr) {
      std::string text = beside_factors(change);
      if (text.empty() && !change.low_rank->b_bias.empty()) text = "a bias";
      if (!text.empty()) {
        more_of_heads.push_back(cat(path, " (", text, ")"));
      } else if (text = heads_problem(*change.low_rank, of); !text.empty()) {
        wrong.push_back(cat(path, " (", text, ")"));
      } else if (!latents.emplace(of.embed_q->name, std::pair(&*change.low_rank, of)).second) {
        refuse(adapter, base, cat("expected one module for ", in_quotes(of.embed_q->name), ", got two"));
      }
    } else if (heads) {
      of_heads.push_back(path);
    } else if (it != modules.end() && it->second->kind == ModuleKind::experts) {
      add_experts(path, change, *it->second, -1);
    } else if (it != modules.end()) {
      if (const std::string text = problem(change, *it->second, adapter.dialect); !text.empty()) {
        wrong.push_back(cat(path, " (", text, ")"));
      } else if (!changes.emplace(it->first, &change).second) {
        refuse(adapter, base, cat("expected one module for ", in_quotes(it->first), ", got two"));
      }
    } else {
      const nn::TargetModule* const stack = stack_of_expert(path, stacks);
      std::vector<const nn::TargetModule*> fused;
      for (const std::string_view below : {".switch_mlp.", ".experts.switch_glu."}) {
        for (const std::string& name : stacks_of_parameter(path, below)) {
          const auto found = modules.find(base_path(name, modules));
          if (change.low_rank && change.low_rank->experts > 0 && found != modules.end()) fused.push_back(found->second);
        }
      }
      if (!fused.empty()) {
        for (size_t i = 0; i < fused.size(); ++i) add_experts(path, change, *fused[i], -1, i, fused.size());
      } else if (stack != nullptr) {
        add_experts(path, change, *stack, expert_path(path).expert);
      } else if (!adds_nothing(change) || !is_of_another_layer(path, base, modules, stacks)) {
        (is_beside_text(path) ? beside : unknown).push_back(path);
      }
    }
  }
  if (!more.empty()) {
    throw Error(ErrorCode::unsupported, adapter.where.empty() ? adapter.name : adapter.where,
                cat("adapters of experts: expected factors alone, got more in ", more.size(), " of ",
                    adapter.modules.size(), ": ", list_names(more)));
  }
  if (!of_heads.empty()) {
    throw Error(ErrorCode::unsupported, adapter.where.empty() ? adapter.name : adapter.where,
                cat("what makes keys and values of latents is changed as kv_b_proj, and merged into a file that has "
                    "kv_b_proj: expected none of these modules, got ",
                    of_heads.size(), " of ", adapter.modules.size(), ": ", list_names(of_heads)));
  }
  if (!more_of_heads.empty()) {
    throw Error(ErrorCode::unsupported, adapter.where.empty() ? adapter.name : adapter.where,
                cat("adapters of kv_b_proj: expected factors alone, got more in ", more_of_heads.size(), " of ",
                    adapter.modules.size(), ": ", list_names(more_of_heads)));
  }
  if (changes.empty() && experts.empty() && latents.empty() && wrong.empty())
    std::move(beside.begin(), beside.end(), std::back_inserter(unknown));
  if (unknown.size() == adapter.modules.size()) {
    refuse(adapter, base, cat("none of its ", unknown.size(), " modules is in the base: ", list_names(unknown)));
  }
  if (!unknown.empty()) {
    refuse(adapter, base,
           cat("modules that the base does not have: expected none, got ", unknown.size(), " of ",
               adapter.modules.size(), ": ", list_names(unknown)));
  }
  if (!wrong.empty()) {
    refuse(
        adapter, base,
        cat("other sizes: expected none, got ", wrong.size(), " of ", adapter.modules.size(), ": ", list_names(wrong)));
  }
  check_targets(adapter, base, modules, changes, stacks, experts, latents);
  if (!beside.empty()) {
    note(adapter.where, "left out ", beside.size(), " modules beside the text model: ", list_names(beside));
  }
  BoundAdapter bound{.adapter = &adapter,
                     .modules = std::move(changes),
                     .experts = std::move(experts),
                     .derived = {},
                     .of_heads = {},
                     .transposed = {}};
  for (const auto& [name, of] : latents) bind_heads(*of.first, of.second, bound);
  if (base.tied_head) tie_head(bound, base);
  return bound;
}

}  // namespace bumblebee::lora
