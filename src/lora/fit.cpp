// Module by module against the sites of a base; then the other way round, for modules that were trained and are
// missing.
#include "lora/fit.h"

#include <algorithm>
#include <unordered_map>

#include "base/error.h"
#include "io/quote.h"
#include "lora/tensor_set.h"

namespace bumblebee::lora {
namespace {

using Sites = std::unordered_map<std::string, const nn::Site*>;
using Kind = nn::Site::Kind;

std::string pair_text(int rows, int cols) { return cat("[", rows, ", ", cols, "]"); }

std::string shape_of(const Matrix& matrix) { return pair_text(matrix.rows, matrix.cols); }

/// What is wrong with these factors at this site; empty when nothing is.
std::string low_rank_problem(const LowRank& low, const nn::Site& site, Dialect dialect) {
  if (site.kind == Kind::norm) return "a norm cannot have factors";
  if (low.a.cols != site.in) return cat("inputs of A: expected ", site.in, ", got ", low.a.cols);
  if (low.b.rows != site.out) return cat("outputs of B: expected ", site.out, ", got ", low.b.rows);
  if (low.magnitude.empty()) return "";
  const bool per_token = site.kind == Kind::embedding && dialect == Dialect::mlx;
  const auto size = size_t(per_token ? site.in : site.out);
  if (low.magnitude.size() != size) return cat("magnitude: expected [", size, "], got [", low.magnitude.size(), "]");
  return "";
}

std::string weight_problem(const Matrix& weight, const nn::Site& site) {
  int rows = site.out, cols = site.in;
  if (site.kind == Kind::embedding) std::swap(rows, cols);
  if (site.kind == Kind::norm) rows = 1;
  if (weight.rows == rows && weight.cols == cols) return "";
  return cat("weight: expected ", pair_text(rows, cols), ", got ", shape_of(weight));
}

std::string problem(const Change& change, const nn::Site& site, Dialect dialect) {
  std::string text;
  if (change.low_rank) text = low_rank_problem(*change.low_rank, site, dialect);
  if (text.empty() && change.weight) text = weight_problem(*change.weight, site);
  if (text.empty() && change.bias) {
    if (!site.bias) return "bias: the base has none here";
    if (change.bias->size() != size_t(site.out)) {
      return cat("bias: expected [", site.out, "], got [", change.bias->size(), "]");
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
  for (const nn::Site& site : base.sites) layers = std::max(layers, layer_of(site.name) + 1);
  return layers;
}

/// Modules that the config says were trained, and that the file lacks; and the other way round where the number of
/// layers decides: an adapter for the last 16 of 28 layers is another one for a base of 36.
void check_targets(const Adapter& adapter, const Base& base, const Sites& sites) {
  if (!adapter.targets) return;
  const int layers = layers_of(base);
  std::vector<std::string> missing, outside;
  for (const nn::Site& site : base.sites) {
    if (site.kind == Kind::norm || adapter.modules.contains(site.name)) continue;
    if (adapter.targets->covers(site.name, layers, site.kind == Kind::embedding)) missing.push_back(site.name);
  }
  for (const auto& [path, change] : adapter.modules) {
    if (change.low_rank && !adapter.targets->covers(path, layers, sites.at(path)->kind == Kind::embedding))
      outside.push_back(path);
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

Matrix transposed(const Matrix& m) {
  Matrix t{m.cols, m.rows, std::vector<float>(m.values.size())};
  for (size_t r = 0; r < size_t(m.rows); ++r) {
    for (size_t c = 0; c < size_t(m.cols); ++c) t.values[c * size_t(m.rows) + r] = m.values[r * size_t(m.cols) + c];
  }
  return t;
}

/// mlx-lm has one module for both ends of a tied model: `as_linear` of the adapted embedding is the head. In PEFT they
/// are two modules that share a parameter, and only that is changed for both.
void tie_head(Adapter& adapter, const Base& base) {
  for (const nn::Site& site : base.sites) {
    if (site.kind != Kind::embedding || !adapter.modules.contains(site.name)) continue;
    if (adapter.dialect == Dialect::peft) {
      const Change& table = adapter.modules.at(site.name);
      if (!table.weight || !table.shared_weight) return;
      Change& head = adapter.modules["lm_head"];
      if (!head.weight) head.weight = table.weight;
      return;
    }
    if (adapter.modules.contains("lm_head")) {
      refuse(adapter, base, cat("the head is tied to ", in_quotes(site.name), ": expected one of the two, got both"));
    }
    const Change& table = adapter.modules.at(site.name);
    Change head;
    if (table.low_rank) {
      // E' = E + s·(B A)ᵀ, so E'·x = E·x + s·Aᵀ(Bᵀ x).
      head.low_rank = LowRank{transposed(table.low_rank->b),
                              transposed(table.low_rank->a),
                              table.low_rank->scale,
                              {},
                              table.low_rank->magnitude};
    }
    head.weight = table.weight;
    adapter.modules.emplace("lm_head", std::move(head));
    return;
  }
}

}  // namespace

Adapter fit(Adapter adapter, const Base& base) {
  if (adapter.modules.empty()) refuse(adapter, base, "expected modules, got none");
  Sites sites;
  for (const nn::Site& site : base.sites) sites.emplace(site.name, &site);
  std::vector<std::string> unknown, wrong;
  for (const auto& [path, change] : adapter.modules) {
    const auto it = sites.find(path);
    if (it == sites.end()) {
      unknown.push_back(path);
    } else if (const std::string text = problem(change, *it->second, adapter.dialect); !text.empty()) {
      wrong.push_back(cat(path, " (", text, ")"));
    }
  }
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
  check_targets(adapter, base, sites);
  if (base.tied_head) tie_head(adapter, base);
  return adapter;
}

}  // namespace bumblebee::lora
