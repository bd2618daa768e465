// Attention over a paged cache with grouped heads: one row per sequence at a depth, chunks of a prompt, and appending.
// Layers are taken in turns, so that a cache does not stay in the processor's caches longer than a model lets it.
#include <algorithm>

#include "machine.h"

namespace bumblebee::bench {
namespace {

constexpr int kPageSize = 64;

struct Shape {
  int heads = 0, kv_heads = 0, head_dim = 0;
  size_t working_set = 0;  // bytes of keys and values
  int chunk = 0;           // rows of a prompt's chunk
};

Shape shape_of(Size size) {
  return size == Size::full ? Shape{32, 8, 128, size_t(256) << 20, 512} : Shape{4, 2, 64, size_t(1) << 16, 16};
}

/// `sequences` sequences with `past` tokens in the cache take `rows` rows each.
struct Case {
  Shape shape;
  int sequences = 1, past = 0, rows = 1;
  int window = 0;
  DType cached = DType::f32;

  double token_bytes() const { return 2.0 * shape.kv_heads * shape.head_dim * size_of(cached); }
};

class Cache {
 public:
  explicit Cache(const Case& c) : case_(c), backend_(make_backend(c.cached == DType::bf16 || c.cached == DType::i8)) {
    pages_each_ = (c.past + c.rows + kPageSize - 1) / kPageSize;
    const double layer = c.token_bytes() * pages_each_ * kPageSize * c.sequences;
    layers_ = int(std::clamp(double(c.shape.working_set) / layer, 1.0, 256.0));
    kv_ = backend_->make_kv({.groups = {{.kind = KvGroup::Kind::attention,
                                         .layers = layers_,
                                         .kv_heads = c.shape.kv_heads,
                                         .head_dim = c.shape.head_dim,
                                         .window = 0}},
                             .page_size = kPageSize,
                             .pages = pages_each_ * c.sequences,
                             .dtype = c.cached});
    if (c.past > 0) {
      // A window of one key makes filling the cache cheap.
      const Rows rows = rows_of(0, c.past);
      for (int layer_index = 0; layer_index < layers_; ++layer_index) attend(layer_index, rows, 1);
    }
    rows_ = rows_of(c.past, c.rows);
    // Memory becomes resident when it is first written: not while the clock runs.
    for (int layer_index = 0; layer_index < layers_; ++layer_index) attend(layer_index, rows_, 1);
  }

  void step() {
    Tensor out = attend(next_, rows_, case_.window);  // [sequences·rows, heads·head_dim]
    benchmark::DoNotOptimize(out);
    next_ = (next_ + 1) % layers_;
  }

 private:
  struct Rows {
    Tensor q, k, v;  // [sequences·rows, heads·head_dim] [.., kv_heads·head_dim] [.., kv_heads·head_dim]
  };

  /// Binds a batch of `count` rows per sequence after `past` tokens, and makes its inputs.
  Rows rows_of(int past, int count) {
    Batch batch;
    for (int s = 0; s < case_.sequences; ++s) {
      std::vector<int32_t> pages;
      for (int p = 0; p < pages_each_; ++p) pages.push_back(s * pages_each_ + p);
      batch.append(std::vector<int32_t>(size_t(count), 0), past, pages, Batch::Want::none);
    }
    backend_->stream().bind(batch, kv_.get());
    const Shape& s = case_.shape;
    return {activations(*backend_, batch.rows(), s.heads * s.head_dim),
            activations(*backend_, batch.rows(), s.kv_heads * s.head_dim),
            activations(*backend_, batch.rows(), s.kv_heads * s.head_dim)};
  }

  Tensor attend(int layer, const Rows& rows, int window) {
    const Shape& s = case_.shape;
    return backend_->stream().ops().attend(
        *kv_, layer, rows.q, rows.k, rows.v,
        {.heads = s.heads, .kv_heads = s.kv_heads, .head_dim = s.head_dim, .scale = 0.0883883f, .window = window});
  }

  Case case_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<KvStore> kv_;
  int pages_each_ = 0, layers_ = 0, next_ = 0;
  Rows rows_;
};

void attend(benchmark::State& state, const Case& c) {
  Cache cache(c);
  for (auto _ : state) cache.step();
  double keys = 0;  // that the rows of a sequence see
  for (int i = 0; i < c.rows; ++i) keys += c.window > 0 ? std::min(c.window, c.past + i + 1) : c.past + i + 1;
  const double read = c.window > 0 ? c.rows : c.past + c.rows;  // tokens of the cache, each once
  report(state, {.bytes = read * c.token_bytes() * c.sequences,
                 .operations = 4.0 * c.shape.heads * c.shape.head_dim * keys * c.sequences,
                 .limit = Limit::f32});
}

/// Appending has no operation of its own; with a window of one key little else is left of attention.
void append(benchmark::State& state, const Case& c) {
  Cache cache(c);
  for (auto _ : state) cache.step();
  const double values = 2.0 * c.shape.kv_heads * c.shape.head_dim;
  report(state, {.bytes = c.rows * (4 * values + c.token_bytes())});  // read as f32, written
}

const char* name_of(DType type) {
  return type == DType::f32 ? "f32" : type == DType::f16 ? "f16" : type == DType::i8 ? "i8" : "bf16";
}

}  // namespace

void register_attention(Size size) {
  const Shape shape = shape_of(size);
  // Small runs stay at depths that fill a few pages.
  const auto depth = [size](int tokens) { return size == Size::full ? tokens : tokens / 64; };
  for (DType cached : {DType::f32, DType::f16, DType::bf16, DType::i8}) {
    const std::string type = std::string("/") + name_of(cached);
    for (int past : {512, 8192}) {
      const std::string at = "/d" + std::to_string(past) + type;
      for (int sequences : {1, 8}) {
        if (sequences > 1 && past > 512) continue;
        const Case c{.shape = shape, .sequences = sequences, .past = depth(past), .cached = cached};
        add("attend_decode/rows" + std::to_string(sequences) + at, [c](benchmark::State& s) { attend(s, c); });
      }
    }
    for (int past : {0, 7680}) {
      const Case c{.shape = shape, .past = depth(past), .rows = shape.chunk, .cached = cached};
      add("attend_prefill/rows512/d" + std::to_string(past) + type, [c](benchmark::State& s) { attend(s, c); });
    }
    const Case c{.shape = shape, .rows = shape.chunk, .window = 1, .cached = cached};
    add("append_kv/rows512" + type, [c](benchmark::State& s) { append(s, c); });
  }
}

}  // namespace bumblebee::bench
