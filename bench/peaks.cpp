// One loop per instruction, with enough independent sums to hide its latency. The empty asm statements make an operand
// unknown to the compiler, so that it can neither merge nor hoist what is counted.
#include "peaks.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "base/thread_pool.h"

namespace bumblebee::bench {
namespace {

constexpr int kSums = 12;  // of sixteen registers; latencies are 3 to 5, and two issue per cycle

/// A loop of `steps` steps, and how many operations a step of one thread counts.
struct Loop {
  void (*run)(int64_t steps) = nullptr;
  double operations = 0;
  const char* instruction = "";
};

// x86-64 holds vectors in "x" (the first sixteen) or "v" (all) registers, 64-bit ARM in "w".
#if defined(__x86_64__)

void sse_f32(int64_t steps) {
  __m128 sums[kSums] = {}, a = _mm_set1_ps(0.5f), b = _mm_set1_ps(0.5f);
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (__m128& sum : sums) {
      asm volatile("" : "+x"(a));
      sum = _mm_add_ps(sum, _mm_mul_ps(a, b));
    }
  }
  for (__m128& sum : sums) asm volatile("" : "+x"(sum));
}

void sse_int8(int64_t steps) {
  __m128i sums[kSums] = {}, a = _mm_set1_epi16(3), b = _mm_set1_epi16(5);
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (__m128i& sum : sums) {
      asm volatile("" : "+x"(a));
      sum = _mm_add_epi32(sum, _mm_madd_epi16(a, b));
    }
  }
  for (__m128i& sum : sums) asm volatile("" : "+x"(sum));
}

__attribute__((target("avx2,fma"))) void avx2_f32(int64_t steps) {
  __m256 sums[kSums] = {}, a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(0.5f);
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (__m256& sum : sums) {
      asm volatile("" : "+x"(a));
      sum = _mm256_fmadd_ps(a, b, sum);
    }
  }
  for (__m256& sum : sums) asm volatile("" : "+x"(sum));
}

__attribute__((target("avx2"))) void avx2_int8(int64_t steps) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i sums[kSums] = {}, a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(5);
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (__m256i& sum : sums) {
      asm volatile("" : "+x"(a));
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones));
    }
  }
  for (__m256i& sum : sums) asm volatile("" : "+x"(sum));
}

__attribute__((target("avx2,avxvnni"))) void avx_vnni_int8(int64_t steps) {
  __m256i sums[kSums] = {}, a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(5);
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (__m256i& sum : sums) {
      asm volatile("" : "+x"(a));
      sum = _mm256_dpbusd_avx_epi32(sum, a, b);
    }
  }
  for (__m256i& sum : sums) asm volatile("" : "+x"(sum));
}

__attribute__((target("avx512f"))) void avx512_f32(int64_t steps) {
  __m512 sums[kSums] = {}, a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(0.5f);
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (__m512& sum : sums) {
      asm volatile("" : "+v"(a));
      sum = _mm512_fmadd_ps(a, b, sum);
    }
  }
  for (__m512& sum : sums) asm volatile("" : "+v"(sum));
}

__attribute__((target("avx512f,avx512bw"))) void avx512_int8(int64_t steps) {
  const __m512i ones = _mm512_set1_epi16(1);
  __m512i sums[kSums] = {}, a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (__m512i& sum : sums) {
      asm volatile("" : "+v"(a));
      sum = _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_maddubs_epi16(a, b), ones));
    }
  }
  for (__m512i& sum : sums) asm volatile("" : "+v"(sum));
}

__attribute__((target("avx512f,avx512vnni"))) void vnni_int8(int64_t steps) {
  __m512i sums[kSums] = {}, a = _mm512_set1_epi32(0x03030303), b = _mm512_set1_epi32(0x05050505);
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (__m512i& sum : sums) {
      asm volatile("" : "+v"(a));
      sum = _mm512_dpbusd_epi32(sum, a, b);
    }
  }
  for (__m512i& sum : sums) asm volatile("" : "+v"(sum));
}

/// Four sums of 16 x 16. Only for sets that the backend says run here: it has asked the system for tiles.
void amx_int8(int64_t steps) {
  struct alignas(64) Shapes {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16};
  };
  const Shapes shapes;
  asm volatile("ldtilecfg %0" : : "m"(shapes));
  for (int64_t i = 0; i < steps; ++i) {
    asm volatile(
        "tdpbsud %tmm4, %tmm5, %tmm0\n\ttdpbsud %tmm4, %tmm5, %tmm1\n\t"
        "tdpbsud %tmm4, %tmm5, %tmm2\n\ttdpbsud %tmm4, %tmm5, %tmm3");
  }
  asm volatile("tilerelease");
}

