// Products with weights of every width and group. The weights are larger together than any cache and taken in turns, as
// a model takes its layers. Codes are random: speed does not depend on them.
#include <cstring>
#include <memory>

#include "machine.h"
#include "quant/elements.h"

namespace bumblebee::bench {
namespace {

struct Shape {
  int out = 0, in = 0;
  size_t working_set = 0;  // bytes
};

Shape shape_of(Size size) {
  return size == Size::full ? Shape{4096, 4096, size_t(512) << 20} : Shape{64, 256, size_t(1) << 16};
}

/// Weights of one format, in files' layout, with one owner of all bytes.
struct Weights {
  std::vector<HostWeight> each;
  double bytes = 0;  // of one
};

void fill(std::span<std::byte> bytes, uint64_t seed) {
  uint64_t state = seed * 0x9E3779B97F4A7C15ull + 1;
  for (size_t i = 0; i + 8 <= bytes.size(); i += 8) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    std::memcpy(bytes.data() + i, &state, 8);
  }
}

/// Codes are random; scales, biases and dense elements have the size that real ones have.
Weights random_weights(const Format& format, const Shape& shape) {
  const bool dense = format.kind == Format::Kind::dense;
  const size_t codes = row_bytes(format, shape.in) * size_t(shape.out);
  const size_t groups = dense ? 0 : size_t(shape.out) * size_t(shape.in / format.group);
  const size_t scales = groups * size_t(size_of(format.scale));
  const size_t biases = format.biased ? groups * size_t(size_of(format.bias)) : 0;
  const size_t one = codes + scales + biases;
  const size_t count = std::max<size_t>(1, shape.working_set / one);
  const auto owner = std::make_shared<std::vector<std::byte>>(one * count);
  Weights weights{{}, double(one)};
  for (size_t i = 0; i < count; ++i) {
    const std::span<std::byte> part = std::span(*owner).subspan(i * one, one);
    HostWeight weight{.format = format,
                      .out = shape.out,
                      .in = shape.in,
                      .codes = part.first(codes),
                      .scales = part.subspan(codes, scales),
                      .biases = part.subspan(codes + scales, biases),
                      .name = "bench",
                      .keep = owner};
    if (dense) {
      for (size_t e = 0; e < codes / size_t(size_of(format.scale)); ++e)
        store_float(part, format.scale, e, 0.01f * float(int(e % 7) - 3));
    } else {
      fill(part.first(codes), i + 1);
      if (!format.biased) std::fill_n(part.data() + codes, scales, std::byte{120});
      for (size_t g = 0; g < groups && format.biased; ++g) {
        store_float(part.subspan(codes, scales), format.scale, g, 0.01f);
        store_float(part.subspan(codes + scales), format.bias, g, -0.05f);
      }
    }
    weights.each.push_back(std::move(weight));
  }
  return weights;
}

/// What a benchmark runs on. Kept from one to the next, because most differ in their rows only.
struct Prepared {
  Format format;
  bool fast = false;
  double bytes = 0;  // of one weight
  std::unique_ptr<Backend> backend;
  std::vector<Weight> weights;
};

Prepared& prepared(const Format& format, bool fast, const Shape& shape) {
  static std::unique_ptr<Prepared> last;
  if (last && last->format == format && last->fast == fast) return *last;
  last.reset();  // first: two working sets may be more than fits
  last = std::make_unique<Prepared>(Prepared{format, fast, 0, make_backend(fast), {}});
  const Weights weights = random_weights(format, shape);
  last->bytes = weights.bytes;
  for (const HostWeight& weight : weights.each) last->weights.push_back(last->backend->pack(weight));
  return *last;
}

struct Case {
  Format format;
  int rows = 1;
  bool fast = false;
  Shape shape;
};

void matmul(benchmark::State& state, const Case& c) {
  Prepared& on = prepared(c.format, c.fast, c.shape);
  const Tensor x = activations(*on.backend, c.rows, c.shape.in);  // [rows, in]
  bind_rows(*on.backend, c.rows);
  size_t next = 0;
  for (auto _ : state) {
    const MatmulTerm term{.weight = &on.weights[next], .bias = nullptr};
    Tensor y;  // [rows, out]
    on.backend->stream().ops().matmul(x, {&term, 1}, {&y, 1});
    benchmark::DoNotOptimize(y);
    next = (next + 1) % on.weights.size();
  }
  // Fast mode rounds to int8 for quantized weights, to bf16 for dense ones, which are still added up in f32.
  const bool int8 = c.fast && c.format.kind == Format::Kind::affine && (c.format.biased || c.format == Format::mxfp4());
  report(state, {.bytes = on.bytes + 4.0 * c.rows * (c.shape.in + c.shape.out),
                 .operations = 2.0 * c.rows * c.shape.in * c.shape.out,
                 .limit = int8 ? Limit::int8 : Limit::f32});
}

}  // namespace

void register_matmul(Size size) {
  std::vector<std::pair<std::string, Format>> formats;
  for (int bits : {2, 3, 4, 5, 6, 8}) {
    for (int group : {32, 64, 128})
      formats.emplace_back("b" + std::to_string(bits) + "_g" + std::to_string(group),
                           Format::affine(bits, group, DType::bf16, DType::bf16));
  }
  for (const Format& format : {Format::mxfp4(), Format::mxfp8(), Format::nvfp4()})
    formats.emplace_back(to_string(format), format);
  formats.emplace_back("bf16", Format::dense(DType::bf16));
  formats.emplace_back("f16", Format::dense(DType::f16));
  for (const auto& [name, format] : formats) {
    for (bool fast : {false, true}) {
      for (int rows : {1, 2, 4, 8, 16, 64, 512}) {
        const Case c{.format = format, .rows = rows, .fast = fast, .shape = shape_of(size)};
        add("matmul/" + name + "/rows" + std::to_string(rows) + (fast ? "/fast" : "/exact"),
            [c](benchmark::State& state) { matmul(state, c); });
      }
    }
  }
}

}  // namespace bumblebee::bench
