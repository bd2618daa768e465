// Products that apply adapters on the card of this machine: the bits that each row has by itself.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <memory>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "backend/registry.h"
#include "tests/backend/cuda/on_card.h"
#include "tests/support/memory_weights.h"
#include "tests/support/random.h"

namespace bumblebee {
namespace {

using testing_support::Random;

/// A norm, two products with silu(gate)·up, a product that is added, and adapters on all of them: as one step of a
/// card.
class AdaptedBlock {
 public:
  struct Term {
    int rank;
    bool bias = false;
  };
  AdaptedBlock(Backend& backend, int width, int inner, Random& random) : backend_(backend), width_(width) {
    const auto weight = [&](int out, int in) {
      return backend.pack(random_weight(random, out, in, Format::affine(4, 64, DType::bf16, DType::bf16), 1));
    };
    gate_ = weight(inner, width), up_ = weight(inner, width), down_ = weight(width, inner);
    norm_ = {backend.upload(random.normals(size_t(width), 1), 1, width), 1e-5f};
    sizes_ = {{{width, inner}, {width, inner}, {inner, width}}};
  }
  ~AdaptedBlock() {
    for (size_t slot = 0; slot < entries_.size(); ++slot) backend_.set_slot(int32_t(slot), {});
    backend_.stream().forget(this);
  }
  AdaptedBlock(const AdaptedBlock&) = delete;

  /// The next slot: these terms on every module but `without`.
  void add_slot(Random& random, const std::vector<Term>& terms, int without = -1, bool factor = false) {
    std::vector<std::unique_ptr<LoraEntry>>& entries = entries_.emplace_back();
    std::vector<const LoraEntry*> by_site;
    for (int site = 0; site < 3; ++site) {
      const auto [in, out] = sizes_[size_t(site)];
      auto entry = site == without ? nullptr : std::make_unique<LoraEntry>();
      for (size_t t = 0; entry != nullptr && t < terms.size(); ++t) {
        const size_t rank = size_t(terms[t].rank);
        const std::vector<float> a = random.normals(rank * size_t(in), 1 / std::sqrt(double(in))),
                                 b = random.normals(size_t(out) * rank, 0.3);
        const std::vector<float> bias = random.normals(terms[t].bias ? size_t(out) : 0, 0.3);
        entry->terms.push_back(
            {backend_.pack_factors({.rank = int(rank), .in = in, .out = out, .a = a, .b = b, .bias = bias},
                                   LowRankUse::linear),
             float(random.uniform(0.5, 2))});
      }
      if (entry != nullptr && factor) entry->dora_scale = backend_.upload(random.normals(size_t(out), 1), 1, out);
      by_site.push_back(entry.get());
      entries.push_back(std::move(entry));
    }
    backend_.set_slot(int32_t(entries_.size() - 1), by_site);
  }

