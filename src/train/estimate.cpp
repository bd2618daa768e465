// Every term names what is kept; all of it is f32, in buffers as the cpu backend holds them.
#include "train/estimate.h"

#include <algorithm>
#include <bit>
#include <map>

#include "lora/targets.h"

namespace bumblebee::train {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
/// Free buffers of sizes that another batch had stay beside those in use, up to this much.
constexpr uint64_t kReused = 256 * kMiB;
/// Logits of the rows that the head takes at once.
constexpr uint64_t kLogits = 128 * kMiB;

/// Sizes within an eighth share buffers.
uint64_t buffer(int64_t rows, uint64_t columns) {
  const uint64_t bytes = uint64_t(rows) * columns * sizeof(float);
  const uint64_t unit = std::max<uint64_t>(4096, std::bit_floor(bytes) / 8);
  return (bytes + unit - 1) / unit * unit;
}

}  // namespace

int norms_of_layer(const nn::Model& model) {
  std::map<int, int> norms;
  for (const nn::TargetModule& module : model.target_modules()) {
    const int layer = lora::layer_of(module.name);
    if (layer >= 0 && module.kind == nn::TargetModule::Kind::norm && module.out == model.dims().d_model) ++norms[layer];
  }
  int most = 2;
  for (const auto& [layer, count] : norms) most = std::max(most, count);
  return most;
}

uint64_t estimate_memory(const TrainingShape& shape, const TrainOptions& options) {
  const nn::ModelDims& d = shape.dims;
  const auto of = [&shape](int columns) { return buffer(shape.rows, uint64_t(columns)); };
  const uint64_t width = of(d.d_model), wide = of(d.d_ff);
  const uint64_t q = of(d.heads * d.head_dim), kv = of(d.kv_heads * d.head_dim);
  // Of one layer: the inputs of its norms; q and k before and after their norms, v, what attention gives, its logs of
  // sums; gate and up; A x of seven modules.
  const auto inputs = uint64_t(shape.norms) * width;
  uint64_t layer = inputs + 2 * (q + kv) + kv + q + of(d.heads) + 2 * wide + 7 * of(options.lora.rank);
  if (options.lora.type == FineTune::dora) layer += q + 2 * kv + 2 * width + 2 * wide;  // each output again
  // On the way: the residual stream and its gradient, the head's input and its gradient, gradients inside an MLP.
  uint64_t passing = 4 * width + 3 * wide + (options.lora.dropout > 0 ? wide : 0);
  if (d.experts > 0) {  // by assignment: gate and up, the experts' answers, A x; gradients of these and a spread input
    const auto by = [&](int columns) { return buffer(shape.rows * d.experts_per_token, uint64_t(columns)); };
    layer += 2 * by(d.d_expert) + by(d.d_model) + 3 * by(options.lora.rank);
    passing += 3 * by(d.d_model) + 2 * by(d.d_expert);
  }
  const auto layers = uint64_t(shape.recorded_layers);
  uint64_t all = layers * layer;
  if (const auto group = std::find_if(d.kv_groups.begin(), d.kv_groups.end(),
                                      [](const KvGroup& g) { return g.kind == KvGroup::Kind::state; });
      group != d.kv_groups.end()) {
    // Of a hybrid: gates of attention and their products; in place of attention, where there is a state, what goes into
    // the convolution and comes out, the gate, what the rule gives, before and after its norm; and on the way keys and
    // queries of length one and gradients of all of these.
    const StateShape& state = group->state;
    const uint64_t conv = of(state.conv_cols), values = of(state.heads * state.value_dim);
    const uint64_t attention = layer + 3 * q,
                   recurrent = layer - (3 * q + 3 * kv + of(d.heads)) + 2 * conv + 4 * values + 2 * of(state.heads);
    all = 0;
    for (int i = d.layers - shape.recorded_layers; i < d.layers; ++i) all += d.is_recurrent(i) ? recurrent : attention;
    layer = std::max(attention, recurrent);
    passing += 3 * conv + 2 * values;
  }
  const uint64_t kept = options.grad_checkpoint ? layers * width + layer : all;
  // Factors, their gradients and moments; what an adapter or a checkpoint is written from comes when activations are
  // gone.
  const uint64_t state = sizeof(float) * (2 * shape.trained_values + shape.optimizer_values);
  const uint64_t reused = std::min(kReused, kept + passing), logits = std::min(kLogits, of(d.vocab));
  return kept + passing + reused + logits + state;
}

}  // namespace bumblebee::train
