// What the benchmarks of one run share: the limits of this machine, measured once, sizes, and how work becomes
// counters.
#pragma once

#include <benchmark/benchmark.h>

#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "peaks.h"

namespace bumblebee::bench {

/// Full sizes are those of an 8B model, with working sets larger than any cache. Small ones prove that every benchmark
/// still runs; their figures mean nothing.
enum class Size : unsigned char { full, small };

struct Machine {
  std::string processor, instruction_set;
  int threads = 0;
  double read_bandwidth = 0;  // bytes per second
  Peaks peaks;
};

/// Measured at the first call, about two seconds.
const Machine& machine();

/// The cpu backend with as many threads as cores.
std::unique_ptr<Backend> make_backend(bool fast);

/// What one iteration does. `bytes` must be moved at least, `operations` are additions and multiplications.
enum class Limit : unsigned char { none, f32, int8, bf16 };
struct Work {
  double bytes = 0, operations = 0;
  Limit limit = Limit::none;  // the peak that the arithmetic is measured by
};

/// Sets bytes_per_second, of_read_bandwidth, and with a limit ops_per_second and of_peak.
void report(benchmark::State& state, const Work& work);

/// f32 [rows, cols] of plain values: no denormals, no infinities after many repetitions.
Tensor activations(Backend& backend, int rows, int cols);

/// A weight of random codes, scales and biases of the size that real ones have.
HostWeight random_weight(const Format& format, int out, int in);

/// A batch of `rows` rows of one sequence without a cache.
void bind_rows(Backend& backend, int rows);

/// Each registers the benchmarks of one file.
void register_matmul(Size size);
void register_attention(Size size);
void register_lora(Size size);
void register_grad(Size size);
void register_rows(Size size);
void register_sample(Size size);
void register_schedule(Size size);

template <class Function>
void add(const std::string& name, Function function) {
  benchmark::RegisterBenchmark(name.c_str(), function)->UseRealTime();  // work is done by a pool of threads
}

}  // namespace bumblebee::bench
