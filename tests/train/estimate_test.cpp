// The estimate of memory: the sum of its parts for a shape that can be counted by hand, and what makes it grow.
#include "train/estimate.h"

#include <gtest/gtest.h>

namespace bumblebee::train {
namespace {

TrainingShape shape() {
  TrainingShape out;
  out.dims = {.layers = 4, .d_model = 8, .heads = 2, .kv_heads = 1, .head_dim = 4, .d_ff = 16, .vocab = 100};
  out.recorded_layers = 3;
  out.rows = 10;
  out.trained_values = 1000;
  out.optimizer_values = 2000;
  return out;
}

TEST(Estimate, IsTheSumOfWhatIsKept) {
  TrainOptions options;
  options.lora.rank = 2;
  // A layer, per row: 2 of d_model 8, 2 of q 8 and k 4, v 4, attention 8, 2 logs, 2 of d_ff 16, 7 of rank 2.
  const uint64_t layer = 16 + 24 + 4 + 8 + 2 + 32 + 14;
  const uint64_t passing = 4 * 8 + 3 * 16;
  EXPECT_EQ(estimate_memory(shape(), options), 4 * (10 * (3 * layer + passing) + 4 * 1000 + 2000));
  options.grad_checkpoint = true;
  EXPECT_EQ(estimate_memory(shape(), options), 4 * (10 * (3 * 8 + layer + passing) + 4 * 1000 + 2000));
}

TEST(Estimate, GrowsWithRowsLayersAndKinds) {
  TrainOptions options;
  const uint64_t plain = estimate_memory(shape(), options);
  TrainingShape more = shape();
  more.rows *= 2;
  EXPECT_GT(estimate_memory(more, options), plain);
  more = shape();
  more.recorded_layers = 4;
  EXPECT_GT(estimate_memory(more, options), plain);
  TrainOptions dora = options;
  dora.lora.type = FineTune::dora;
  EXPECT_GT(estimate_memory(shape(), dora), plain);
}

}  // namespace
}  // namespace bumblebee::train