// The instruction as text: the compiler's own name for it needs more of a target than this file has.
__attribute__((target("avx512f"))) void avx512_bf16(int64_t steps) {
  __m512 sums[kSums] = {};
  const __m512i a = _mm512_set1_epi32(0x3f003f00), b = a;
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (__m512& sum : sums) asm volatile("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  }
}

Loop f32_loop(std::string_view set) {
  if (set.starts_with("avx512")) return {avx512_f32, 2.0 * 16 * kSums, "vfmadd231ps zmm"};
  if (set == "avx2" || set == "avx2_vnni") return {avx2_f32, 2.0 * 8 * kSums, "vfmadd231ps ymm"};
  return {sse_f32, 2.0 * 4 * kSums, "mulps, addps xmm"};
}

Loop bf16_loop(std::string_view set) {
  if (set == "avx512_bf16" || set == "avx512_amx") return {avx512_bf16, 2.0 * 32 * kSums, "vdpbf16ps zmm"};
  return f32_loop(set);
}

Loop int8_loop(std::string_view set) {
  if (set == "avx512_amx") return {amx_int8, 2.0 * 16 * 16 * 64 * 4, "tdpbsud"};
  if (set == "avx512") return {avx512_int8, 2.0 * 64 * kSums, "vpmaddubsw, vpmaddwd, vpaddd zmm"};
  if (set.starts_with("avx512")) return {vnni_int8, 2.0 * 64 * kSums, "vpdpbusd zmm"};
  if (set == "avx2_vnni") return {avx_vnni_int8, 2.0 * 32 * kSums, "vpdpbusd ymm"};
  if (set == "avx2") return {avx2_int8, 2.0 * 32 * kSums, "vpmaddubsw, vpmaddwd, vpaddd ymm"};
  return {sse_int8, 2.0 * 8 * kSums, "pmaddwd, paddd xmm"};
}

#elif defined(__aarch64__)

void neon_f32(int64_t steps) {
  float32x4_t sums[kSums] = {}, a = vdupq_n_f32(0.5f), b = vdupq_n_f32(0.5f);
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (float32x4_t& sum : sums) {
      asm volatile("" : "+w"(a));
      sum = vfmaq_f32(sum, a, b);
    }
  }
  for (float32x4_t& sum : sums) asm volatile("" : "+w"(sum));
}

void neon_int8(int64_t steps) {
  int8x16_t a = vdupq_n_s8(3), b = vdupq_n_s8(5);
  int32x4_t sums[kSums] = {};
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (int32x4_t& sum : sums) {
      asm volatile("" : "+w"(a));
      sum = vpadalq_s16(sum, vmlal_high_s8(vmull_s8(vget_low_s8(a), vget_low_s8(b)), a, b));
    }
  }
  for (int32x4_t& sum : sums) asm volatile("" : "+w"(sum));
}

__attribute__((target("arch=armv8.2-a+dotprod"))) void dotprod_int8(int64_t steps) {
  int8x16_t a = vdupq_n_s8(3), b = vdupq_n_s8(5);
  int32x4_t sums[kSums] = {};
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (int32x4_t& sum : sums) {
      asm volatile("" : "+w"(a));
      sum = vdotq_s32(sum, a, b);
    }
  }
  for (int32x4_t& sum : sums) asm volatile("" : "+w"(sum));
}

__attribute__((target("arch=armv8.2-a+i8mm"))) void i8mm_int8(int64_t steps) {
  int8x16_t a = vdupq_n_s8(3), b = vdupq_n_s8(5);
  int32x4_t sums[kSums] = {};
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (int32x4_t& sum : sums) {
      asm volatile("" : "+w"(a));
      sum = vmmlaq_s32(sum, a, b);
    }
  }
  for (int32x4_t& sum : sums) asm volatile("" : "+w"(sum));
}

Loop f32_loop(std::string_view) { return {neon_f32, 2.0 * 4 * kSums, "fmla 4s"}; }
Loop bf16_loop(std::string_view set) { return f32_loop(set); }

Loop int8_loop(std::string_view set) {
  if (set == "neon_i8mm") return {i8mm_int8, 2.0 * 32 * kSums, "smmla"};
  if (set == "neon_dotprod") return {dotprod_int8, 2.0 * 16 * kSums, "sdot"};
  return {neon_int8, 2.0 * 16 * kSums, "smull, smlal2, sadalp"};
}

#else
#error "peaks: this architecture has no loops yet; write f32_loop(), bf16_loop() and int8_loop()"
#endif

Peak measure(const Loop& loop, ThreadPool& pool, double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto timed = [&](int64_t steps) {
    const auto start = Clock::now();
    pool.run([&](int) { loop.run(steps); });
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  // Runs of a few milliseconds: long beside starting the threads, short beside a neighbour's turn on the core. The
  // shortest of some decides: one that was interrupted looks long and is not.
  const auto shortest = [&](int64_t steps) {
    double best = timed(steps);
    for (int i = 0; i < 5; ++i) best = std::min(best, timed(steps));
    return best;
  };
  int64_t steps = 1000;
  while (shortest(steps) < 0.002 && steps < (int64_t{1} << 40)) steps *= 2;
  Peak peak{0, loop.instruction};
  const auto start = Clock::now();
  do {
    const double rate = double(pool.threads()) * double(steps) * loop.operations / timed(steps);
    peak.per_second = std::max(peak.per_second, rate);
  } while (std::chrono::duration<double>(Clock::now() - start).count() < seconds);
  return peak;
}

}  // namespace

Peaks measure_peaks(std::string_view instruction_set, int threads, double seconds) {
  ThreadPool pool(threads);
  return {measure(f32_loop(instruction_set), pool, seconds), measure(int8_loop(instruction_set), pool, seconds),
          measure(bf16_loop(instruction_set), pool, seconds)};
}

}  // namespace bumblebee::bench
