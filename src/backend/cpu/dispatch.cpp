// Reads the processor's feature flags once.
#include "backend/cpu/dispatch.h"

#include <cstdlib>
#include <fstream>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "backend/cpu/amx_tiles.h"
#include "base/error.h"

namespace bumblebee::cpu {

namespace {

bool always() { return true; }

struct CompiledSet {
  const char* name;
  const Kernels& (*kernels)();
  bool (*runs)();              // on this processor
  bool (*granted)() = always;  // what the system must allow first; it is asked
};

#if defined(__x86_64__)
/// Clang 14's __builtin_cpu_supports does not know these two.
[[maybe_unused]] bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
[[maybe_unused]] bool has_avx_vnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & (1u << 4)) != 0;
}

[[maybe_unused]] bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c() &&
         __builtin_cpu_supports("bmi2");
}
[[maybe_unused]] bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
[[maybe_unused]] bool has_avx512_vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
[[maybe_unused]] bool has_avx512_bf16() {
  return has_avx512_vnni() && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi") &&
         __builtin_cpu_supports("gfni");
}
#elif defined(__aarch64__)
[[maybe_unused]] bool has_dot_product() { return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0; }
[[maybe_unused]] bool has_i8mm() { return has_dot_product() && (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0; }
#endif

/// The sets of this build (CMakeLists.txt beside this file names them), best first.
std::vector<CompiledSet> compiled() {
  std::vector<CompiledSet> sets;
#if defined(__x86_64__)
  __builtin_cpu_init();
#endif
#ifdef BB_WITH_AVX512_AMX
  sets.push_back({"avx512_amx", avx512_amx_kernels, [] { return has_avx512_bf16() && has_tiles(); }, may_use_tiles});
#endif
#ifdef BB_WITH_AVX512_BF16
  sets.push_back({"avx512_bf16", avx512_bf16_kernels, has_avx512_bf16});
#endif
#ifdef BB_WITH_AVX512_VNNI
  sets.push_back({"avx512_vnni", avx512_vnni_kernels, has_avx512_vnni});
#endif
#ifdef BB_WITH_AVX512
  sets.push_back({"avx512", avx512_kernels, has_avx512});
#endif
#ifdef BB_WITH_AVX2_VNNI
  sets.push_back({"avx2_vnni", avx2_vnni_kernels, [] { return has_avx2() && has_avx_vnni(); }});
#endif
#ifdef BB_WITH_AVX2
  sets.push_back({"avx2", avx2_kernels, has_avx2});
#endif
#ifdef BB_WITH_NEON_I8MM
  sets.push_back({"neon_i8mm", neon_i8mm_kernels, has_i8mm});
#endif
#ifdef BB_WITH_NEON_DOTPROD
  sets.push_back({"neon_dotprod", neon_dotprod_kernels, has_dot_product});
#endif
#ifdef BB_WITH_NEON
  sets.push_back({"neon", neon_kernels, always});
#endif
  sets.push_back({"scalar", scalar_kernels, always});
  return sets;
}

}  // namespace

std::vector<const Kernels*> available_kernels() {
  std::vector<const Kernels*> sets;
  for (const CompiledSet& set : compiled()) {
    if (set.runs() && set.granted()) sets.push_back(&set.kernels());
  }
  return sets;
}

std::vector<std::string> compiled_sets() {
  std::vector<std::string> names;
  for (const CompiledSet& set : compiled()) names.emplace_back(set.name);
  return names;
}

std::vector<std::string> present_sets() {
  std::vector<std::string> names;
  for (const CompiledSet& set : compiled()) {
    if (set.runs()) names.emplace_back(set.name);
  }
  return names;
}

const Kernels& choose_kernels(std::string_view wanted) {
  const char* variable = std::getenv("BB_CPU");
  const std::string_view name = !wanted.empty() ? wanted : variable != nullptr ? variable : "";
  // The best first, and only what is looked at is asked for: a set that was named needs no tiles of others.
  for (const CompiledSet& set : compiled()) {
    if ((name.empty() || name == set.name) && set.runs() && set.granted()) return set.kernels();
  }
  std::string names;
  for (const Kernels* set : available_kernels()) names += (names.empty() ? "" : ", ") + std::string(set->name);
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
