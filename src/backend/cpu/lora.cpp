// Low-rank terms, row by row as the bound batch's slots say.
#include <algorithm>

#include "backend/cpu/cpu_ops.h"

namespace bumblebee::cpu {

void CpuOps::lora(const Tensor& x, std::span<const LoraTable* const> tables, std::span<Tensor> y) {
  for (size_t t = 0; t < tables.size(); ++t) {
    y[t] = own(y[t]);
    const auto& slots = tables[t]->slots;
    threads_.for_each(x.rows(), [&](int64_t r, int thread) {
      const int slot = batch_.slot[size_t(r)];
      if (slot < 0 || size_t(slot) >= slots.size() || !slots[size_t(slot)].a) return;
      const LoraTable::Entry& e = slots[size_t(slot)];
      const int rank = e.a.rows(), out = e.b.rows();
      float* u = scratch(thread, size_t(rank) + size_t(out)).data();
      float* delta = u + rank;
      std::fill_n(u, rank + out, 0.0f);
      for (int k = 0; k < x.cols(); k += kBlock) {
        k_.dot_block({row(x, int(r)) + k, size_t(x.cols())}, 1, {data(e.a) + k, size_t(x.cols())}, rank,
                     std::min(kBlock, x.cols() - k), u, size_t(rank));
      }
      for (int k = 0; k < rank; k += kBlock) {
        k_.dot_block({u + k, size_t(rank)}, 1, {data(e.b) + k, size_t(rank)}, out, std::min(kBlock, rank - k), delta,
                     size_t(out));
      }
      k_.add_scaled(row(y[t], int(r)), delta, e.scale, out);
    });
  }
}

}  // namespace bumblebee::cpu
