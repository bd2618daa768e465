// Reads the processor's feature flags once.
#include "backend/cpu/dispatch.h"

#include <cstdlib>
#include <fstream>

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "base/error.h"

namespace bumblebee::cpu {

std::vector<const Kernels*> available_kernels() {
  std::vector<const Kernels*> sets;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
                    __builtin_cpu_supports("bmi2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
  if (vnni && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi"))
    sets.push_back(&avx512_bf16_kernels());
  if (vnni) sets.push_back(&avx512_vnni_kernels());
  if (avx512) sets.push_back(&avx512_kernels());
  if (avx2) sets.push_back(&avx2_kernels());
#elif defined(__aarch64__)
  const unsigned long features = getauxval(AT_HWCAP), more = getauxval(AT_HWCAP2);
  if ((features & HWCAP_ASIMDDP) != 0 && (more & HWCAP2_I8MM) != 0) sets.push_back(&neon_i8mm_kernels());
  if ((features & HWCAP_ASIMDDP) != 0) sets.push_back(&neon_dotprod_kernels());
  sets.push_back(&neon_kernels());
#endif
  sets.push_back(&scalar_kernels());
  return sets;
}

const Kernels& choose_kernels(std::string_view wanted) {
  const char* variable = std::getenv("BB_CPU");
  const std::string_view name = !wanted.empty() ? wanted : variable != nullptr ? variable : "";
  const std::vector<const Kernels*> sets = available_kernels();
  if (name.empty()) return *sets.front();
  std::string names;
  for (const Kernels* set : sets) {
    if (name == set->name) return *set;
    names += (names.empty() ? "" : ", ") + std::string(set->name);
  }
  throw Error(ErrorCode::device, "cpu", cat("instruction set: expected one of ", names, ", got '", name, "'"));
}

std::string processor_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
#if defined(__aarch64__)
  return "aarch64";
#else
  return "x86_64";
#endif
}

}  // namespace bumblebee::cpu
