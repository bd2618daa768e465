// Low-rank terms with mixed slots: none, absent in this module, past the table's end, and several ranks in one batch.
#include <cmath>

#include "tests/ops/cases/common.h"

namespace bumblebee::op_cases {
namespace {

struct Pair {
  int rank = 0;  // 0: this slot leaves the module alone
  float scale = 0;
  std::vector<float> a, b;
};

class LoraCase final : public OpCase {
 public:
  LoraCase(const std::string& variant, int in, const std::vector<int>& outs, const std::vector<int>& ranks,
           const std::vector<int32_t>& slot, bool shared)
      : OpCase("lora", variant), outs_(outs), slot_(slot), shared_(shared) {
    Random random(seed_of(name()));
    x_ = random_rows(random, int(slot.size()), in);
    for (size_t t = 0; t < outs.size(); ++t) {
      y_.push_back(random_rows(random, x_.rows, outs[t]));
      std::vector<Pair> table;
      for (size_t s = 0; s < ranks.size(); ++s) {
        const int rank = (s + t) % 3 == 2 ? 0 : ranks[s];
        table.push_back({rank, float(random.uniform(0.5, 20)),
                         random.normals(size_t(rank) * size_t(in), 1 / std::sqrt(double(in))),
                         random.normals(size_t(outs[t]) * size_t(rank), 0.1)});
      }
      tables_.push_back(std::move(table));
    }
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = x_.rows, .slot = slot_});
    std::vector<LoraTable> tables;
    std::vector<Tensor> y, held;
    for (size_t t = 0; t < outs_.size(); ++t) {
      LoraTable table;
      for (const Pair& p : tables_[t]) {
        if (p.rank == 0) {
          table.slots.emplace_back();
        } else {
          table.slots.push_back({backend.upload(p.a, p.rank, x_.cols), backend.upload(p.b, outs_[t], p.rank), p.scale});
        }
      }
      tables.push_back(std::move(table));
      y.push_back(backend.upload(y_[t].values, x_.rows, outs_[t]));
    }
    if (shared_) held = y;
    std::vector<const LoraTable*> pointers;
    for (const LoraTable& table : tables) pointers.push_back(&table);
    const Tensor x = backend.upload(x_.values, x_.rows, x_.cols);
    backend.run({x_.rows, 0, true}, [&] { backend.ops().lora(x, pointers, y); });
    std::vector<Output> outputs;
    for (const Tensor& t : y) outputs.push_back(read_output(backend, "y", t));
    for (const Tensor& t : held) outputs.push_back(read_output(backend, "the other handle on y", t));
    return outputs;
  }

  /// Rows that have no pair must not move at all. Else two nested sums: of `in` and of `rank` products, then a product
  /// and a sum.
  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>& reference) const override {
    std::vector<std::vector<double>> bounds;
    for (size_t t = 0; t < outs_.size(); ++t) {
      std::vector<double> bound(reference[t].values.size(), 0);
      for (int r = 0; r < x_.rows; ++r) {
        const int slot = slot_[size_t(r)];
        if (slot < 0 || size_t(slot) >= tables_[t].size() || tables_[t][size_t(slot)].rank == 0) continue;
        const Pair& p = tables_[t][size_t(slot)];
        for (int n = 0; n < outs_[t]; ++n) {
          double magnitude = 0;
          for (int i = 0; i < p.rank; ++i) {
            double inner = 0;
            for (int k = 0; k < x_.cols; ++k)
              inner += std::abs(double(x_.row(r)[k]) * double(p.a[size_t(i) * size_t(x_.cols) + size_t(k)]));
            magnitude += inner * std::abs(double(p.b[size_t(n) * size_t(p.rank) + size_t(i)]));
          }
          const size_t at = size_t(r) * size_t(outs_[t]) + size_t(n);
          bound[at] = (sum_error(x_.cols) + sum_error(p.rank, 4)) * double(p.scale) * magnitude +
                      2 * kRoundF32 * std::abs(double(reference[t].values[at]));
        }
      }
      bounds.push_back(std::move(bound));
    }
    if (shared_) {
      for (const HostMatrix& y : y_) bounds.emplace_back(y.values.size(), 0);
    }
    return bounds;
  }

 private:
  std::vector<int> outs_;
  std::vector<int32_t> slot_;
  bool shared_;
  HostMatrix x_;
  std::vector<HostMatrix> y_;
  std::vector<std::vector<Pair>> tables_;
};

}  // namespace

void add_lora(Cases& cases) {
  const auto add = [&](const std::string& variant, int in, const std::vector<int>& outs, const std::vector<int>& ranks,
                       const std::vector<int32_t>& slot, bool shared) {
    cases.push_back(std::make_unique<LoraCase>(variant, in, outs, ranks, slot, shared));
  };
  add("one_row", 64, {33}, {8}, {0}, false);
  add("nobody", 64, {33}, {8}, {-1, -1, -1}, true);
  add("rank1", 64, {1}, {1}, {0, -1, 0}, false);
  add("odd_sizes", 37, {17}, {3, 5}, {0, 1, 1, -1, 0}, false);
  add("mixed", 128, {64, 16, 16}, {8, 16, 4, 64}, {-1, 0, 0, 1, 2, 3, 3, -1, 1}, false);
  add("mixed_shared", 128, {64, 16, 16}, {8, 16, 4, 64}, {3, 2, 1, 0, -1}, true);
  add("slot_past_the_table", 64, {20}, {8}, {0, 7, -1}, false);
  add("many_rows", 256, {96}, {16, 8},
      {0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, 1, 1, 0, 0, 1, 0, 1, 0, -1, 0, 1, 1, 1, 1, 0, 0}, false);
}

}  // namespace bumblebee::op_cases