  /// The residual and its norm after the block, of rows of `x` [rows, width] with these slots; `adapted`: as a step of
  /// adapters. `program` null: every operation by itself.
  std::vector<float> run(const std::vector<float>& x, const std::vector<int32_t>& slots, bool waits,
                         bool adapted = true) {
    Stream& stream = backend_.stream();
    Ops& ops = stream.ops();
    const int rows = int(slots.size());
    const Tensor input = backend_.upload(x, rows, width_);
    Batch batch;
    for (int r = 0; r < rows; ++r)  // each of a sequence of its own, as steps of more than 32 rows are recorded
      batch.append(std::vector<int32_t>{1}, 0, std::vector<int32_t>{0}, Batch::Want::all);
    batch.slot = slots;
    stream.bind(batch, nullptr);
    const StepKey key{
        .program = waits ? this : nullptr, .rows = rows, .logit_rows = rows, .adapters = adapted ? 1u : 0};
    const Tensor* const no_bias = nullptr;
    const StepOutputs out = stream.run(key, [&] {
      Tensor residual = ops.copy(input);
      std::array<Tensor, 2> pair;
      {
        const Tensor h = ops.rms_norm(residual, norm_);
        const std::array<MatmulTerm, 2> terms = {{{&gate_, nullptr}, {&up_, nullptr}}};
        ops.matmul(h, terms, pair);
        const std::array<LoraModule, 2> modules = {{{.site = 0, .bias = no_bias}, {.site = 1, .bias = no_bias}}};
        if (adapted) ops.lora(h, RowSet::all, modules, pair);
      }
      Tensor delta;
      {
        const Tensor mixed = ops.glu(Activation::silu, std::move(pair[0]), std::move(pair[1]));
        const MatmulTerm last{&down_, nullptr};
        ops.matmul(mixed, {&last, 1}, {&delta, 1});
        const LoraModule module{.site = 2, .bias = no_bias};
        if (adapted) ops.lora(mixed, RowSet::logit_rows, {&module, 1}, {&delta, 1});
      }
      const Tensor y = ops.add_rms_norm(residual, std::move(delta), norm_);
      return StepOutputs{.logits = residual, .hidden = y, .sampled = {}};
    });
    const size_t size = size_t(rows) * size_t(width_);
    std::vector<float> values(2 * size);
    const auto first = stream.fetch(out.logits), second = stream.fetch(out.hidden);
    read_floats(*first, std::span(values).first(size));
    read_floats(*second, std::span(values).last(size));
    return values;
  }
  /// Both of one row, of what run() returned.
  std::vector<float> row_of(const std::vector<float>& values, size_t row, size_t rows) const {
    const auto begin = [&](size_t r) { return values.begin() + ptrdiff_t(r * size_t(width_)); };
    std::vector<float> one(begin(row), begin(row + 1));
    one.insert(one.end(), begin(rows + row), begin(rows + row + 1));
    return one;
  }

