// Every term names what is kept; all of it is f32, in buffers as the cpu backend holds them.
#include "train/estimate.h"

#include <algorithm>
#include <bit>

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

uint64_t estimate_memory(const TrainingShape& shape, const TrainOptions& options) {
  const nn::ModelDims& d = shape.dims;
  const auto of = [&shape](int columns) { return buffer(shape.rows, uint64_t(columns)); };
  const uint64_t width = of(d.d_model), wide = of(d.d_ff);
  const uint64_t q = of(d.heads * d.head_dim), kv = of(d.kv_heads * d.head_dim);
  // Of one layer: the inputs of two norms; q and k before and after their norms, v, what attention gives, its logs of
  // sums; gate and up; A x of seven modules.
  uint64_t layer = 2 * width + 2 * (q + kv) + kv + q + of(d.heads) + 2 * wide + 7 * of(options.lora.rank);
  if (options.lora.type == FineTune::dora) layer += q + 2 * kv + 2 * width + 2 * wide;  // each output again
  // On the way: the residual stream and its gradient, the head's input and its gradient, gradients inside an MLP.
  uint64_t passing = 4 * width + 3 * wide + (options.lora.dropout > 0 ? wide : 0);
  if (d.experts > 0) {  // by assignment: gate and up, the experts' answers, A x; gradients of these and a spread input
    const auto by = [&](int columns) { return buffer(shape.rows * d.experts_per_token, uint64_t(columns)); };
    layer += 2 * by(d.d_expert) + by(d.d_model) + 3 * by(options.lora.rank);
    passing += 3 * by(d.d_model) + 2 * by(d.d_expert);
  }
  const auto layers = uint64_t(shape.recorded_layers);
  const uint64_t kept = options.grad_checkpoint ? layers * width + layer : layers * layer;
  // Factors, their gradients and moments; what an adapter or a checkpoint is written from comes when activations are
  // gone.
  const uint64_t state = sizeof(float) * (2 * shape.trained_values + shape.optimizer_values);
  const uint64_t reused = std::min(kReused, kept + passing), logits = std::min(kLogits, of(d.vocab));
  return kept + passing + reused + logits + state;
}

}  // namespace bumblebee::train
