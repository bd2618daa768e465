// Adapters of products per head. Rows of one slot that follow each other are a run, and a head of a run is a task: its
// factors are read once for all of its rows.
#include <algorithm>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/lora.h"

namespace bumblebee::cpu {

void CpuOps::lora_heads(const Tensor& x, int site, int heads, int rest, Tensor& y) {
  BB_CHECK(x.cols() % heads == 0 && y.cols() % heads == 0, "cols ", x.cols(), " and ", y.cols(), " of ", heads);
  const int in = x.cols() / heads - rest, out = y.cols() / heads - rest;
  struct Task {
    const std::vector<LoraEntry::Term>* terms;
    int head, first, count;
    size_t u;  // where A x begins, term after term [count, rank]
  };
  std::vector<Task> tasks;
  size_t u = 0;
  int64_t products = 0;
  for (int r = 0; r < y.rows();) {
    const int32_t slot = batch_.slot[size_t(r)];
    int count = 1;
    while (r + count < y.rows() && batch_.slot[size_t(r + count)] == slot) ++count;
    const LoraEntry* entry = slots_.at(slot, site);
    const bool any = entry != nullptr && !entry->experts.empty();
    BB_CHECK(!any || entry->experts.size() == size_t(heads), "heads ", heads);
    for (int h = 0; any && h < heads; ++h) {
      const std::vector<LoraEntry::Term>& terms = entry->experts[size_t(h)];
      if (!terms.empty()) tasks.push_back({&terms, h, r, count, u});
      for (const LoraEntry::Term& term : terms) {
        BB_CHECK(term.factors.in == in && term.factors.out == out, "factors of ", term.factors.in);
        u += size_t(count) * size_t(term.factors.rank);
        products += int64_t(count) * term.factors.rank * (in + out);
      }
    }
    r += count;
  }
  if (tasks.empty()) return;
  if (lora_u_.size() < u) lora_u_.resize(u);
  y = make_writable(y);
  const auto run = [&](const Task& t) {
    float* at = lora_u_.data() + t.u;
    for (const LoraEntry::Term& term : *t.terms) {
      const CpuLowRank& f = packed(term.factors);
      const size_t rank = size_t(term.factors.rank);
      for (int r = 0; r < t.count; r += kShrinkRows) {
        k_.lora_shrink({.a = reinterpret_cast<const uint8_t*>(f.a.get()),
                        .element = f.a_element,
                        .a_stride = size_t(in),
                        .ranks = int(rank),
                        .x = {row(x, t.first + r) + size_t(t.head) * size_t(in + rest), size_t(x.cols())},
                        .rows = std::min(kShrinkRows, t.count - r),
                        .depth = in,
                        .u = at + size_t(r) * rank,
                        .u_stride = rank});
      }
      k_.lora_expand({.b = reinterpret_cast<const uint8_t*>(f.b.get()),
                      .element = f.b_element,
                      .rank = int(rank),
                      .bias = f.bias.empty() ? nullptr : f.bias.data(),
                      .scale = term.scale,
                      .u = {at, rank},
                      .rows = t.count,
                      .y = row(y, t.first) + size_t(t.head) * size_t(out + rest),
                      .y_stride = size_t(y.cols()),
                      .first = 0,
                      .last = out});
      at += size_t(t.count) * rank;
    }
  };
  if (threads_.threads() == 1 || products < kSerialProducts) {
    for (const Task& task : tasks) run(task);
    return;
  }
  threads_.for_each(int64_t(tasks.size()), [&](int64_t i, int) { run(tasks[size_t(i)]); });
}

}  // namespace bumblebee::cpu
