// How fast products with quantized weights are, as bytes per second and as a share of this machine's read bandwidth.
// The weights are larger together than any cache and taken in turns, as a model takes its layers. Codes are random:
// speed does not depend on them.
#include <benchmark/benchmark.h>

#include <array>
#include <cstring>
#include <memory>
#include <vector>

#include "backend/registry.h"
#include "bumblebee/device.h"
#include "quant/affine.h"

namespace bumblebee {
namespace {

constexpr int kOut = 4096, kIn = 4096;
constexpr size_t kWorkingSet = size_t(512) << 20;

struct Case {
  const char* name;
  Format format;
  int rows;  // of activations
  bool fast;
};

/// A weight of random codes with scales and biases of the size that real ones have.
HostWeight random_weight(const Format& format, uint64_t seed) {
  auto bytes = std::make_shared<std::vector<std::byte>>(row_bytes(format, kIn) * kOut);
  uint64_t state = seed * 0x9E3779B97F4A7C15ull + 1;
  for (size_t i = 0; i + 8 <= bytes->size(); i += 8) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    std::memcpy(bytes->data() + i, &state, 8);
  }
  HostWeight weight{.format = format,
                    .out = kOut,
                    .in = kIn,
                    .codes = *bytes,
                    .scales = {},
                    .biases = {},
                    .name = "bench",
                    .keep = bytes};
  if (format.kind == Format::Kind::dense) {
    for (size_t i = 0; i < size_t(kOut) * kIn; ++i) store_float(*bytes, format.scale, i, 0.01f * float(int(i % 7) - 3));
    return weight;
  }
  const size_t groups = size_t(kOut) * size_t(kIn / format.group);
  auto scales = std::make_shared<std::vector<std::byte>>(groups * 2 * size_t(size_of(format.scale)));
  const std::span<std::byte> all(*scales);
  const size_t half = all.size() / 2;
  for (size_t i = 0; i < groups; ++i) {
    store_float(all.first(half), format.scale, i, 0.01f);
    store_float(all.subspan(half), format.bias, i, -0.05f);
  }
  weight.scales = all.first(half);
  weight.biases = all.subspan(half);
  weight.keep = std::make_shared<std::pair<decltype(bytes), decltype(scales)>>(bytes, scales);
  return weight;
}

size_t weight_bytes(const HostWeight& weight) {
  return weight.codes.size() + weight.scales.size() + weight.biases.size();
}

double read_bandwidth() {
  static const double measured = measure_read_bandwidth();
  return measured;
}

void matmul(benchmark::State& state, const Case& bench) {
  const std::array formats = {bench.format};
  const std::unique_ptr<Backend> backend =
      require_backend("cpu", formats).create({.threads = 0, .fast = bench.fast, .instruction_set = {}});
  std::vector<Weight> weights;
  size_t bytes = 0, total = 0;
  while (total < kWorkingSet) {
    const HostWeight host = random_weight(bench.format, weights.size() + 1);
    bytes = weight_bytes(host);
    total += bytes;
    weights.push_back(backend->prepare(host));
  }
  const std::vector<float> values(size_t(bench.rows) * kIn, 0.5f);
  const Tensor x = backend->upload(values, bench.rows, kIn);  // [rows, kIn]
  size_t next = 0;
  for (auto _ : state) {
    const MatmulTerm term{.weight = &weights[next], .bias = nullptr};
    Tensor y;  // [rows, kOut]
    backend->ops().matmul(x, {&term, 1}, {&y, 1});
    benchmark::DoNotOptimize(y);
    next = (next + 1) % weights.size();
  }
  const double moved = double(bytes) * double(state.iterations());
  state.SetBytesProcessed(int64_t(moved));
  state.counters["of_read_bandwidth"] = benchmark::Counter(moved / read_bandwidth(), benchmark::Counter::kIsRate);
  state.counters["flops"] =
      benchmark::Counter(2.0 * kOut * kIn * bench.rows * double(state.iterations()), benchmark::Counter::kIsRate);
}

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {"q4_g64", Format::affine(4, 64, DType::bf16, DType::bf16), 1, false},
      {"q4_g64_fast", Format::affine(4, 64, DType::bf16, DType::bf16), 1, true},
      {"q8_g64", Format::affine(8, 64, DType::bf16, DType::bf16), 1, false},
      {"bf16", Format::dense(DType::bf16), 1, false},
      {"q4_g64_rows8", Format::affine(4, 64, DType::bf16, DType::bf16), 8, false},
      {"q4_g64_rows512", Format::affine(4, 64, DType::bf16, DType::bf16), 512, false},
      {"q4_g64_rows512_fast", Format::affine(4, 64, DType::bf16, DType::bf16), 512, true},
  };
  return all;
}

}  // namespace
}  // namespace bumblebee

int main(int argc, char** argv) {
  for (const bumblebee::Case& bench : bumblebee::cases()) {
    benchmark::RegisterBenchmark(bench.name, [&bench](benchmark::State& state) {
      bumblebee::matmul(state, bench);
    })->UseRealTime();
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::AddCustomContext("read_bandwidth_gb_per_s", std::to_string(bumblebee::read_bandwidth() / 1e9));
  benchmark::RunSpecifiedBenchmarks();
}
