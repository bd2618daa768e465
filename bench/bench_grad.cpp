// What a step of training spends its time on, at the sizes of a 0.6B model: products forward and backward, attention,
// the loss, low-rank products, and the derivatives that only move memory.
#include <functional>

#include "machine.h"

namespace bumblebee::bench {
namespace {

constexpr Format kQ4 = {Format::Kind::affine, DType::bf16, DType::bf16, 4, 64};

struct Shape {
  int model = 0, feed_forward = 0, heads = 0, kv_heads = 0, head_dim = 0, vocab = 0;
  std::vector<int> rows;
};

Shape shape_of(Size size) {
  if (size == Size::full) return {1024, 3072, 16, 8, 128, 151936, {256, 1024}};
  return {128, 256, 4, 2, 64, 500, {32}};
}

/// Repeats `step` and reports it.
void repeat(benchmark::State& state, const Work& work, const std::function<void()>& step) {
  step();  // memory becomes resident
  for (auto _ : state) step();
  report(state, work);
}

struct ProductCase {
  Format format;
  int rows = 0, out = 0, in = 0;
  bool fast = true;

  /// The weight, and both activations once.
  Work work(const HostWeight& w, Limit limit) const {
    return {.bytes = double(w.codes.size() + w.scales.size() + w.biases.size()) + 4.0 * rows * (out + in),
            .operations = 2.0 * rows * out * in,
            .limit = limit};
  }
};

/// The product of training's forward pass, beside its gradient.
void forward(benchmark::State& state, const ProductCase& c) {
  const auto backend = make_backend(c.fast);
  const HostWeight host = random_weight(c.format, c.out, c.in);
  const Weight weight = backend->pack(host);
  const Tensor x = activations(*backend, c.rows, c.in);
  bind_rows(*backend, c.rows);
  const bool affine = c.format.kind == Format::Kind::affine;
  const Limit limit = !c.fast ? Limit::f32 : affine ? Limit::int8 : Limit::bf16;
  repeat(state, c.work(host, limit), [&] {
    const MatmulTerm term = {&weight, nullptr};
    Tensor y;
    backend->stream().ops().matmul(x, {&term, 1}, {&y, 1});
    benchmark::DoNotOptimize(y);
  });
}

void matmul_dx(benchmark::State& state, const ProductCase& c) {
  const auto backend = make_backend(c.fast);
  const HostWeight host = random_weight(c.format, c.out, c.in);
  const Weight weight = backend->pack(host);
  const Weight* const pointer = &weight;
  const Tensor dy = activations(*backend, c.rows, c.out);
  bind_rows(*backend, c.rows);
  repeat(state, c.work(host, c.fast ? Limit::bf16 : Limit::f32), [&] {
    const Tensor dx = backend->stream().grad_ops()->matmul_dx({&dy, 1}, {&pointer, 1});
    benchmark::DoNotOptimize(dx);
  });
}

void head_loss(benchmark::State& state, const Shape& shape, int rows) {
  const auto backend = make_backend(true);
  const HostWeight host = random_weight(kQ4, shape.vocab, shape.model);
  const Weight head = backend->pack(host);
  const Tensor h = activations(*backend, rows, shape.model);
  bind_rows(*backend, rows);
  const std::vector<int32_t> targets(size_t(rows), 3);
  const std::vector<float> weights(size_t(rows), 1.0f);
  std::vector<float> losses(static_cast<size_t>(rows));
  repeat(state,
         {.bytes = double(host.codes.size() + host.scales.size() + host.biases.size()) + 8.0 * rows * shape.model,
          .operations = 4.0 * rows * shape.vocab * shape.model,
          .limit = Limit::bf16},
         [&] {
           Tensor dh;
           benchmark::DoNotOptimize(
               backend->stream().grad_ops()->head_loss(h, head, {}, {}, targets, weights, losses, &dh));
         });
}

/// Segments of `length` tokens, 1,024 together. Operations are those of the keys that are seen.
void attention(benchmark::State& state, const Shape& shape, int rows, int length, bool backward) {
  const auto backend = make_backend(true);
  Batch batch;
  for (int r = 0; r < rows; r += length)
    batch.append(std::vector<int32_t>(size_t(length), 0), 0, std::vector<int32_t>{0}, Batch::Want::none);
  backend->stream().bind(batch, nullptr);
  const AttentionParams a = {
      .heads = shape.heads, .kv_heads = shape.kv_heads, .head_dim = shape.head_dim, .scale = 0.1f};
  const Tensor q = activations(*backend, rows, shape.heads * shape.head_dim),
               k = activations(*backend, rows, shape.kv_heads * shape.head_dim);
  Tensor lse, dq, dk, dv;
  const Tensor out = backend->stream().grad_ops()->attend_packed(q, k, k, a, lse);
  const double pairs = double(rows) * (length + 1) / 2 * shape.heads * shape.head_dim;
  // Each of q, k, v, out and their gradients once.
  const double bytes = (backward ? 8.0 : 4.0) * 2 * rows * (shape.heads + shape.kv_heads) * shape.head_dim;
  repeat(state, {.bytes = bytes, .operations = (backward ? 10 : 4) * pairs, .limit = Limit::bf16}, [&] {
    if (backward) {
      backend->stream().grad_ops()->attend_packed_dqkv(q, q, k, k, out, lse, a, dq, dk, dv);
    } else {
      benchmark::DoNotOptimize(backend->stream().grad_ops()->attend_packed(q, k, k, a, lse));
    }
  });
}

/// The six low-rank products of one module. Bytes are those of the matrices with a row for each token.
struct LowRank {
  const char* name;
  GradOps::Op op_a, op_b;
  char a, b, c;  // which matrix: x [rows, in], y [rows, out], u [rows, rank], A [rank, in], B [out, rank]
  float beta;
};
constexpr GradOps::Op kPlain = GradOps::Op::plain, kTransposed = GradOps::Op::transposed;
constexpr LowRank kLowRank[] = {
    {"u=xA", kPlain, kTransposed, 'x', 'A', 'u', 0},    {"y+=uB", kPlain, kTransposed, 'u', 'B', 'y', 1},
    {"du=dyB", kPlain, kPlain, 'y', 'B', 'u', 0},       {"dB+=dyu", kTransposed, kPlain, 'y', 'u', 'B', 1},
    {"dA+=dux", kTransposed, kPlain, 'u', 'x', 'A', 1}, {"dx+=duA", kPlain, kPlain, 'u', 'A', 'x', 1}};

void low_rank(benchmark::State& state, const LowRank& product, int rows, int in, int out, int rank) {
  const auto backend = make_backend(true);
  const auto matrix = [&](char name) {
    switch (name) {
      case 'x': return activations(*backend, rows, in);
      case 'y': return activations(*backend, rows, out);
      case 'u': return activations(*backend, rows, rank);
      case 'A': return activations(*backend, rank, in);
      default: return activations(*backend, out, rank);
    }
  };
  const Tensor a = matrix(product.a), b = matrix(product.b);
  Tensor c = matrix(product.c);
  const auto bytes = [&](char name) { return name == 'x' ? 4.0 * rows * in : name == 'y' ? 4.0 * rows * out : 0; };
  const double width = product.a == 'x' || product.b == 'x' || product.c == 'x' ? in : out;
  repeat(state,
         {.bytes = bytes(product.a) + bytes(product.b) + 2 * bytes(product.c),
          .operations = 2.0 * rows * rank * width,
          .limit = Limit::f32},
         [&] { backend->stream().grad_ops()->gemm(0.0f, a, product.op_a, b, product.op_b, product.beta, c); });
}

NormParams norm_of(Backend& backend, int size) { return {activations(backend, 1, size), 1e-6f}; }

void rms_norm_dx(benchmark::State& state, const Shape& shape, int rows) {
  const auto backend = make_backend(true);
  const Tensor x = activations(*backend, rows, shape.model);
  const NormParams norm = norm_of(*backend, shape.model);
  repeat(state, {.bytes = 12.0 * rows * shape.model},
         [&] { benchmark::DoNotOptimize(backend->stream().grad_ops()->rms_norm_dx(x, x, norm)); });
}

void norm_rope_dx(benchmark::State& state, const Shape& shape, int rows) {
  const auto backend = make_backend(true);
  bind_rows(*backend, rows);
  const int q_size = shape.heads * shape.head_dim, k_size = shape.kv_heads * shape.head_dim;
  const Tensor q = activations(*backend, rows, q_size), k = activations(*backend, rows, k_size);
  Tensor dq = activations(*backend, rows, q_size), dk = activations(*backend, rows, k_size);
  const NormParams norm = norm_of(*backend, shape.head_dim);
  RopeParams rope{.dims = shape.head_dim, .inv_freq = {}, .attention_factor = 1};
  for (int i = 0; i < shape.head_dim / 2; ++i) rope.inv_freq.push_back(1.0f / float(1 + i));
  repeat(state, {.bytes = 12.0 * rows * (q_size + k_size)},
         [&] { backend->stream().grad_ops()->norm_rope_dx(dq, dk, q, k, shape.head_dim, &norm, &norm, rope); });
}

void glu_dx(benchmark::State& state, const Shape& shape, int rows) {
  const auto backend = make_backend(true);
  const Tensor x = activations(*backend, rows, shape.feed_forward);
  Tensor dgate, dup;
  repeat(state, {.bytes = 20.0 * rows * shape.feed_forward},
         [&] { backend->stream().grad_ops()->glu_dx(Activation::silu, x, x, x, dgate, dup); });
}

void dropout(benchmark::State& state, const Shape& shape, int rows) {
  const auto backend = make_backend(true);
  const Tensor x = activations(*backend, rows, shape.model);
  repeat(state, {.bytes = 8.0 * rows * shape.model},
         [&] { benchmark::DoNotOptimize(backend->stream().grad_ops()->dropout(x, 0.1f, {})); });
}

void register_products(const Shape& shape) {
  const std::pair<const char*, Format> formats[] = {{"b4_g64", kQ4},
                                                    {"b4_g32", Format::affine(4, 32, DType::bf16, DType::bf16)},
                                                    {"b4_g128", Format::affine(4, 128, DType::bf16, DType::bf16)},
                                                    {"b8_g64", Format::affine(8, 64, DType::bf16, DType::bf16)},
                                                    {"bf16", Format::dense(DType::bf16)}};
  for (const auto& [name, format] : formats) {
    for (const int rows : shape.rows) {
      for (const auto& [out, in] : {std::pair(shape.feed_forward, shape.model), {shape.model, shape.feed_forward}}) {
        for (const bool fast : {true, false}) {
          const ProductCase c = {format, rows, out, in, fast};
          const std::string suffix = std::string(name) + "/" + std::to_string(out) + "x" + std::to_string(in) +
                                     "/rows" + std::to_string(rows) + (fast ? "/fast" : "/exact");
          add("matmul_dx/" + suffix, [c](benchmark::State& state) { matmul_dx(state, c); });
          add("train_matmul/" + suffix, [c](benchmark::State& state) { forward(state, c); });
        }
      }
    }
  }
}

}  // namespace

void register_grad(Size size) {
  const Shape shape = shape_of(size);
  register_products(shape);
  const int rows = shape.rows.back();
  add("head_loss/rows" + std::to_string(rows), [=](benchmark::State& state) { head_loss(state, shape, rows); });
  for (const int length : {rows / 4, rows}) {
    for (const bool backward : {false, true}) {
      add(std::string(backward ? "attend_packed_dqkv" : "attend_packed") + "/rows" + std::to_string(rows) + "/length" +
              std::to_string(length),
          [=](benchmark::State& state) { attention(state, shape, rows, length, backward); });
    }
  }
  for (const int rank : {8, 64}) {
    for (const LowRank& product : kLowRank) {
      add("gemm/" + std::string(product.name) + "/rank" + std::to_string(rank),
          [=](benchmark::State& state) { low_rank(state, product, rows, shape.model, shape.feed_forward, rank); });
    }
  }
  const std::pair<const char*, void (*)(benchmark::State&, const Shape&, int)> by_row[] = {
      {"rms_norm_dx", rms_norm_dx}, {"norm_rope_dx", norm_rope_dx}, {"glu_dx", glu_dx}, {"dropout", dropout}};
  for (const auto& [name, run] : by_row)
    add(name + ("/rows" + std::to_string(rows)), [=, f = run](benchmark::State& state) { f(state, shape, rows); });
}

}  // namespace bumblebee::bench
