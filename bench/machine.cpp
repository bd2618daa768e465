// Counters as rates and as shares of limits measured in the same run: a share means the same on another day and beside
// another job.
#include "machine.h"

#include "backend/registry.h"
#include "bumblebee/device.h"

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
  return require_backend("cpu", {}).create({.threads = 0, .fast = fast, .instruction_set = {}});
}

void report(benchmark::State& state, const Work& work) {
  const double times = double(state.iterations());
  const auto rate = [&](double amount) { return benchmark::Counter(amount * times, benchmark::Counter::kIsRate); };
  state.SetBytesProcessed(int64_t(work.bytes * times));
  state.counters["of_read_bandwidth"] = rate(work.bytes / machine().read_bandwidth);
  if (work.limit == Limit::none) return;
  const Peak& peak = work.limit == Limit::f32 ? machine().peaks.f32 : machine().peaks.int8;
  state.counters["ops_per_second"] = rate(work.operations);
  state.counters["of_peak"] = rate(work.operations / peak.per_second);
}

Tensor activations(Backend& backend, int rows, int cols) {
  std::vector<float> values(size_t(rows) * size_t(cols));
  for (size_t i = 0; i < values.size(); ++i) values[i] = 0.125f * float(int(i % 17) - 8);
  return backend.upload(values, rows, cols);
}

void bind_rows(Backend& backend, int rows) {
  Batch batch;
  batch.append(std::vector<int32_t>(size_t(rows), 0), 0, {0}, Batch::Want::last);
  backend.bind(batch, nullptr);
}

}  // namespace bumblebee::bench
