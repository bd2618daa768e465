// Adapters of experts. Assignments lie sorted by expert; those of one expert and one slot that follow each other are
// worked on as a run, so that its factors are read once. Of experts that no row with an adapter chose, nothing is read.
#include <algorithm>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/lora.h"

namespace bumblebee::cpu {
/// Assignments first..first+count of one expert and slot, in one module of a call.
struct CpuOps::ExpertLora {
  size_t module = 0;
  int first = 0, count = 0;
  std::span<const LoraEntry::Term> terms;
  const float* x = nullptr;  // [count, in]
  size_t u = 0;              // where A x begins, term after term [count, rank]
};

std::vector<CpuOps::ExpertLora> CpuOps::expert_lora(const Tensor& x, ExpertRows rows, const Routing& routing,
                                                    std::span<const int> sites) {
  size_t experts = 0;
  for (const int32_t slot : batch_.slot) {
    for (const int site : sites) {
      const LoraEntry* entry = slots_.at(slot, site);
      if (entry != nullptr) experts = std::max(experts, entry->experts.size());
    }
  }
  std::vector<ExpertLora> runs;
  if (experts == 0) return runs;
  const ExpertPlan plan = plan_experts(routing, int(experts));
  const auto slot_at = [&](int assignment) { return batch_.slot[size_t(plan.row_of[size_t(assignment)])]; };
  size_t u = 0;
  for (size_t m = 0; m < sites.size(); ++m) {
    for (const ExpertRun& run : plan.runs) {
      for (int at = run.first; at < run.first + run.count;) {
        const int32_t slot = slot_at(at);
        ExpertLora own{.module = m, .first = at, .count = 1, .terms = {}, .u = u};
        while (at + own.count < run.first + run.count && slot_at(at + own.count) == slot) ++own.count;
        at += own.count;
        const LoraEntry* entry = slots_.at(slot, sites[m]);
        if (entry == nullptr || entry->experts.empty()) continue;
        own.terms = entry->experts[size_t(run.expert)];
        for (const LoraEntry::Term& term : own.terms) {
          BB_CHECK(term.factors.in == x.cols(), "in ", term.factors.in, " cols ", x.cols());
          u += size_t(own.count) * size_t(term.factors.rank);
        }
        if (!own.terms.empty()) runs.push_back(own);
      }
    }
  }
  if (lora_u_.size() < u) lora_u_.resize(u);
  if (rows == ExpertRows::batch) {
    gather_expert_lora(x, plan.row_of, runs);
  } else {
    for (ExpertLora& run : runs) run.x = row(x, run.first);
  }
  return runs;
}

void CpuOps::gather_expert_lora(const Tensor& x, const std::vector<int>& row_of, std::vector<ExpertLora>& runs) {
  const size_t in = size_t(x.cols());
  std::vector<int> apart(row_of.size(), -1);  // [assignments] where a copy lies
  std::vector<int> copied;                    // rows
  for (ExpertLora& run : runs) {
    const int* const own = row_of.data() + run.first;
    if (own[run.count - 1] - own[0] == run.count - 1) {  // rows ascend
      run.x = row(x, own[0]);
      continue;
    }
    for (int i = 0; i < run.count; ++i) {
      int& place = apart[size_t(run.first + i)];
      if (place >= 0) continue;  // of another module
      place = int(copied.size());
      copied.push_back(own[i]);
    }
  }
  if (copied.empty()) return;
  if (lora_x_.size() < copied.size() * in) lora_x_.resize(copied.size() * in);
  for_rows(int(copied.size()), x.cols(),
           [&](int i) { std::copy_n(row(x, copied[size_t(i)]), in, lora_x_.data() + size_t(i) * in); });
  for (ExpertLora& run : runs) {
    if (run.x == nullptr) run.x = lora_x_.data() + size_t(apart[size_t(run.first)]) * in;
  }
}

void CpuOps::lora_experts(const Tensor& x, ExpertRows rows, const Routing& routing, std::span<const int> sites,
                          std::span<Tensor> y) {
  const std::vector<ExpertLora> runs = expert_lora(x, rows, routing, sites);
  if (runs.empty()) return;
  struct Shrink {
    const ExpertLora* run;
    const LoraEntry::Term* term;
    float* u;
    int first_row, rows, first_rank, ranks;
  };
  struct Expand {
    const ExpertLora* run;
    int first, last;
  };
  constexpr int kColumns = 64;  // of y at least, for a task
  const int threads = threads_.threads(), wanted = (2 * threads + int(runs.size()) - 1) / int(runs.size());
  std::vector<Shrink> shrinks;
  std::vector<Expand> expands;
  int64_t products = 0;
  for (const ExpertLora& run : runs) {
    float* u = lora_u_.data() + run.u;
    for (const LoraEntry::Term& term : run.terms) {
      const int rank = term.factors.rank, pieces = std::clamp(rank / 4, 1, wanted);
      for (int r = 0; r < run.count; r += kShrinkRows) {
        for (int p = 0; p < pieces; ++p) {
          const int a = rank * p / pieces, b = rank * (p + 1) / pieces;
          shrinks.push_back({&run, &term, u, r, std::min(kShrinkRows, run.count - r), a, b - a});
        }
      }
      products += int64_t(run.count) * rank * (term.factors.in + term.factors.out);
      u += size_t(run.count) * size_t(rank);
    }
    const int out = y[run.module].cols(), blocks = (out + kColumns - 1) / kColumns, parts = std::min(wanted, blocks);
    for (int p = 0; p < parts; ++p)
      expands.push_back({&run, blocks * p / parts * kColumns, std::min(out, blocks * (p + 1) / parts * kColumns)});
    y[run.module] = make_writable(y[run.module]);
  }
  const auto shrink = [&](const Shrink& t) {
    const CpuLowRank& f = packed(t.term->factors);
    const size_t rank = size_t(t.term->factors.rank), in = size_t(x.cols());
    k_.lora_shrink({.a = reinterpret_cast<const uint8_t*>(f.a.get()) + size_t(t.first_rank) * in * size_of(f.a_element),
                    .element = f.a_element,
                    .a_stride = in,
                    .ranks = t.ranks,
                    .x = {t.run->x + size_t(t.first_row) * in, in},
                    .rows = t.rows,
                    .depth = x.cols(),
                    .u = t.u + size_t(t.first_row) * rank + t.first_rank,
                    .u_stride = rank});
  };
  const auto expand = [&](const Expand& t) {
    const float* u = lora_u_.data() + t.run->u;
    const Tensor& to = y[t.run->module];
    for (const LoraEntry::Term& term : t.run->terms) {
      const CpuLowRank& f = packed(term.factors);
      k_.lora_expand({.b = reinterpret_cast<const uint8_t*>(f.b.get()),
                      .element = f.b_element,
                      .rank = term.factors.rank,
                      .bias = f.bias.empty() ? nullptr : f.bias.data(),
                      .scale = term.scale,
                      .u = {u, size_t(term.factors.rank)},
                      .rows = t.run->count,
                      .y = row(to, t.run->first),
                      .y_stride = size_t(to.cols()),
                      .first = t.first,
                      .last = t.last});
      u += size_t(t.run->count) * size_t(term.factors.rank);
    }
  };
  if (threads == 1 || products < kSerialProducts) {
    for (const Shrink& task : shrinks) shrink(task);
    for (const Expand& task : expands) expand(task);
    return;
  }
  threads_.for_each(int64_t(shrinks.size()), [&](int64_t i, int) { shrink(shrinks[size_t(i)]); });
  threads_.for_each(int64_t(expands.size()), [&](int64_t i, int) { expand(expands[size_t(i)]); });
}

}  // namespace bumblebee::cpu
