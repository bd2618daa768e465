// Adapters of products per head, with what follows the products, mixed slots, several terms, heads without terms and
// biases inside.
#include <cmath>

#include "tests/ops/cases/common.h"

namespace bumblebee::op_cases {
namespace {

struct HeadsShape {
  int in = 0, out = 0, heads = 1, rest = 0;
  std::vector<int32_t> slot = {};  // of the rows
};
struct HeadSlot {
  std::vector<int> ranks = {};
  int every = 1;  // on every so many heads
  bool bias = false;
};

class LoraHeadsCase final : public OpCase {
 public:
  LoraHeadsCase(const std::string& variant, HeadsShape shape, const std::vector<HeadSlot>& slots)
      : OpCase("lora_heads", variant), shape_(std::move(shape)) {
    Random random(seed_of(name()));
    const int rows = int(shape_.slot.size());
    x_ = random_rows(random, rows, shape_.heads * (shape_.in + shape_.rest));
    y_ = random_rows(random, rows, shape_.heads * (shape_.out + shape_.rest));
    for (const HeadSlot& slot : slots) {
      TermsOfEach& table = tables_.emplace_back(size_t(shape_.heads));
      for (int h = 0; h < shape_.heads; h += slot.every) {
        for (const int rank : slot.ranks)
          table[size_t(h)].push_back(LowRankTerm::random(random, rank, shape_.in, shape_.out, slot.bias));
      }
    }
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = x_.rows, .slot = shape_.slot});
    std::vector<LoraEntry> entries;
    for (const TermsOfEach& table : tables_) entries.push_back(upload(backend, table));
    for (size_t s = 0; s < tables_.size(); ++s) {
      const std::vector<const LoraEntry*> by_site = {tables_[s].empty() ? nullptr : &entries[s]};
      backend.set_slot(int32_t(s), by_site);
    }
    const Tensor x = backend.upload(x_.values, x_.rows, x_.cols);
    Tensor y = backend.upload(y_.values, y_.rows, y_.cols);
    const Tensor held = y;
    eagerly(backend, [&] { backend.stream().ops().lora_heads(x, 0, shape_.heads, shape_.rest, y); });
    const std::vector<Output> outputs = {read_output(backend, "y", y),
                                         read_output(backend, "the other handle on y", held)};
    for (size_t s = 0; s < tables_.size(); ++s) backend.set_slot(int32_t(s), {});
    return outputs;
  }

  /// As of experts: two nested sums for each term, a product and a sum; what follows, and rows without terms, not at
  /// all.
  std::vector<std::vector<double>> bounds(const Precision& precision,
                                          const std::vector<Output>& reference) const override {
    std::vector<double> bound(y_.values.size(), 0);
    const size_t in = size_t(shape_.in + shape_.rest), out = size_t(shape_.out + shape_.rest);
    for (size_t r = 0; r < size_t(y_.rows); ++r) {
      const int32_t slot = shape_.slot[r];
      if (slot < 0 || size_t(slot) >= tables_.size()) continue;
      for (size_t h = 0; h < size_t(shape_.heads); ++h) {
        const std::vector<LowRankTerm>& terms = tables_[size_t(slot)][h];
        for (size_t n = 0; !terms.empty() && n < size_t(shape_.out); ++n) {
          const size_t at = r * size_t(y_.cols) + h * out + n;
          double size = std::abs(double(y_.values[at])), error = 0;
          for (const LowRankTerm& term : terms) error += term.error(x_.row(int(r)) + h * in, n, precision, size);
          bound[at] = error + 2 * kRoundF32 * (size + std::abs(double(reference[0].values[at])));
        }
      }
    }
    return {bound, std::vector<double>(y_.values.size(), 0)};
  }

 private:
  HeadsShape shape_;
  HostMatrix x_, y_;
  std::vector<TermsOfEach> tables_;  // by slot
};

}  // namespace

void add_lora_heads(Cases& cases) {
  const auto add = [&](const std::string& variant, const HeadsShape& shape, const std::vector<HeadSlot>& slots) {
    cases.push_back(std::make_unique<LoraHeadsCase>(variant, shape, slots));
  };
  const std::vector<HeadSlot> many = {{{4}}, {{3, 8}}, {{2}, 2}, {{5}, 1, true}};
  const auto mixed = [](int rows) {
    std::vector<int32_t> slot;
    for (int r = 0; r < rows; ++r) slot.push_back((r / 3) % 5 - 1);
    return slot;
  };
  add("one", {.in = 1, .out = 1, .slot = {0}}, {{{1}}});
  add("row1", {.in = 192, .out = 512, .heads = 20, .rest = 64, .slot = {0}}, {{{16}}});
  add("row1_back", {.in = 512, .out = 256, .heads = 20, .slot = {0}}, {{{16}}});
  add("row1_none", {.in = 32, .out = 16, .heads = 3, .rest = 8, .slot = {-1}}, {{{8}}});
  for (const int rows : {2, 6, 33, 70})
    add("rows" + std::to_string(rows), {.in = 96, .out = 40, .heads = 5, .rest = 7, .slot = mixed(rows)}, many);
  add("odd_sizes", {.in = 33, .out = 17, .heads = 3, .rest = 1, .slot = mixed(9)}, many);
  add("long_run", {.in = 64, .out = 33, .heads = 4, .slot = std::vector<int32_t>(120, 1)}, many);
}

}  // namespace bumblebee::op_cases
