// Every term names what is kept; all of it is f32, in buffers as the cpu backend holds them.
#include "train/estimate.h"

#include <algorithm>
#include <bit>
#include <map>

#include "backend/grad_ops.h"
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

LayerShape of_dims(const nn::ModelDims& d) {
  return {.q = d.heads * d.head_dim, .kv = d.kv_heads * d.head_dim, .wide = d.d_ff};
}

/// On each thread, of one head and sequence: states at the borders of chunks and of the rows within one.
uint64_t delta_scratch(const StateShape& state, const TrainingShape& shape) {
  const uint64_t cols = uint64_t(state.value_dim + 15) / 16 * 16, dim = uint64_t(state.key_dim + 15) / 16 * 16;
  const uint64_t chunks = uint64_t(shape.longest_row + kDeltaChunk - 1) / kDeltaChunk;
  return sizeof(float) * uint64_t(shape.threads) *
         ((chunks + kDeltaChunk + 1) * uint64_t(state.key_dim) * cols + (kDeltaChunk + 3) * cols + 2 * dim);
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

std::vector<LayerShape> layers_of(const nn::Model& model) {
  const nn::ModelDims& d = model.dims();
  std::vector<LayerShape> layers(size_t(d.layers), of_dims(d));
  for (const nn::TargetModule& module : model.target_modules()) {
    const int i = lora::layer_of(module.name);
    if (i < 0 || module.kind != nn::TargetModule::Kind::linear) continue;
    LayerShape& layer = layers[size_t(i)];
    const std::string_view inside = lora::inside_layer(module.name);
    // Where modules are fused it is as dims say. q_proj may give gates too: what o_proj reads is as wide as queries.
    if (inside == "self_attn.q_proj") layer.kv = 0;
    if (inside == "self_attn.o_proj" || inside == "self_attn.out_proj") layer.q = module.in;
    if (inside == "mlp.gate_proj") layer.wide = module.out;
    if (inside == "per_layer_input_gate") layer.aside = module.out;
  }
  for (const nn::TargetModule& module : model.target_modules()) {
    const int i = lora::layer_of(module.name);
    if (i < 0 || lora::inside_layer(module.name) != "self_attn.k_proj") continue;
    layers[size_t(i)].kv = module.out;
    // Where layers differ they may norm values: one more, so as not to say too little.
    layers[size_t(i)].value_norm = !d.kv_places.empty();
  }
  return layers;
}

uint64_t estimate_memory(const TrainingShape& shape, const TrainOptions& options) {
  const nn::ModelDims& d = shape.dims;
  const auto of = [&shape](int columns) { return columns == 0 ? 0 : buffer(shape.rows, uint64_t(columns)); };
  const uint64_t width = of(d.d_model);
  const bool dora = options.lora.type == FineTune::dora;
  const auto group = std::find_if(d.kv_groups.begin(), d.kv_groups.end(),
                                  [](const KvGroup& g) { return g.kind == KvGroup::Kind::state; });
  const StateShape state = group == d.kv_groups.end() ? StateShape{} : group->state;
  const uint64_t conv = of(state.conv_cols), values = of(state.heads * state.value_dim);
  const bool delta = state.heads > 0;

  // By assignment: gate and up, the experts' answers, A x.
  const auto by = [&](int columns) { return buffer(shape.rows * d.experts_per_token, uint64_t(columns)); };
  const uint64_t experts = d.experts == 0 ? 0 : 2 * by(d.d_expert) + by(d.d_model) + 3 * by(options.lora.rank);
  const auto attention_of = [&](const LayerShape& l) {
    const uint64_t q = of(l.q), kv = of(l.kv);
    // q and k before and after their norms, v, what attention gives, its logs of sums; with DoRA its outputs again. A
    // hybrid's has gates and their products.
    return 2 * (q + kv) + (l.value_norm ? 2 : 1) * kv + q + of(d.heads) + (dora ? q + 2 * kv + width : 0) +
           (delta ? 3 * q : 0);
  };
  // In place of attention, where there is a state: what goes into the convolution and comes out, the gate, what the
  // rule gives, before and after its norm; or two gates, what passes them, and the convolution's input and output.
  const uint64_t recurrent =
      delta ? 2 * conv + 4 * values + 2 * of(state.heads) + (dora ? conv + values + 2 * of(state.heads) + width : 0)
            : 5 * conv + (dora ? 3 * conv + width : 0);
  const auto kept_by = [&](int i) {
    const LayerShape l = shape.layers.empty() ? of_dims(d) : shape.layers[size_t(i)];
    const uint64_t wide = of(l.wide), aside = of(l.aside);
    // The inputs of norms; gate and up; A x of seven modules; the stream that a gate reads, the gate and what it lets
    // by.
    return uint64_t(shape.norms) * width + (d.is_recurrent(i) ? recurrent : attention_of(l)) + 2 * wide +
           7 * of(options.lora.rank) + experts + (dora ? width + 2 * wide : 0) +
           (l.aside > 0 ? width + 2 * aside + 2 * of(options.lora.rank) + (dora ? width + aside : 0) : 0);
  };
  uint64_t all = 0, layer = 0, wide = of(d.d_ff);
  int aside = 0, keys = 0;
  bool shared = false;
  for (int i = 0; i < d.layers; ++i) {
    const LayerShape l = shape.layers.empty() ? of_dims(d) : shape.layers[size_t(i)];
    aside += l.aside;  // of all layers at once, for the whole pass
    keys = std::max(keys, l.kv);
    shared = shared || l.kv == 0;
    if (i < d.layers - shape.recorded_layers) continue;
    all += kept_by(i);
    layer = std::max(layer, kept_by(i));
    wide = std::max(wide, of(l.wide));
  }
  // On the way: the residual stream and its gradient, the head's input and its gradient, gradients inside an MLP.
  uint64_t passing = 4 * width + 3 * wide + (options.lora.dropout > 0 ? wide : 0);
  // Gradients by assignment and a spread input.
  if (d.experts > 0) passing += 3 * by(d.d_model) + 2 * by(d.d_expert);
  // Keys and queries of length one and gradients of what a state's layer keeps.
  passing += 3 * conv + 2 * values;
  // Two layers' keys and values are others' too.
  const uint64_t beside = of(aside) + (shared ? 4 * of(keys) : 0);
  const uint64_t kept = beside + (options.grad_checkpoint ? uint64_t(shape.recorded_layers) * width + layer : all);
  // Factors, their gradients and moments; what an adapter or a checkpoint is written from comes when activations are
  // gone.
  const uint64_t trained = sizeof(float) * (2 * shape.trained_values + shape.optimizer_values);
  const uint64_t reused = std::min(kReused, kept + passing), logits = std::min(kLogits, of(d.vocab));
  return kept + passing + reused + logits + trained + (delta ? delta_scratch(state, shape) : 0);
}

}  // namespace bumblebee::train
