// Adapters of experts with mixed slots: none, absent in a module, several terms, ranks that differ from expert to
// expert, experts without terms, biases inside; factors of experts that nobody chose are not numbers.
#include <cmath>

#include "tests/ops/cases/routed.h"

namespace bumblebee::op_cases {
namespace {

/// What a slot has: terms of these ranks, on every `every`-th expert.
struct SlotTerms {
  std::vector<int> ranks = {};
  int every = 1;
  bool bias = false;
};

struct Assigned {
  int in = 0, experts = 0, top_k = 0;
  std::vector<int> outs;
  std::vector<int32_t> slot = {};  // of the rows
  ExpertRows kind = ExpertRows::batch;
  Spread spread = Spread::even;
};

class LoraExpertsCase final : public OpCase {
 public:
  /// slots[s] is what slot s does to the modules; module t leaves out every third of (s + t).
  LoraExpertsCase(const std::string& variant, Assigned shape, const std::vector<SlotTerms>& slots)
      : OpCase("lora_experts", variant), shape_(std::move(shape)) {
    Random random(seed_of(name()));
    const int rows = int(shape_.slot.size());
    logits_ = spread_logits(random, rows, shape_.experts, shape_.spread);
    x_ = random_rows(random, shape_.kind == ExpertRows::batch ? rows : rows * shape_.top_k, shape_.in);
    const Chosen chosen(logits_, shape_.top_k);
    for (size_t t = 0; t < shape_.outs.size(); ++t) {
      y_.push_back(random_rows(random, rows * shape_.top_k, shape_.outs[t]));
      std::vector<TermsOfEach>& table = tables_.emplace_back();
      for (size_t s = 0; s < slots.size(); ++s) {
        table.emplace_back();
        if ((s + t) % 3 != 2) table.back() = random_experts(random, slots[s], shape_.outs[t], chosen);
      }
    }
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = logits_.rows, .slot = shape_.slot});
    std::vector<std::vector<LoraEntry>> entries;  // by module, by slot
    std::vector<Tensor> y, held;
    std::vector<int> sites;
    for (size_t t = 0; t < y_.size(); ++t) {
      sites.push_back(int(t));
      y.push_back(backend.upload(y_[t].values, y_[t].rows, y_[t].cols));
      std::vector<LoraEntry>& of_slots = entries.emplace_back();
      for (const TermsOfEach& experts : tables_[t]) of_slots.push_back(upload(backend, experts));
    }
    held.push_back(y.front());
    const size_t slots = tables_.front().size();
    for (size_t s = 0; s < slots; ++s) {
      std::vector<const LoraEntry*> by_site;
      for (const auto& module : entries) by_site.push_back(module[s].experts.empty() ? nullptr : &module[s]);
      backend.set_slot(int32_t(s), by_site);
    }
    const Tensor logits = backend.upload(logits_.values, logits_.rows, logits_.cols),
                 x = backend.upload(x_.values, x_.rows, x_.cols);
    eagerly(backend, [&] {
      Ops& ops = backend.stream().ops();
      const Routing routing = ops.route(logits, {.experts = shape_.experts, .top_k = shape_.top_k, .bias = {}});
      ops.lora_experts(x, shape_.kind, routing, sites, y);
    });
    std::vector<Output> outputs;
    for (const Tensor& one : y) outputs.push_back(read_output(backend, "y", one));
    outputs.push_back(read_output(backend, "the other handle on y", held.front()));
    for (size_t s = 0; s < slots; ++s) backend.set_slot(int32_t(s), {});
    return outputs;
  }

