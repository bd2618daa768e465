// mlx-lm names the parts of an expert alike in all families; Mixtral's files have names of their own.
#include "lora/expert_paths.h"

#include <array>
#include <utility>

#include "base/error.h"
#include "lora/writers.h"

namespace bumblebee::lora {
namespace {

constexpr std::string_view kStack = ".switch_mlp.", kEach = ".experts.#.", kMixtral = ".block_sparse_moe";
constexpr std::array<std::pair<std::string_view, std::string_view>, 3> kMixtralParts = {
    {{"w1", "gate_proj"}, {"w2", "down_proj"}, {"w3", "up_proj"}}};

void replace(std::string& path, std::string_view from, std::string_view to) {
  path.replace(path.find(from), from.size(), to);
}

/// Replaces the last component of a path in Mixtral's block.
void rename_part(std::string& path, bool to_stack) {
  if (path.find(kMixtral) == std::string::npos) return;
  for (const auto& [theirs, ours] : kMixtralParts) {
    const std::string_view from = to_stack ? theirs : ours, to = to_stack ? ours : theirs;
    if (!path.ends_with(cat(".", from))) continue;
    path.replace(path.size() - from.size(), from.size(), to);
    return;
  }
}

}  // namespace

ExpertPath expert_path(std::string_view path) {
  size_t end = path.size();
  for (size_t dot = path.rfind('.'); dot != std::string_view::npos && dot > 0; dot = path.rfind('.', dot - 1)) {
    const std::string_view part = path.substr(dot + 1, end - dot - 1);
    if (!part.empty() && part.size() <= 6 && part.find_first_not_of("0123456789") == std::string_view::npos)
      return {cat(path.substr(0, dot + 1), "#", path.substr(end)), std::stoi(std::string(part))};
    end = dot;
  }
  return {};
}

std::string stack_name(std::string_view each) {
  std::string name(each);
  if (name.find(kEach) == std::string::npos) return "";
  replace(name, kEach, kStack);
  rename_part(name, true);
  return name;
}

std::string each_name(std::string_view stack) {
  std::string name(stack);
  if (name.find(kStack) == std::string::npos) return "";
  replace(name, kStack, kEach);
  rename_part(name, false);
  return name;
}

bool is_parameter(const Adapter& adapter, std::string_view path) {
  return adapter.dialect == Dialect::peft &&
         (path.ends_with(".experts.gate_up_proj") || path.ends_with(".experts.down_proj"));
}

bool has_stacks(const Adapter& adapter) {
  for (const auto& [path, change] : adapter.modules) {
    if (change.low_rank && change.low_rank->experts > 0) return true;
  }
  return false;
}

bool has_single_experts(const Adapter& adapter) {
  for (const auto& [path, change] : adapter.modules) {
    if (!stack_name(expert_path(path).each).empty()) return true;
  }
  return false;
}

Adapter stack_experts(const Adapter& adapter) {
  Adapter result = adapter;
  result.modules.clear();
  std::map<std::string, std::map<int, const std::string*>> groups;  // by stack, by expert: the path
  for (const auto& [path, change] : adapter.modules) {
    const ExpertPath own = expert_path(path);
    const std::string stack = stack_name(own.each);
    if (stack.empty()) {
      result.modules[path] = change;
    } else {
      groups[stack][own.expert] = &path;
    }
  }
  for (const auto& [stack, experts] : groups) {
    LowRank all;
    all.experts = int(experts.size());
    for (const auto& [expert, path] : experts) {
      const ModuleDelta& change = adapter.modules.at(*path);
      if (!change.low_rank || change.weight || change.bias || !change.low_rank->magnitude.empty() ||
          !change.low_rank->b_bias.empty())
        cannot_write(adapter, *path, "a stack of experts has place for factors alone");
      const LowRank& low = *change.low_rank;
      const bool first = all.a.values.empty();
      if (first) {
        all.a = {0, low.a.cols, {}};
        all.b = {0, low.b.cols, {}};
        all.scale = low.scale;
      }
      if (experts.rbegin()->first + 1 != all.experts)
        cannot_write(adapter, stack,
                     cat("expected factors of every expert up to ", experts.rbegin()->first, ", got ", all.experts));
      if (low.rank() != all.rank() || low.scale != all.scale || low.a.cols != all.a.cols ||
          (!first && low.b.rows * expert != all.b.rows))
        cannot_write(adapter, *path, "expected the sizes, rank and scale of the expert before");
      all.a.rows += low.a.rows;
      all.b.rows += low.b.rows;
      all.a.values.insert(all.a.values.end(), low.a.values.begin(), low.a.values.end());
      all.b.values.insert(all.b.values.end(), low.b.values.begin(), low.b.values.end());
    }
    result.modules[stack].low_rank = std::move(all);
  }
  return result;
}

Adapter split_experts(const Adapter& adapter) {
  Adapter result = adapter;
  result.modules.clear();
  for (const auto& [path, change] : adapter.modules) {
    if (!change.low_rank || change.low_rank->experts == 0) {
      result.modules[path] = change;
      continue;
    }
    const LowRank& low = *change.low_rank;
    const std::string each = each_name(path);
    if (is_parameter(adapter, path)) {
      result.modules[path] = change;
      continue;
    }
    if (each.empty()) cannot_write(adapter, path, "expected a stack of experts under 'switch_mlp'");
    for (int e = 0; e < low.experts; ++e) {
      const FactorView own = view(low, e);
      std::string one = each;
      replace(one, "#", std::to_string(e));
      result.modules[one].low_rank = LowRank{{own.rank, low.a.cols, {own.a.begin(), own.a.end()}},
                                             {low.out(), own.rank, {own.b.begin(), own.b.end()}},
                                             own.scale,
                                             {},
                                             {}};
    }
  }
  return result;
}

}  // namespace bumblebee::lora
