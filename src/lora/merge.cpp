// [A₁; A₂] and [B₁·p₁/s, B₂·p₂/s] with pᵢ = wᵢ·sᵢ and s the largest of them.
#include "lora/merge.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string_view>

#include "base/error.h"
#include "lora/bind_to_base.h"
#include "lora/expert_paths.h"
#include "lora/writers.h"

namespace bumblebee::lora {
namespace {

struct Part {
  const LowRank* low = nullptr;
  double product = 0;
  const Adapter* from = nullptr;
};

void check(const std::vector<Weighted>& parts) {
  if (parts.empty()) throw Error(ErrorCode::bad_request, "merge", "expected adapters, got none");
  for (const auto& [adapter, weight] : parts) {
    if (!std::isfinite(weight))
      throw Error(ErrorCode::bad_request, adapter.where, cat("weight: expected a finite number, got ", weight));
    for (const auto& [path, change] : adapter.modules) {
      if (!change.low_rank || change.weight || change.bias)
        cannot_write(adapter, path, "whole weights and biases do not combine linearly");
      if (!change.low_rank->magnitude.empty()) cannot_write(adapter, path, "DoRA does not combine linearly");
      if (is_embedding(path) && adapter.dialect != parts.front().adapter.dialect)
        cannot_write(adapter, path, "the two formats mean different things by an adapted embedding");
    }
  }
}

/// A stack and one of its experts would not meet.
void check_experts(const std::vector<Weighted>& parts) {
  const Adapter *stacks = nullptr, *single = nullptr;
  for (const Weighted& part : parts) {
    if (has_stacks(part.adapter)) stacks = &part.adapter;
    if (has_single_experts(part.adapter)) single = &part.adapter;
  }
  if (stacks == nullptr || single == nullptr) return;
  throw Error(ErrorCode::unsupported, "merge",
              cat("experts: expected all as stacks or all module by module, got '", stacks->name, "' and '",
                  single->name, "': convert one of them first"));
}

/// Returns whether every value is exact.
bool combine(const std::string& path, const std::vector<Part>& parts, LowRank& result) {
  const LowRank& first = *parts.front().low;
  size_t rank = 0;
  double scale = 0;
  for (const Part& part : parts) {
    if (part.low->experts != first.experts) {
      throw Error(ErrorCode::bad_request, part.from->where,
                  cat("module '", path, "': expected factors of ", first.experts,
                      " experts as in the first adapter, got ", part.low->experts));
    }
    if (part.low->a.cols != first.a.cols || part.low->b.rows != first.b.rows) {
      throw Error(ErrorCode::bad_request, part.from->where,
                  cat("module '", path, "': expected [", first.b.rows, ", ", first.a.cols,
                      "] as in the first adapter, got [", part.low->b.rows, ", ", part.low->a.cols, "]"));
    }
    rank += size_t(part.low->rank());
    if (std::abs(part.product) > std::abs(scale)) scale = part.product;
  }
  result.scale = float(scale);
  if (!std::isfinite(result.scale))
    cannot_write(*parts.front().from, path, "weight times scale is too large for an f32");
  const size_t out = size_t(first.b.rows), experts = size_t(std::max(first.experts, 1));
  result.experts = first.experts;
  result.a = {int(experts * rank), first.a.cols, {}};
  result.b = {int(out), int(rank), std::vector<float>(out * rank)};
  for (size_t e = 0; e < experts; ++e) {
    for (const Part& part : parts) {
      const FactorView own = view(*part.low, int(e));
      result.a.values.insert(result.a.values.end(), own.a.begin(), own.a.end());
    }
  }
  bool exact = true;
  size_t at = 0;
  for (const Part& part : parts) {
    const size_t own = size_t(part.low->rank());
    const double ratio = result.scale == 0 ? 0 : part.product / double(result.scale);
    const auto scaled = [&](float value) {
      const float to = float(double(value) * ratio);
      exact = exact && double(to) * double(result.scale) == double(value) * part.product;
      return to;
    };
    for (size_t o = 0; o < out; ++o) {
      for (size_t k = 0; k < own; ++k) result.b.values[o * rank + at + k] = scaled(part.low->b.values[o * own + k]);
    }
    if (!part.low->b_bias.empty()) {
      result.b_bias.resize(out);
      for (size_t o = 0; o < out; ++o) result.b_bias[o] += scaled(part.low->b_bias[o]);
      exact = false;  // sums of them are rounded
    }
    at += own;
  }
  return exact;
}

/// An adapter's changes by the modules' names inside the text model: two adapters may have learned under different
/// packagings of one base.
std::map<std::string, const LowRank*> by_plain_path(const Adapter& adapter) {
  std::map<std::string, const LowRank*> changes;
  for (const auto& [path, change] : adapter.modules) {
    if (!changes.emplace(plain_path(path), &*change.low_rank).second)
      throw Error(ErrorCode::bad_request, adapter.where, cat("expected one module '", plain_path(path), "', got two"));
  }
  return changes;
}

/// The last name of a path or of a repository's id: one base has many addresses.
std::string_view last_name(std::string_view base) {
  while (base.ends_with('/')) base.remove_suffix(1);
  return base.substr(base.rfind('/') + 1);
}

/// What was learned on another base may still fit, where the modules are the same; where none are, nothing says so.
void check_bases(const std::vector<Weighted>& parts, const std::vector<std::map<std::string, const LowRank*>>& changes,
                 std::vector<std::string>& others) {
  const Adapter& first = parts.front().adapter;
  for (size_t i = 1; i < parts.size(); ++i) {
    const Adapter& other = parts[i].adapter;
    if (first.base.empty() || other.base.empty() || last_name(first.base) == last_name(other.base)) continue;
    const auto shared = [&](const auto& change) { return changes.front().contains(change.first); };
    if (std::none_of(changes[i].begin(), changes[i].end(), shared)) {
      throw Error(ErrorCode::bad_request, other.where,
                  cat("expected an adapter of '", first.base,
                      "' as the first one, or modules that it changes too, got "
                      "one of '",
                      other.base, "' that shares none"));
    }
    others.push_back(other.base);
  }
}

}  // namespace

Merged merge(const std::vector<Weighted>& parts) {
  check(parts);
  check_experts(parts);
  std::map<std::string, std::set<std::string>> paths;  // every spelling of each module
  std::vector<std::map<std::string, const LowRank*>> changes;
  bool differ = false;
  for (const Weighted& part : parts) {
    changes.push_back(by_plain_path(part.adapter));
    for (const auto& [path, change] : part.adapter.modules) {
      std::set<std::string>& spellings = paths[plain_path(path)];
      spellings.insert(path);
      differ = differ || spellings.size() > 1;
    }
  }
  Merged merged;
  check_bases(parts, changes, merged.other_bases);
  Adapter& adapter = merged.adapter;
  adapter.dialect = parts.front().adapter.dialect;
  adapter.base = parts.front().adapter.base;
  int rounded = 0;
  for (const auto& [plain, spellings] : paths) {
    const std::string& path = differ ? plain : *spellings.begin();
    std::vector<Part> here;
    for (size_t i = 0; i < parts.size(); ++i) {
      const auto it = changes[i].find(plain);
      if (it == changes[i].end()) continue;
      here.push_back({it->second, parts[i].weight * double(it->second->scale), &parts[i].adapter});
    }
    LowRank low;
    rounded += !combine(path, here, low);
    adapter.modules[path].low_rank = std::move(low);
  }
  for (const Weighted& part : parts) {
    adapter.name += (adapter.name.empty() ? "" : "+") + part.adapter.name;
    if (part.adapter.base != adapter.base) adapter.base.clear();
  }
  adapter.where = adapter.name;
  // What one says about layers holds for the result when all say the same.
  const auto& said = parts.front().adapter.facts;
  if (const auto it = said.find("num_layers"); it != said.end()) {
    bool same = true;
    for (const Weighted& part : parts) {
      const auto other = part.adapter.facts.find("num_layers");
      same = same && other != part.adapter.facts.end() && other->second == it->second;
    }
    if (same) adapter.facts["num_layers"] = it->second;
  }
  // What any of them was trained on top of, the sum needs too.
  std::set<std::string> named;
  for (const Weighted& part : parts) {
    const auto under = part.adapter.facts.find("on_top_of");
    if (under == part.adapter.facts.end() || !named.insert(under->second).second) continue;
    std::string& all = adapter.facts["on_top_of"];
    all += (all.empty() ? "" : ", ") + under->second;
  }
  if (rounded > 0)
    merged.notes.push_back(
        cat("weights times scales differ: B of ", rounded, " modules was scaled, each value rounded once (2^-24)"));
  return merged;
}

}  // namespace bumblebee::lora
