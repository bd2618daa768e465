// Counters as rates and as shares of limits measured in the same run: a share means the same on another day and beside
// another job.
#include "machine.h"

#include "backend/registry.h"
#include "bumblebee/device.h"
#include "quant/elements.h"

namespace bumblebee::bench {

const Machine& machine() {
  static const Machine measured = [] {
    const DeviceInfo device = devices().front();
    Machine m;
    m.processor = device.description;
    m.instruction_set = device.kernels;
    m.threads = device.threads;
    m.read_bandwidth = measure_read_bandwidth();
    m.peaks = measure_peaks(m.instruction_set, 0, 0.5);
    return m;
  }();
  return measured;
}

std::unique_ptr<Backend> make_backend(bool fast) {
  return require_device("cpu", {}).entry->create({.threads = 0, .fast = fast, .instruction_set = {}});
}

void report(benchmark::State& state, const Work& work) {
  const double times = double(state.iterations());
  const auto rate = [&](double amount) { return benchmark::Counter(amount * times, benchmark::Counter::kIsRate); };
  state.SetBytesProcessed(int64_t(work.bytes * times));
  state.counters["of_read_bandwidth"] = rate(work.bytes / machine().read_bandwidth);
  if (work.limit == Limit::none) return;
  const Peaks& peaks = machine().peaks;
  const Peak& peak = work.limit == Limit::f32 ? peaks.f32 : work.limit == Limit::int8 ? peaks.int8 : peaks.bf16;
  state.counters["ops_per_second"] = rate(work.operations);
  state.counters["of_peak"] = rate(work.operations / peak.per_second);
}

Tensor activations(Backend& backend, int rows, int cols) {
  std::vector<float> values(size_t(rows) * size_t(cols));
  for (size_t i = 0; i < values.size(); ++i) values[i] = 0.125f * float(int(i % 17) - 8);
  return backend.upload(values, rows, cols);
}

HostWeight random_weight(const Format& format, int out, int in) {
  const bool dense = format.kind == Format::Kind::dense;
  const size_t codes = row_bytes(format, in) * size_t(out);
  const size_t groups = dense ? 0 : size_t(out) * size_t(in / format.group);
  const size_t scales = groups * size_t(size_of(format.scale)), biases = groups * size_t(size_of(format.bias));
  const auto owner = std::make_shared<std::vector<std::byte>>(codes + scales + biases);
  const std::span<std::byte> all(*owner);
  if (dense) {
    for (size_t i = 0; i < codes / size_t(size_of(format.scale)); ++i)
      store_float(all, format.scale, i, 0.01f * float(int(i % 7) - 3));
  } else {
    uint32_t state = 1;
    for (size_t i = 0; i < codes; ++i) all[i] = std::byte((state = state * 1664525u + 1013904223u) >> 24);
    for (size_t g = 0; g < groups; ++g) {
      store_float(all.subspan(codes, scales), format.scale, g, 0.01f);
      store_float(all.subspan(codes + scales), format.bias, g, -0.05f);
    }
  }
  return {.format = format,
          .out = out,
          .in = in,
          .codes = all.first(codes),
          .scales = all.subspan(codes, scales),
          .biases = all.subspan(codes + scales),
          .name = "bench",
          .keep = owner};
}

void bind_rows(Backend& backend, int rows) {
  Batch batch;
  batch.append(std::vector<int32_t>(size_t(rows), 0), 0, std::vector<int32_t>{0}, Batch::Want::last);
  backend.stream().bind(batch, nullptr);
}

}  // namespace bumblebee::bench
