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

namespace bumblebee::lora {
namespace {

using TargetModules = std::unordered_map<std::string, const nn::TargetModule*>;
using ModuleKind = nn::TargetModule::Kind;

std::string pair_text(int rows, int cols) { return cat("[", rows, ", ", cols, "]"); }

std::string shape_of(const Matrix& matrix) { return pair_text(matrix.rows, matrix.cols); }

/// What is wrong with these factors at this module; empty when nothing is.
std::string low_rank_problem(const LowRank& low, const nn::TargetModule& module, Dialect dialect) {
  if (module.kind == ModuleKind::norm) return "a norm cannot have factors";
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
  return modules.contains(name) ? name : path;
}

/// What changes which module, by the base's names.
using Changes = std::map<std::string, const ModuleDelta*>;

/// Modules that the config says were trained, and that the file lacks; and the other way round where the number of
/// layers decides: an adapter for the last 16 of 28 layers is another one for a base of 36.
void check_targets(const Adapter& adapter, const Base& base, const TargetModules& modules, const Changes& changes) {
  if (!adapter.targets) return;
  const int layers = layers_of(base);
  std::vector<std::string> missing, outside;
  for (const nn::TargetModule& module : base.target_modules) {
    if (module.kind == ModuleKind::norm || module.kind == ModuleKind::heads || changes.contains(module.name)) continue;
    // What of a mixture of experts is a linear module depends on who trained: in transformers 5 none of these is.
    if (module.kind == ModuleKind::experts || (module.router && adapter.dialect == Dialect::peft)) continue;
    if (adapter.targets->covers(module.name, layers, module.kind == ModuleKind::embedding))
      missing.push_back(module.name);
  }
  for (const auto& [path, change] : adapter.modules) {
    const auto module = modules.find(base_path(path, modules));
    if (module == modules.end() || !change.low_rank) continue;
    if (!adapter.targets->covers(path, layers, module->second->kind == ModuleKind::embedding)) outside.push_back(path);
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
  const bool has_experts = std::any_of(base.target_modules.begin(), base.target_modules.end(),
                                       [](const auto& module) { return module.kind == ModuleKind::experts; });
  const bool has_heads = std::any_of(base.target_modules.begin(), base.target_modules.end(),
                                     [](const auto& module) { return module.kind == ModuleKind::heads; });
  std::vector<std::string> unknown, wrong, beside, of_experts, of_heads;
  for (const auto& [path, change] : adapter.modules) {
    const auto it = modules.find(base_path(path, modules));
    const bool expert = it == modules.end() ? has_experts && path.find(".experts.") != std::string::npos
                                            : it->second->kind == ModuleKind::experts;
    const bool heads = it == modules.end() ? has_heads && path.ends_with("kv_b_proj")  // in the file as two
                                           : it->second->kind == ModuleKind::heads;
    if (heads) {
      of_heads.push_back(path);
    } else if (expert) {
      of_experts.push_back(path);
    } else if (it == modules.end()) {
      (is_beside_text(path) ? beside : unknown).push_back(path);
    } else if (const std::string text = problem(change, *it->second, adapter.dialect); !text.empty()) {
      wrong.push_back(cat(path, " (", text, ")"));
    } else if (!changes.emplace(it->first, &change).second) {
      refuse(adapter, base, cat("expected one module for ", in_quotes(it->first), ", got two"));
    }
  }
  if (!of_experts.empty()) {
    throw Error(ErrorCode::unsupported, adapter.where.empty() ? adapter.name : adapter.where,
                cat("adapters of experts are not implemented: expected none of these modules, got ", of_experts.size(),
                    " of ", adapter.modules.size(), ": ", list_names(of_experts)));
  }
  if (!of_heads.empty()) {
    throw Error(ErrorCode::unsupported, adapter.where.empty() ? adapter.name : adapter.where,
                cat("adapters of what makes keys and values of latents are not implemented: expected none of these "
                    "modules, got ",
                    of_heads.size(), " of ", adapter.modules.size(), ": ", list_names(of_heads)));
  }
  if (changes.empty() && wrong.empty()) std::move(beside.begin(), beside.end(), std::back_inserter(unknown));
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
  check_targets(adapter, base, modules, changes);
  if (!beside.empty()) {
    note(adapter.where, "left out ", beside.size(), " modules beside the text model: ", list_names(beside));
  }
  BoundAdapter bound{.adapter = &adapter, .modules = std::move(changes), .derived = {}};
  if (base.tied_head) tie_head(bound, base);
  return bound;
}

}  // namespace bumblebee::lora
