// Operations that work row by row on activations: norms, rotation, gates, residuals, the embedding. Their bytes are
// those of inputs and outputs; a few rows stay in the caches, so their share of the read bandwidth may exceed one.
#include <functional>

#include "machine.h"

namespace bumblebee::bench {
namespace {

struct Shape {
  int model = 0, feed_forward = 0, heads = 0, kv_heads = 0, head_dim = 0, vocab = 0;
};

Shape shape_of(Size size) {
  return size == Size::full ? Shape{4096, 12288, 32, 8, 128, 32768} : Shape{256, 512, 4, 2, 64, 64};
}

NormParams norm_of(Backend& backend, int size) {
  const auto values = std::make_shared<std::vector<float>>(size_t(size), 1.0f);
  const HostWeight host{.format = Format::dense(DType::f32),
                        .out = 1,
                        .in = size,
                        .codes = std::as_bytes(std::span(*values)),
                        .scales = {},
                        .biases = {},
                        .name = "bench",
                        .keep = values};
  return {backend.pack_vector(host), 1e-6f};
}

/// One operation, ready to be repeated, and the f32 values that it reads and writes.
struct Prepared {
  std::function<void()> step;
  double values = 0;
};
using Prepare = std::function<Prepared(Backend& backend, const Shape& shape, int rows)>;

Prepared rms_norm(Backend& backend, const Shape& shape, int rows) {
  return {[&backend, x = activations(backend, rows, shape.model), norm = norm_of(backend, shape.model)] {
            Tensor y = backend.stream().ops().rms_norm(x, norm);  // [rows, model]
            benchmark::DoNotOptimize(y);
          },
          2.0 * rows * shape.model};
}

Prepared add_rms_norm(Backend& backend, const Shape& shape, int rows) {
  // A delta of zeros: the residual must not grow from one repetition to the next.
  const std::vector<float> zeros(size_t(rows) * size_t(shape.model), 0.0f);
  return {[&backend, x = activations(backend, rows, shape.model), delta = backend.upload(zeros, rows, shape.model),
           norm = norm_of(backend, shape.model)]() mutable {
            Tensor y = backend.stream().ops().add_rms_norm(x, delta, norm);  // [rows, model]
            benchmark::DoNotOptimize(y);
          },
          4.0 * rows * shape.model};
}

Prepared residual_add(Backend& backend, const Shape& shape, int rows) {
  const std::vector<float> zeros(size_t(rows) * size_t(shape.model), 0.0f);
  return {[&backend, x = activations(backend, rows, shape.model),
           delta = backend.upload(zeros, rows, shape.model)]() mutable {
            backend.stream().ops().add(x, delta);
            benchmark::DoNotOptimize(x);
          },
          3.0 * rows * shape.model};
}

RopeParams rope_of(const Shape& shape) {
  RopeParams rope{.dims = shape.head_dim, .inv_freq = {}, .attention_factor = 1};
  for (int i = 0; i < shape.head_dim / 2; ++i) rope.inv_freq.push_back(1.0f / float(1 + i));
  return rope;
}

Prepared rotation(Backend& backend, const Shape& shape, int rows, bool norms) {
  bind_rows(backend, rows);
  const int q_size = shape.heads * shape.head_dim, k_size = shape.kv_heads * shape.head_dim;
  return {[&backend, norms, dim = shape.head_dim, q = activations(backend, rows, q_size),
           k = activations(backend, rows, k_size), norm = norm_of(backend, shape.head_dim),
           rope = rope_of(shape)]() mutable {
            const NormParams* const of_head = norms ? &norm : nullptr;
            backend.stream().ops().norm_rope(q, k, dim, of_head, of_head, rope);
            benchmark::DoNotOptimize(q);
          },
          2.0 * rows * (q_size + k_size)};
}

Prepared rope(Backend& backend, const Shape& shape, int rows) { return rotation(backend, shape, rows, false); }
Prepared norm_rope(Backend& backend, const Shape& shape, int rows) { return rotation(backend, shape, rows, true); }

Prepared glu(Backend& backend, const Shape& shape, int rows) {
  return {[&backend, gate = activations(backend, rows, shape.feed_forward),
           up = activations(backend, rows, shape.feed_forward)] {
            Tensor y = backend.stream().ops().glu(Activation::silu, gate, up);  // [rows, feed_forward]
            benchmark::DoNotOptimize(y);
          },
          3.0 * rows * shape.feed_forward};
}

Prepared embed(Backend& backend, const Shape& shape, int rows) {
  const Format format = Format::affine(4, 64, DType::bf16, DType::bf16);
  const size_t codes = row_bytes(format, shape.model) * size_t(shape.vocab);
  const size_t groups = size_t(shape.vocab) * size_t(shape.model / format.group);
  const auto bytes = std::make_shared<std::vector<std::byte>>(codes + 4 * groups);
  const std::span<const std::byte> all(*bytes);
  const Weight table = backend.pack({.format = format,
                                     .out = shape.vocab,
                                     .in = shape.model,
                                     .codes = all.first(codes),
                                     .scales = all.subspan(codes, 2 * groups),
                                     .biases = all.subspan(codes + 2 * groups),
                                     .name = "bench",
                                     .keep = bytes});
  Batch batch;
  std::vector<int32_t> tokens;
  for (int i = 0; i < rows; ++i) tokens.push_back(int32_t((int64_t(i) * 7919) % shape.vocab));
  batch.append(tokens, 0, std::vector<int32_t>{0}, Batch::Want::none);
  backend.stream().bind(batch, nullptr);
  return {[&backend, table] {
            Tensor y = backend.stream().ops().embed(table);  // [rows, model]
            benchmark::DoNotOptimize(y);
          },
          // A row of the table takes half a byte per value and four bytes per group.
          rows * (double(shape.model) * (1 + 0.5 / 4) + double(shape.model) / format.group)};
}

Prepared gather_rows(Backend& backend, const Shape& shape, int rows) {
  bind_rows(backend, rows);
  return {[&backend, x = activations(backend, rows, shape.model)] {
            Tensor y = backend.stream().ops().gather_rows(x);  // [1, model]
            benchmark::DoNotOptimize(y);
          },
          2.0 * shape.model};
}

/// The delta rule of Qwen3.5-4B, of a sequence that has a past. Its bytes are activations and the state once.
Prepared delta_rule(Backend& backend, const Shape&, int rows) {
  constexpr int kKeyHeads = 16, kValueHeads = 32, kDim = 128, kCols = (2 * kKeyHeads + kValueHeads) * kDim;
  const StateShape state{.heads = kValueHeads, .key_dim = kDim, .value_dim = kDim};
  const std::shared_ptr<KvStore> kv =
      backend.make_kv({.groups = {{.kind = KvGroup::Kind::state, .layers = 1, .state = state}},
                       .places = {{0, 0}},
                       .page_size = 16,
                       .pages = 1,
                       .states = 1,
                       .dtype = DType::f32});
  const std::vector<float> zeros(size_t(rows) * kValueHeads, 0.0f);
  Batch batch;
  batch.append(std::vector<int32_t>(size_t(rows), 0), rows, std::vector<int32_t>(size_t(2 * rows + 15) / 16, 0),
               Batch::Want::none, -1, StateSlots{0, 0});
  backend.stream().bind(batch, kv.get());
  return {[&backend, kv, qkv = activations(backend, rows, kCols), a = backend.upload(zeros, rows, kValueHeads),
           delta = DeltaParams{.key_heads = kKeyHeads,
                               .value_heads = kValueHeads,
                               .key_dim = kDim,
                               .value_dim = kDim,
                               .a_log = backend.upload(std::vector<float>(kValueHeads, 0.0f), 1, kValueHeads),
                               .dt_bias = backend.upload(std::vector<float>(kValueHeads, 0.0f), 1, kValueHeads)}] {
            Tensor y = backend.stream().ops().delta_rule(*kv, 0, qkv, a, a, delta);  // [rows, kValueHeads·kDim]
            benchmark::DoNotOptimize(y);
          },
          double(rows) * (kCols + kValueHeads * kDim) + 2.0 * kValueHeads * kDim * kDim};
}

}  // namespace

void register_rows(Size size) {
  const std::vector<std::pair<const char*, Prepare>> operations = {
      {"rms_norm", rms_norm}, {"add_rms_norm", add_rms_norm}, {"add", residual_add},
      {"rope", rope},         {"norm_rope", norm_rope},       {"glu", glu},
      {"embed", embed},       {"gather_rows", gather_rows},   {"delta_rule", delta_rule}};
  const Shape shape = shape_of(size);
  for (const auto& [name, prepare] : operations) {
    for (int rows : {1, 8, 64, 512}) {
      add(std::string(name) + "/rows" + std::to_string(rows),
          [operation = prepare, shape, rows](benchmark::State& state) {
            const std::unique_ptr<Backend> backend = make_backend(false);
            const Prepared prepared = operation(*backend, shape, rows);
            for (auto _ : state) prepared.step();
            report(state, {.bytes = 4 * prepared.values});
          });
    }
  }
}

}  // namespace bumblebee::bench
