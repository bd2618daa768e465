// Reads them from the processor and the operating system.
#include "ui/cpu_features.h"

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace bumblebee::cli {

#if defined(__x86_64__)
namespace {

/// Clang 14's builtin does not know these two.
bool has_avx_vnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & (1u << 4)) != 0;
}
bool has_amx_int8() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & (1u << 25)) != 0;
}

}  // namespace
#endif

std::vector<std::pair<std::string, bool>> cpu_features() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  return {{"sse4.2", __builtin_cpu_supports("sse4.2") != 0},
          {"avx", __builtin_cpu_supports("avx") != 0},
          {"avx2", __builtin_cpu_supports("avx2") != 0},
          {"fma", __builtin_cpu_supports("fma") != 0},
          {"avx_vnni", has_avx_vnni()},
          {"avx512f", __builtin_cpu_supports("avx512f") != 0},
          {"avx512bw", __builtin_cpu_supports("avx512bw") != 0},
          {"avx512vl", __builtin_cpu_supports("avx512vl") != 0},
          {"avx512_vnni", __builtin_cpu_supports("avx512vnni") != 0},
          {"avx512_vbmi", __builtin_cpu_supports("avx512vbmi") != 0},
          {"gfni", __builtin_cpu_supports("gfni") != 0},
          {"avx512_bf16", __builtin_cpu_supports("avx512bf16") != 0},
          {"amx_int8", has_amx_int8()}};
#elif defined(__aarch64__)
  unsigned long low = getauxval(AT_HWCAP), high = getauxval(AT_HWCAP2);
  return {{"neon", (low & HWCAP_ASIMD) != 0},
          {"fp16", (low & HWCAP_ASIMDHP) != 0},
          {"dotprod", (low & HWCAP_ASIMDDP) != 0},
          {"i8mm", (high & HWCAP2_I8MM) != 0},
          {"bf16", (high & HWCAP2_BF16) != 0}};
#else
  return {};
#endif
}

}  // namespace bumblebee::cli
