// Every operation of the cpu backend by itself, against the limits of this machine: bench_ops [--small] and the flags
// of Google Benchmark. docs/internals/performance.md says how to read the counters.
#include <cstdio>
#include <cstring>

#include "bumblebee/version.h"
#include "machine.h"

int main(int count, char** arguments) {
  using namespace bumblebee;
  bench::Size size = bench::Size::full;
  for (int i = 1; i < count; ++i) {
    if (std::strcmp(arguments[i], "--small") != 0) continue;
    size = bench::Size::small;
    for (int next = i--; next < count; ++next) arguments[next] = arguments[next + 1];
    --count;
  }
  bench::register_matmul(size);
  bench::register_attention(size);
  bench::register_lora(size);
  bench::register_grad(size);
  bench::register_rows(size);
  bench::register_sample(size);
  bench::register_schedule(size);
  benchmark::Initialize(&count, arguments);
  if (benchmark::ReportUnrecognizedArguments(count, arguments)) return 1;

  const bench::Machine& machine = bench::machine();
  const auto giga = [](double value) { return std::to_string(value / 1e9); };
  benchmark::AddCustomContext("bumblebee_version", version());
  benchmark::AddCustomContext("bumblebee_commit", commit());
  benchmark::AddCustomContext("processor", machine.processor);
  benchmark::AddCustomContext("instruction_set", machine.instruction_set);
  benchmark::AddCustomContext("threads", std::to_string(machine.threads));
  benchmark::AddCustomContext("sizes", size == bench::Size::full ? "full" : "small");
  benchmark::AddCustomContext("read_bandwidth_gb_per_s", giga(machine.read_bandwidth));
  benchmark::AddCustomContext("peak_f32_gops", giga(machine.peaks.f32.per_second));
  benchmark::AddCustomContext("peak_f32_instruction", machine.peaks.f32.instruction);
  benchmark::AddCustomContext("peak_bf16_gops", giga(machine.peaks.bf16.per_second));
  benchmark::AddCustomContext("peak_bf16_instruction", machine.peaks.bf16.instruction);
  benchmark::AddCustomContext("peak_int8_gops", giga(machine.peaks.int8.per_second));
  benchmark::AddCustomContext("peak_int8_instruction", machine.peaks.int8.instruction);
  return benchmark::RunSpecifiedBenchmarks() > 0 ? 0 : 1;
}
