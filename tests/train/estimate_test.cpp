// The estimate of memory: the sum of its parts for a shape that can be counted by hand, and what makes it grow.
#include "train/estimate.h"

#include <gtest/gtest.h>

namespace bumblebee::train {
namespace {

TrainingShape shape() {
  TrainingShape out;
  out.dims = {.layers = 4,
              .d_model = 8,
              .heads = 2,
              .kv_heads = 1,
              .head_dim = 4,
              .d_ff = 16,
              .vocab = 100,
              .kv_groups = {},
              .kv_places = {}};
  out.recorded_layers = 3;
  out.rows = 10;
  out.trained_values = 1000;
  out.optimizer_values = 2000;
  return out;
}

TEST(Estimate, IsTheSumOfWhatIsKept) {
  TrainOptions options;
  options.lora.rank = 2;
  // Ten rows of any width here are a page. A layer: 2 of d_model, 2 of q and of k, v, attention, logs, 2 of d_ff, 7 of
  // the rank.
  const uint64_t page = 4096, layer = (2 + 4 + 1 + 1 + 1 + 2 + 7) * page, passing = 7 * page;
  const uint64_t state = 4 * (2 * 1000 + 2000);
  EXPECT_EQ(estimate_memory(shape(), options), 2 * (3 * layer + passing) + page + state) << "kept, and for reuse";
  options.grad_checkpoint = true;
  EXPECT_EQ(estimate_memory(shape(), options), 2 * (3 * page + layer + passing) + page + state);
}

/// Every second layer has a state: what a convolution and the rule keep is wider than attention here.
TEST(Estimate, KnowsNormsAndStates) {
  TrainOptions options;
  options.lora.rank = 2;
  const uint64_t page = 4096, plain = estimate_memory(shape(), options);
  TrainingShape more = shape();
  more.norms = 4;
  EXPECT_EQ(estimate_memory(more, options), plain + 2 * 3 * 2 * page) << "two norms in three layers, and for reuse";
  TrainingShape hybrid = shape();
  hybrid.dims.kv_groups = {{.kind = KvGroup::Kind::attention, .layers = 2, .kv_heads = 1, .head_dim = 4},
                           {.kind = KvGroup::Kind::state,
                            .layers = 2,
                            .state = {.conv_rows = 3, .conv_cols = 24, .heads = 2, .key_dim = 4, .value_dim = 4}}};
  hybrid.dims.kv_places = {{1, 0}, {0, 0}, {1, 1}, {0, 1}};
  // Recorded: attention (three more), a state (eight in place of seven), attention; five more pass by.
  EXPECT_EQ(estimate_memory(hybrid, options), plain + 2 * (3 + 1 + 3 + 5) * page);
  options.grad_checkpoint = true;
  EXPECT_EQ(estimate_memory(hybrid, options), estimate_memory(shape(), options) + 2 * (3 + 5) * page);
}

/// Layers as Gemma 4 has them: wider ones that read others' keys and values and a gate beside the stream.
TEST(Estimate, SumsLayersThatDiffer) {
  TrainOptions options;
  options.lora.rank = 2;
  TrainingShape even = shape();
  even.rows = 1024;  // a column is a page
  even.layers.assign(4, {.q = 8, .kv = 4, .wide = 16});
  TrainingShape as_dims = even;
  as_dims.layers.clear();
  EXPECT_EQ(estimate_memory(even, options), estimate_memory(as_dims, options));
  TrainingShape uneven = even;
  uneven.layers[3] = {.q = 16, .kv = 0, .wide = 32, .aside = 4};
  // 12 more of queries less keys and values, 32 of gate and up, 20 of the stream, the gate, its product and two A x; 48
  // pass by in the MLP; beside the layers 4 of tables and 16 of shared keys and values.
  const uint64_t page = 4096;
  EXPECT_EQ(estimate_memory(uneven, options), estimate_memory(even, options) + 2 * (12 + 32 + 20 + 48 + 4 + 16) * page);
  uneven = even;
  uneven.layers[2].value_norm = true;
  EXPECT_EQ(estimate_memory(uneven, options), estimate_memory(even, options) + 2 * 4 * page);
  uneven = even;
  uneven.layers[0].wide = 1000;
  EXPECT_EQ(estimate_memory(uneven, options), estimate_memory(even, options)) << "nothing is recorded there";
}

TEST(Estimate, KnowsShortConvolutionsAndTheScratchOfDeltaNets) {
  TrainOptions options;
  options.lora.rank = 2;
  const uint64_t page = 4096, plain = estimate_memory(shape(), options);
  TrainingShape hybrid = shape();
  hybrid.dims.kv_groups = {{.kind = KvGroup::Kind::attention, .layers = 2, .kv_heads = 1, .head_dim = 4},
                           {.kind = KvGroup::Kind::state, .layers = 2, .state = {.conv_rows = 2, .conv_cols = 8}}};
  hybrid.dims.kv_places = {{1, 0}, {0, 0}, {1, 1}, {0, 1}};
  // Five in place of attention's seven in one of the recorded layers; three pass by.
  EXPECT_EQ(estimate_memory(hybrid, options), plain + 2 * (5 - 7 + 3) * page);
  hybrid.dims.kv_groups[1].state = {.conv_rows = 3, .conv_cols = 24, .heads = 2, .key_dim = 4, .value_dim = 4};
  const uint64_t without = estimate_memory(hybrid, options);
  hybrid.longest_row = 100;
  hybrid.threads = 3;
  // Two borders, the states within a chunk and the latest's gradient, 4 by 16; rows of them.
  EXPECT_EQ(estimate_memory(hybrid, options), without + 4 * 3 * ((2 + 64 + 1) * 4 * 16 + 67 * 16 + 2 * 16));
}

TEST(Estimate, SizesAreClassesAndReuseHasALimit) {
  TrainOptions options;
  TrainingShape large = shape();
  large.dims = {.layers = 1,
                .d_model = 576,
                .heads = 9,
                .kv_heads = 3,
                .head_dim = 64,
                .d_ff = 1536,
                .vocab = 100,
                .kv_groups = {},
                .kv_places = {}};
  large.recorded_layers = 1;
  large.rows = 1114;
  large.trained_values = large.optimizer_values = 0;
  // 1114 rows of 576 are 2.45 MiB, of 192 836 KiB, of 1536 6.53 MiB; of 9 40 KiB, of 8 36 KiB.
  const uint64_t mib = uint64_t{1} << 20, width = 5 * mib / 2, wide = 7 * mib, kv = 896 * 1024;
  const uint64_t layer = 2 * width + 2 * (width + kv) + kv + width + 40 * 1024 + 2 * wide + 7 * 36 * 1024;
  const uint64_t passing = 4 * width + 3 * wide;
  EXPECT_EQ(estimate_memory(large, options), 2 * (layer + passing) + 448 * 1024);
  large.dims.layers = large.recorded_layers = 30;
  large.dims.vocab = 49152;
  EXPECT_EQ(estimate_memory(large, options), 30 * layer + passing + 256 * mib + 128 * mib);
}

TEST(Estimate, GrowsWithRowsLayersAndKinds) {
  TrainOptions options;
  const uint64_t plain = estimate_memory(shape(), options);
  TrainingShape more = shape();
  more.rows *= 1000;
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
