// The in-memory source that other tests build on is as strict as a checkpoint: otherwise they would prove nothing about
// strictness.
#include "quant/weight_source.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "quant/elements.h"
#include "tests/support/memory_weights.h"

namespace bumblebee {
namespace {

using namespace testing_support;

TEST(MemoryWeights, ClaimsOnceAndListsTheRest) {
  Random random(1);
  MemoryWeights weights;
  weights.add_matrix("a", random_dense(random, 3, 4, DType::f32, 1));
  weights.add_matrix("b", random_dense(random, 3, 4, DType::f32, 1));
  weights.add_vector("n.weight", random_dense(random, 1, 5, DType::f32, 1));
  EXPECT_TRUE(weights.has("a.weight"));
  EXPECT_FALSE(weights.has("a"));
  EXPECT_EQ(weights.matrix("a", 3, 4).name, "a");
  EXPECT_EQ(weights.vector("n.weight", 5).in, 5);
  EXPECT_EQ(weights.unclaimed(), std::vector<std::string>{"b.weight"});
  weights.ignore("b.weight");
  weights.ignore("absent");
  EXPECT_TRUE(weights.unclaimed().empty());
}

TEST(MemoryWeights, RefusesMissingAndMisshapen) {
  Random random(1);
  MemoryWeights weights;
  weights.add_matrix("a", random_dense(random, 3, 4, DType::f32, 1));
  EXPECT_THROW(weights.matrix("a", 4, 3), Error);
  EXPECT_THROW(weights.matrix("b", 3, 4), Error);
  EXPECT_THROW(weights.vector("a.weight", 4), Error);
}

TEST(RandomAffine, DecodesToTheWantedSizeFromOddAddresses) {
  Random random(7);
  const HostWeight w = random_affine(random, 16, 128, Format::affine(3, 32, DType::f16, DType::f32), 0.5,
                                     {.codes = 1, .scales = 3, .biases = 5});
  EXPECT_EQ(reinterpret_cast<uintptr_t>(w.codes.data()) % 2, 1u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(w.scales.data()) % 2, 1u);
  double squares = 0;
  std::vector<float> row(128);
  for (int r = 0; r < 16; ++r) {
    decode_row<float>(w, r, row);
    for (const float v : row) squares += double(v) * double(v);
  }
  EXPECT_NEAR(std::sqrt(squares / (16 * 128)), 0.5, 0.1);
}

}  // namespace
}  // namespace bumblebee