 private:
  Backend& backend_;
  const int width_;
  Weight gate_, up_, down_;
  NormParams norm_;
  std::array<std::pair<int, int>, 3> sizes_;
  std::vector<std::vector<std::unique_ptr<LoraEntry>>> entries_;  // by slot, by module
};

/// Steps of 33 to 64 rows, and larger ones: the bits of each row among rows of its slot alone, of operations that are
/// enqueued one by one, of the base where a row has no adapter, whatever the other rows have and whatever else is in
/// the table.
TEST_F(OnCard, AdaptersInProductsOfManyRowsAreTheRowsOwn) {
  if (backend_ == nullptr) return;
  for (const auto& [width, inner] : {std::pair(256, 640), std::pair(1280, 2304), std::pair(1536, 5120)}) {
    const std::unique_ptr<Backend> backend = card()->create({.fast = true, .instruction_set = {}});
    Random random(uint64_t(width) + 12);
    AdaptedBlock block(*backend, width, inner, random);
    block.add_slot(random, {{16}});
    block.add_slot(random, {{5}}, 1);
    block.add_slot(random, {{4}, {11, true}, {1}});  // a bias is not part of a product
    block.add_slot(random, {{24}}, 2);
    block.add_slot(random, {{20}, {12}});  // nor are more ranks than 32
    block.add_slot(random, {{8}, {20}});
    constexpr int kSlots = 6;
    constexpr size_t kRows = 42;
    const std::vector<float> inputs = random.normals(kRows * size_t(width), 1);
    std::vector<float> twice = inputs;
    twice.insert(twice.end(), inputs.begin(), inputs.end());
    std::vector<std::vector<float>> alone_of_batch, alone_of_many;  // by slot, the base first
    for (const auto& [x, alone] :
         {std::pair(&inputs, &alone_of_batch), std::pair(&std::as_const(twice), &alone_of_many)}) {
      const size_t rows = x->size() / size_t(width);
      for (int slot = -1; slot < kSlots; ++slot) {
        const std::vector<int32_t> slots(rows, slot);
        alone->push_back(block.run(*x, slots, true));
        EXPECT_EQ(block.run(*x, slots, false), alone->back()) << width << " slot " << slot << ", " << rows << " rows";
      }
      EXPECT_EQ(block.run(*x, std::vector<int32_t>(rows, -1), true, false), alone->front()) << width;
    }
    for (const bool more : {false, true}) {
      if (more) block.add_slot(random, {{16}}, -1, true);
      for (const size_t rows : {size_t(33), size_t(64), size_t(150), size_t(330)}) {
        std::vector<float> x;
        std::vector<int32_t> slots;
        for (size_t row = 0; row < rows; ++row) {
          const auto from = inputs.begin() + ptrdiff_t(row % kRows * size_t(width));
          x.insert(x.end(), from, from + width);
          slots.push_back(row < rows / 3 ? 0 : int32_t(row * 5 / 3 % (kSlots + 1)) - 1);
        }
        const bool batch = rows <= 64;
        const std::vector<std::vector<float>>& alone = batch ? alone_of_batch : alone_of_many;
        for (const bool waits : {true, false}) {
          const std::vector<float> got = block.run(x, slots, waits);
          for (size_t row = 0; row < rows; ++row)
            ASSERT_EQ(block.row_of(got, row, rows),
                      block.row_of(alone[size_t(slots[row] + 1)], row % kRows, batch ? kRows : 2 * kRows))
                << width << " row " << row << " of " << rows << ", slot " << slots[row] << ", waits " << waits
                << ", more " << more;
        }
      }
    }
  }
}

/// Which other weights a call multiplies moves no bit: they are left out where every row brings one of its own. Among
/// them are some that take parts of the inputs and some that take all of them.
TEST_F(OnCard, ProductsDoNotDependOnTheTermsBesideThem) {
  if (backend_ == nullptr) return;
  constexpr int kIn = 4096;
  const std::unique_ptr<Backend> backend = card()->create({.fast = true, .instruction_set = {}});
  Random random(17);
  std::vector<Weight> weights;
  for (const int out : {4096, 1000, 12288, 200})
    weights.push_back(
        backend->pack(random_weight(random, out, kIn, Format::affine(4, 64, DType::bf16, DType::bf16), 1)));
  const std::vector<std::vector<size_t>> subsets = {{0}, {1}, {2}, {3}, {0, 1}, {1, 3}, {0, 2, 3}, {1, 2}, {0, 1, 3}};
  for (const int rows : {40, 64, 70}) {
    const Tensor x = backend->upload(random.normals(size_t(rows) * kIn, 1), rows, kIn);
    Batch batch;
    batch.append(std::vector<int32_t>(size_t(rows), 1), 0, std::vector<int32_t>{0}, Batch::Want::all);
    backend->stream().bind(batch, nullptr);
    const auto multiply = [&](const std::vector<size_t>& which) {
      std::vector<MatmulTerm> terms;
      for (const size_t w : which) terms.push_back({&weights[w], nullptr});
      std::vector<Tensor> y(terms.size());
      backend->stream().ops().matmul(x, terms, y);
      std::vector<std::vector<float>> values;
      for (const Tensor& one : y) {
        values.emplace_back(size_t(one.rows()) * size_t(one.cols()));
        read_floats(*backend->stream().fetch(one), values.back());
      }
      return values;
    };
    const std::vector<std::vector<float>> all = multiply({0, 1, 2, 3});
    for (const std::vector<size_t>& some : subsets) {
      const std::vector<std::vector<float>> got = multiply(some);
      for (size_t i = 0; i < some.size(); ++i) EXPECT_EQ(got[i], all[some[i]]) << rows << " rows, weight " << some[i];
    }
  }
}

/// The bits of operations that are enqueued one by one, eagerly, recorded and replayed; of each row alone; of the base
/// where a row has no adapter; and of the same while a slot that products cannot apply is in the table, and among its
/// rows, and more slots than products of many rows apply.
TEST_F(OnCard, AdaptersInProductsHaveTheBitsOfSingleOperations) {
  if (backend_ == nullptr) return;
  for (const auto& [width, inner] :
       {std::pair(256, 12288), std::pair(256, 13824), std::pair(1280, 2304), std::pair(4096, 512),
        std::pair(2048, 6144)}) {  // the last is a chain (kernels/product_chain.h)
    const std::unique_ptr<Backend> backend = card()->create({.fast = true, .instruction_set = {}});
    Random random(uint64_t(width) + 11);
    AdaptedBlock block(*backend, width, inner, random);
    block.add_slot(random, {{16}});
    block.add_slot(random, {{5}}, 1);
    block.add_slot(random, {{4}, {11, true}, {1}});
    block.add_slot(random, {{24, true}}, 2);
    std::vector<std::vector<float>> inputs, alone;
    std::vector<int32_t> slots;
    for (int row = 0; row < 32; ++row) {
      inputs.push_back(random.normals(size_t(width), 1));
      slots.push_back(row % 5 == 4 ? -1 : row % 5);
      alone.push_back(block.run(inputs.back(), {slots.back()}, false));
      for (int round = 0; round < 3; ++round)
        EXPECT_EQ(block.run(inputs.back(), {slots.back()}, true), alone.back()) << width << " row " << row;
      if (slots.back() < 0) {
        EXPECT_EQ(block.run(inputs.back(), {-1}, true, false), alone.back()) << width << " row " << row;
      }
    }
    for (const bool more : {false, true}) {
      if (more) {
        block.add_slot(random, {{16}}, -1, true);
        for (int other = 0; other < 4; ++other) block.add_slot(random, {{8}});
        for (size_t row = 1; row < inputs.size(); row += 6) {
          slots[row] = 4;
          alone[row] = block.run(inputs[row], {4}, false);
        }
      }
      for (const size_t rows : {2u, 3u, 4u, 5u, 7u, 8u, 16u, 17u, 32u}) {
        std::vector<float> x;
        std::vector<int32_t> first_slots;
        for (size_t row = 0; row < rows; ++row) {
          const size_t from = (row * 7 + 3) % 32;
          x.insert(x.end(), inputs[from].begin(), inputs[from].end());
          first_slots.push_back(slots[from]);
        }
        for (int round = 0; round < 4; ++round) {
          const std::vector<float> got = block.run(x, first_slots, round > 0);
          for (size_t row = 0; row < rows; ++row)
            EXPECT_EQ(block.row_of(got, row, rows), alone[(row * 7 + 3) % 32])
                << width << " wide, " << rows << " rows, row " << row << ", round " << round << (more ? ", more" : "");
        }
      }
    }
  }
}

/// Blocks know by a word that is not zero that a sum of A x is there; a sum that is zero arrives all the same.
TEST_F(OnCard, AdaptersOfARowOfZerosFinish) {
  if (backend_ == nullptr) return;
  constexpr int kWidth = 1280, kInner = 12288;
  const std::unique_ptr<Backend> backend = card()->create({.fast = true, .instruction_set = {}});
  Random random(13);
  AdaptedBlock block(*backend, kWidth, kInner, random);
  block.add_slot(random, {{16}});
  block.add_slot(random, {{3}, {8}}, 2);
  const std::vector<float> zeros(size_t(kWidth), 0.0f);
  for (int round = 0; round < 4; ++round)
    for (const int32_t slot : {0, 1, -1})
      EXPECT_EQ(block.run(zeros, {slot}, true), std::vector<float>(2 * size_t(kWidth), 0.0f)) << "slot " << slot;
}

/// Their products' blocks wait for each other, and each fills the card: side by side they would wait for ever.
TEST_F(OnCard, BackendsThatComputeAtOnceFinish) {
  if (backend_ == nullptr) return;
  constexpr int kWidth = 2176, kInner = 4352, kSteps = 300;
  struct Worker {
    std::unique_ptr<Backend> backend = card()->create({.fast = true, .instruction_set = {}});
    Random random{5};
    AdaptedBlock block{*backend, kWidth, kInner, random};
    std::vector<float> x = random.normals(size_t(kWidth), 1), first;
    int different = 0;
    void work() {
      block.add_slot(random, {{16}});
      first = block.run(x, {0}, true);
      for (int step = 0; step < kSteps; ++step) different += block.run(x, {0}, true) == first ? 0 : 1;
    }
  };
  Worker a, b;
  std::thread other([&] { b.work(); });
  a.work();
  other.join();
  EXPECT_EQ(a.different, 0);
  EXPECT_EQ(b.different, 0);
  EXPECT_EQ(a.first, b.first);
}

}  // namespace
}  // namespace bumblebee
