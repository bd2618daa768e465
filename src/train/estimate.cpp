// Every term names what is kept; all of it is f32.
#include "train/estimate.h"

namespace bumblebee::train {

uint64_t estimate_memory(const TrainingShape& shape, const TrainOptions& options) {
  const nn::ModelDims& d = shape.dims;
  const auto width = uint64_t(d.d_model), wide = uint64_t(d.d_ff);
  const uint64_t q = uint64_t(d.heads) * uint64_t(d.head_dim), kv = uint64_t(d.kv_heads) * uint64_t(d.head_dim);
  // Of one layer, values per row: the inputs of two norms; q and k before and after their norms, v, what attention
  // gives, its logs of sums; gate and up; A x of seven modules.
  uint64_t layer = 2 * width + 2 * (q + kv) + kv + q + uint64_t(d.heads) + 2 * wide + 7 * uint64_t(options.lora.rank);
  if (options.lora.type == FineTune::dora) layer += q + 2 * kv + 2 * width + 2 * wide;  // each output again
  const auto layers = uint64_t(shape.recorded_layers);
  const uint64_t kept = options.grad_checkpoint ? layers * width + layer : layers * layer;
  // On the way: the residual stream and its gradient, the head's input and its gradient, gradients inside an MLP.
  const uint64_t passing = 4 * width + 3 * wide + (options.lora.dropout > 0 ? wide : 0);
  const uint64_t activations = uint64_t(shape.rows) * (kept + passing);
  // Factors and their gradients, here and on the device.
  const uint64_t state = 4 * shape.trained_values + shape.optimizer_values;
  return sizeof(float) * (activations + state);
}

}  // namespace bumblebee::train
