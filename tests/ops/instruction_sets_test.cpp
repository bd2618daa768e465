// Fast products of quantized weights have the same bits on every instruction set with a fused multiply-add, however a
// set multiplies bytes: integers are exact, and floats are combined in one order.
#include <gtest/gtest.h>

#include "tests/ops/cases/common.h"
#include "tests/support/backends.h"

namespace bumblebee {
namespace {

using namespace op_cases;
using namespace testing_support;

/// Rows whose largest values are a few times, or hundreds of times, their neighbours: second digits of every size.
HostMatrix rows_with_outliers(Random& random, int rows, int cols) {
  HostMatrix x = random_rows(random, rows, cols);
  for (size_t i = 0; i < x.values.size(); ++i) {
    if (i % 29 == 0) x.values[i] *= 6.0f;
    if (i % 1201 == 7) x.values[i] *= 900.0f;
  }
  return x;
}

std::vector<float> product(Backend& backend, const HostWeight& weight, const HostMatrix& x) {
  bind_plain(backend, {.rows = x.rows});
  const Weight packed = backend.pack(weight);
  const MatmulTerm term{&packed, nullptr};
  Tensor y;
  backend.stream().ops().matmul(backend.upload(x.values, x.rows, x.cols), std::span(&term, 1), std::span(&y, 1));
  return read_output(backend, "y", y).values;
}

/// Every set of the processor whose products have one way of adding up, in fast precision, by name.
std::vector<Target> sets_that_fuse() {
  std::vector<Target> sets;
  for (const Target& target : targets_of_one_thread()) {
    if (target.backend == "cpu" && target.options.fast && target.options.instruction_set != "scalar")
      sets.push_back(target);
  }
  return sets;
}

/// As a step has them that takes a whole chunk of a prompt beside a few answers: rows left over of a panel's.
TEST(InstructionSets, RowsThatAreLeftOverHaveTheSameBitsToo) {
  const std::vector<Target> sets = sets_that_fuse();
  Random random(37);
  for (const Format& format :
       {Format::affine(4, 64, DType::bf16, DType::bf16), Format::affine(6, 32, DType::f16, DType::f16)}) {
    const HostWeight weight = random_weight(random, 77, 320, format, 0.03, odd_bytes());
    const HostMatrix x = rows_with_outliers(random, 1032, 320);
    std::vector<float> all;
    for (const Target& set : sets) {
      const std::unique_ptr<Backend> backend = set.create();
      for (const int rows : {1032, 513, 517, 520, 521, 600}) {
        const HostMatrix some{rows, x.cols, {x.row(0), x.row(rows)}};
        const std::vector<float> got = product(*backend, weight, some);
        if (all.empty()) all = got;
        ASSERT_TRUE(std::equal(got.begin(), got.end(), all.begin()))
            << to_string(format) << " rows " << rows << ": " << set.name() << " and " << sets[0].name();
      }
    }
  }
}

TEST(InstructionSets, FastProductsHaveTheSameBitsOnEverySetThatFuses) {
  const std::vector<Target> sets = sets_that_fuse();
  std::vector<std::unique_ptr<Backend>> backends;
  for (const Target& set : sets) backends.push_back(set.create());
  Random random(31);
  for (const Format& format : every_format()) {
    if (format.kind != Format::Kind::affine) continue;
    // Rows of one block, of a lane that is one block, of lanes that differ, and too long for codes to be decoded at
    // once; odd numbers of groups, and even ones, whose rows are whole lines of codes of four bits, up to whole
    // stripes.
    for (const int groups : {1, 2, 5, 9, 16, 18, 21, 32, 40, 131}) {
      const int in = groups * format.group;
      if (groups > 9 && format.scale == DType::f32) continue;
      const HostWeight weight = random_weight(random, groups > 21 ? 19 : 77, in, format, 0.03, odd_bytes());
      for (const int rows : {1, 3, 5, 8, 9, 16, 17, 25, 32, 33, 70}) {
        if (rows > 17 && groups > 32) continue;
        const HostMatrix x = rows_with_outliers(random, rows, in);
        std::vector<float> first;
        for (size_t s = 0; s < backends.size(); ++s) {
          const std::vector<float> got = product(*backends[s], weight, x);
          if (s == 0) first = got;
          ASSERT_EQ(got, first) << to_string(format) << " in " << in << " rows " << rows << ": " << sets[s].name()
                                << " and " << sets[0].name();
        }
      }
    }
  }
}

/// Of few rows, each is rounded in parts by several threads: as it comes, behind a norm, and where it is made.
std::vector<float> products_of_what_is_made(Backend& backend, const HostWeight& weight, const HostMatrix& x) {
  bind_plain(backend, {.rows = x.rows});
  const Weight packed = backend.pack(weight);
  const MatmulTerm term{&packed, nullptr};
  Ops& ops = backend.stream().ops();
  const NormParams norm{backend.upload(std::vector<float>(size_t(x.cols), 1.5f), 1, x.cols), 1e-6f};
  std::vector<float> all;
  const auto multiply = [&](const Tensor& input) {
    Tensor y;
    ops.matmul(input, std::span(&term, 1), std::span(&y, 1));
    const std::vector<float> values = read_output(backend, "y", y).values;
    all.insert(all.end(), values.begin(), values.end());
  };
  const auto uploaded = [&] { return backend.upload(x.values, x.rows, x.cols); };
  multiply(uploaded());  // from now on it is known how rows of this length are wanted
  multiply(ops.rms_norm(uploaded(), norm));
  Tensor sum = uploaded();
  multiply(ops.add_rms_norm(sum, uploaded(), norm));
  multiply(ops.glu(Activation::silu, uploaded(), uploaded()));
  return all;
}

TEST(InstructionSets, ThreadsThatRoundPartsOfARowChangeNoBits) {
  Random random(41);
  for (const Format& format :
       {Format::affine(4, 64, DType::bf16, DType::bf16), Format::affine(4, 32, DType::bf16, DType::bf16),
        Format::affine(8, 128, DType::f16, DType::f16)}) {
    const int in = 3 * 1024 + 384;
    const HostWeight weight = random_weight(random, 21, in, format, 0.03, odd_bytes());
    for (const int rows : {1, 3, 6, 12}) {
      const HostMatrix x = rows_with_outliers(random, rows, in);
      for (Target target : sets_that_fuse()) {
        const std::vector<float> alone = products_of_what_is_made(*target.create(), weight, x);
        for (const int threads : {2, 7, 24}) {
          target.options.threads = threads;
          EXPECT_EQ(products_of_what_is_made(*target.create(), weight, x), alone)
              << to_string(format) << " rows " << rows << ": " << target.name();
        }
      }
    }
  }
}

}  // namespace
}  // namespace bumblebee