  /// An assignment without terms must not move at all. Else two nested sums for each term (of `in` and of `rank`
  /// products), a product and a sum.
  std::vector<std::vector<double>> bounds(const Precision& precision,
                                          const std::vector<Output>& reference) const override {
    const Chosen chosen(logits_, shape_.top_k);
    std::vector<std::vector<double>> bounds;
    for (size_t t = 0; t < y_.size(); ++t) {
      const size_t out = size_t(shape_.outs[t]);
      std::vector<double>& bound = bounds.emplace_back(y_[t].values.size(), 0);
      for (size_t a = 0; a < chosen.row.size(); ++a) {
        const int32_t slot = shape_.slot[size_t(chosen.row[a])];
        if (slot < 0 || size_t(slot) >= tables_[t].size() || tables_[t][size_t(slot)].empty()) continue;
        const auto& terms = tables_[t][size_t(slot)][size_t(chosen.expert[a])];
        if (terms.empty()) continue;
        const float* x = x_.row(shape_.kind == ExpertRows::batch ? chosen.row[a] : int(a));
        for (size_t n = 0; n < out; ++n) {
          double size = std::abs(double(y_[t].values[a * out + n])), error = 0;
          for (const LowRankTerm& term : terms) error += term.error(x, n, precision, size);
          bound[a * out + n] =
              error + 2 * kRoundF32 * size + 2 * kRoundF32 * std::abs(double(reference[t].values[a * out + n]));
        }
      }
    }
    bounds.emplace_back(y_.front().values.size(), 0);
    return bounds;
  }

 private:
  TermsOfEach random_experts(Random& random, const SlotTerms& parts, int out, const Chosen& chosen) const {
    TermsOfEach experts(size_t(shape_.experts));
    for (int e = 0; e < shape_.experts; ++e) {
      if (e % parts.every != 0) continue;
      const bool read = std::find(chosen.expert.begin(), chosen.expert.end(), e) != chosen.expert.end();
      for (const int rank : parts.ranks) {
        const int own = rank + (parts.every > 1 ? e % 3 : 0);
        LowRankTerm term = LowRankTerm::random(random, own, shape_.in, out, parts.bias);
        if (!read) std::fill(term.a.begin(), term.a.end(), NAN);
        experts[size_t(e)].push_back(std::move(term));
      }
    }
    return experts;
  }

  Assigned shape_;
  HostMatrix logits_, x_;
  std::vector<HostMatrix> y_;
  std::vector<std::vector<TermsOfEach>> tables_;  // by module, by slot
};

/// Runs of one slot, of all, and of none.
std::vector<int32_t> mixed(int rows) {
  std::vector<int32_t> slot;
  for (int r = 0; r < rows; ++r) slot.push_back((r / 3) % 5 - 1);
  return slot;
}

}  // namespace

void add_lora_experts(Cases& cases) {
  const auto add = [&](const std::string& variant, const Assigned& shape, const std::vector<SlotTerms>& slots) {
    cases.push_back(std::make_unique<LoraExpertsCase>(variant, shape, slots));
  };
  using Slots = std::vector<SlotTerms>;
  const std::vector<SlotTerms> many = {{{4}}, {{3, 8}}, {{2}, 2}, {{5}, 1, true}};
  add("one", {.in = 16, .experts = 1, .top_k = 1, .outs = {16}, .slot = {0}}, Slots{{{1}}});
  // A row of generation: gate and up from the row, down from its assignments.
  add("row1", {.in = 128, .experts = 16, .top_k = 4, .outs = {48, 48}, .slot = {0}}, Slots{{{8}}});
  add("row1_down", {.in = 48, .experts = 16, .top_k = 4, .outs = {128}, .slot = {0}, .kind = ExpertRows::assignments},
      Slots{{{8}}});
  add("row1_none", {.in = 64, .experts = 4, .top_k = 2, .outs = {32}, .slot = {-1}}, Slots{{{8}}});
  for (const int rows : {2, 6, 33, 70}) {
    const std::string name = "rows" + std::to_string(rows);
    add(name, {.in = 96, .experts = 5, .top_k = 2, .outs = {40, 40}, .slot = mixed(rows)}, many);
    add(name + "_down",
        {.in = 40, .experts = 5, .top_k = 2, .outs = {96}, .slot = mixed(rows), .kind = ExpertRows::assignments}, many);
  }
  add("one_slot", {.in = 64, .experts = 3, .top_k = 2, .outs = {48}, .slot = std::vector<int32_t>(150, 0)},
      Slots{{{16}}});
  add("skewed", {.in = 64, .experts = 12, .top_k = 3, .outs = {33}, .slot = mixed(40), .spread = Spread::skewed}, many);
  add("odd_sizes", {.in = 37, .experts = 7, .top_k = 3, .outs = {19, 1}, .slot = mixed(11)}, many);
  add("wide", {.in = 512, .experts = 8, .top_k = 2, .outs = {256, 256}, .slot = mixed(24)}, many);
}

}  // namespace bumblebee::op_cases
