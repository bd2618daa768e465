// Products for many rows, on tensor cores: those that sm_90a has kernels for are matmul_wide.h's; here is what every
// card from sm_80 has. 128 rows of x and 128 of W a block, 64 columns at a time. Codes go to shared memory as bf16
// integers, which are exact, and meet x as the sum of two bf16 numbers; the sums of a group are promoted to f32 with
// its scale and bias. Double-buffered with cp.async; nothing here is newer than sm_80.
#include <algorithm>

#include "backend/cuda/kernels/device.cuh"
#include "backend/cuda/kernels/float_codes.cuh"
#include "backend/cuda/kernels/launch.h"
#include "backend/cuda/kernels/matmul.h"
#include "backend/cuda/kernels/matmul_wide.h"
#include "backend/cuda/kernels/mma.cuh"

namespace bumblebee::cuda {
namespace {

constexpr int kThreads = 256, kParts = 2;
constexpr int kTile = 128;          // rows of x, and of W
constexpr int kDepth = 64;          // columns at a time
constexpr int kSpan = 32;           // columns whose sum of x is known: what every group is a multiple of
constexpr int kPitch = kDepth + 8;  // bf16 elements of a row in shared memory: ldmatrix without conflicts
constexpr int kSpans = kDepth / kSpan;

struct Shared {
  __nv_bfloat16 x[2][kParts][kTile][kPitch];
  __nv_bfloat16 w[kTile][kPitch];
  float sums[2][kTile][kSpans];
  float scale[kTile][kSpans], bias[kTile][kSpans];
};

/// x as two bf16 parts [2, rows, padded], and its sums over spans [rows, padded / 32]; `padded` is a multiple of 64.
__global__ void split_kernel(const float* x, int in, int padded, __nv_bfloat16* parts, float* sums, size_t part) {
  const size_t row = blockIdx.x;
  const int lane = int(threadIdx.x) % kWarp;
  for (int k = int(threadIdx.x); k < padded; k += kThreads) {
    const float v = k < in ? x[row * size_t(in) + size_t(k)] : 0.0f;
    const __nv_bfloat16 high = __float2bfloat16_rn(v);
    parts[row * size_t(padded) + size_t(k)] = high;
    parts[part + row * size_t(padded) + size_t(k)] = __float2bfloat16_rn(v - __bfloat162float(high));
    const float sum = warp_sum(v);  // padded is a multiple of 64: warps are full
    if (lane == 0) sums[row * size_t(padded / kSpan) + size_t(k / kSpan)] = sum;
  }
}

__device__ inline void copy_async(void* to, const void* from, bool there) {
  const unsigned address = unsigned(__cvta_generic_to_shared(to));
  const int bytes = there ? 16 : 0;  // the rest is zero
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes));
}

__device__ inline void load_matrices(uint32_t (&r)[4], const void* from) {
  const unsigned address = unsigned(__cvta_generic_to_shared(from));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}

struct Split {
  const __nv_bfloat16* parts;
  const float* sums;
  size_t part;
  int rows, padded;
};

__device__ inline void fetch_x(Shared& s, const Split& x, int row0, int k, int stage) {
  for (int i = int(threadIdx.x); i < kParts * kTile * (kDepth / 8); i += kThreads) {
    const int p = i / (kTile * (kDepth / 8)), r = i / (kDepth / 8) % kTile, c = i % (kDepth / 8) * 8;
    const bool there = row0 + r < x.rows;
    const size_t row = size_t(there ? row0 + r : 0);
    copy_async(&s.x[stage][p][r][c], x.parts + size_t(p) * x.part + row * size_t(x.padded) + size_t(k + c), there);
  }
  const int r = int(threadIdx.x) / kSpans, span = int(threadIdx.x) % kSpans;
  const bool there = row0 + r < x.rows;
  s.sums[stage][r][span] =
      there ? x.sums[size_t(row0 + r) * size_t(x.padded / kSpan) + size_t(k / kSpan + span)] : 0.0f;
  asm volatile("cp.async.commit_group;");
}

/// A thread's part of W: one block of 32 columns of one row. BITS 0: dense bf16. Float codes with two groups a block
/// have these scales in their codes, `first` and `second`, which bf16 holds exactly: a code has two bits, a scale four.
template <int BITS, Code CODE>
struct Codes {
  uint32_t words[BITS == 0 ? 16 : BITS];
  float scale = 1, bias = 0, first = 1, second = 1;
};

template <int BITS, Code CODE>
__device__ inline void fetch_w(Codes<BITS, CODE>& codes, const WeightView& w, int n, int k) {
  const bool there = n < w.out && k < w.in;
#pragma unroll
  for (uint32_t& word : codes.words) word = 0;
  codes.scale = 1, codes.bias = 0, codes.first = codes.second = 1;
  if (!there) return;
  if constexpr (CODE != Code::uint) {
    const uint32_t* at =
        reinterpret_cast<const uint32_t*>(w.codes + size_t(n) * w.row_bytes) + size_t(k / kSpan) * BITS;
#pragma unroll
    for (int i = 0; i < BITS; ++i) codes.words[i] = __ldg(at + i);
    const size_t group = size_t(n) * size_t(w.scale_row) + size_t(k / w.group);
    codes.scale = load_element(w.scales, w.scale, group);
    if (w.group == kSpan) return;
    codes.first = codes.scale, codes.second = load_element(w.scales, w.scale, group + 1);
    codes.scale = w.factors != nullptr ? __ldg(w.factors) : 1.0f;
  } else if constexpr (BITS == 0) {
    const __nv_bfloat16* row = reinterpret_cast<const __nv_bfloat16*>(w.codes) + size_t(n) * size_t(w.in);
#pragma unroll
    for (int i = 0; i < kSpan; i += 2) {
      const uint32_t low = k + i < w.in ? __bfloat16_as_ushort(row[k + i]) : 0u;
      const uint32_t high = k + i + 1 < w.in ? __bfloat16_as_ushort(row[k + i + 1]) : 0u;
      codes.words[i / 2] = low | high << 16;
    }
  } else {
    const uint32_t* at =
        reinterpret_cast<const uint32_t*>(w.codes + size_t(n) * w.row_bytes) + size_t(k / kSpan) * BITS;
#pragma unroll
    for (int i = 0; i < BITS; ++i) codes.words[i] = __ldg(at + i);
    const size_t group = size_t(n) * size_t(w.in / w.group) + size_t(k / w.group);
    codes.scale = load_element(w.scales, w.scale, group);
    codes.bias = load_element(w.biases, w.bias, group);
  }
}

template <int BITS>
__device__ inline uint32_t code_at(const uint32_t* words, int i) {
  const int at = i * BITS, word = at / 32, shift = at % 32;
  uint32_t value = words[word] >> shift;
  if (shift + BITS > 32) value = __funnelshift_r(words[word], words[word + 1], shift);
  return value & ((1u << BITS) - 1u);
}

template <int BITS, Code CODE>
__device__ inline void store_w(Shared& s, const Codes<BITS, CODE>& codes) {
  const int n = int(threadIdx.x) / kSpans, span = int(threadIdx.x) % kSpans;
  uint4* to = reinterpret_cast<uint4*>(&s.w[n][span * kSpan]);
#pragma unroll
  for (int i = 0; i < kSpan / 8; ++i) {
    uint32_t pairs[4];
    if constexpr (CODE != Code::uint) {
      float values[8];
      small_codes<CODE>(codes.words[i * BITS / 4], values);
      if constexpr (BITS == 8) small_codes<CODE>(codes.words[2 * i + 1], values + 4);
      const float factor = power_of(CODE) * (i < kSpan / 16 ? codes.first : codes.second);
#pragma unroll
      for (int j = 0; j < 4; ++j)
        pairs[j] =
            __byte_perm(__float_as_uint(values[2 * j] * factor), __float_as_uint(values[2 * j + 1] * factor), 0x7632);
    } else
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if constexpr (BITS == 0) {
          pairs[j] = codes.words[4 * i + j];
        } else {
          const float low = __uint_as_float(code_at<BITS>(codes.words, 8 * i + 2 * j) | 0x4b000000u) - 8388608.0f;
          const float high = __uint_as_float(code_at<BITS>(codes.words, 8 * i + 2 * j + 1) | 0x4b000000u) - 8388608.0f;
          pairs[j] = __byte_perm(__float_as_uint(low), __float_as_uint(high), 0x7632);  // exact: upper halves
        }
      }
    to[i] = {pairs[0], pairs[1], pairs[2], pairs[3]};
  }
  s.scale[n][span] = codes.scale;
  s.bias[n][span] = codes.bias;
}

/// SPANS: 32-column spans between promotions, 1 or 2.
template <int BITS, int SPANS, Code CODE>
__global__ void __launch_bounds__(kThreads) many_kernel(Split x, ProductTerm term) {
  extern __shared__ __align__(16) unsigned char memory[];
  Shared& s = *reinterpret_cast<Shared*>(memory);
  const WeightView& w = term.weight;
  const int row0 = int(blockIdx.x) * kTile, n0 = int(blockIdx.y) * kTile;
  const int warp = int(threadIdx.x) / kWarp, lane = int(threadIdx.x) % kWarp;
  const int wr = warp / 4 * 64, wn = warp % 4 * 32;  // the warp's 64 rows of x and 32 of W
  const int my_n = n0 + int(threadIdx.x) / kSpans, my_k = int(threadIdx.x) % kSpans * kSpan;
  float acc[4][4][4] = {};
  Codes<BITS, CODE> codes;
  fetch_x(s, x, row0, 0, 0);
  fetch_w(codes, w, my_n, my_k);
  int stage = 0;
  for (int k = 0; k < x.padded; k += kDepth, stage ^= 1) {
    store_w(s, codes);
    asm volatile("cp.async.wait_group 0;");
    __syncthreads();
    if (k + kDepth < x.padded) {
      fetch_x(s, x, row0, k + kDepth, stage ^ 1);
      fetch_w(codes, w, my_n, k + kDepth + my_k);
    }
#pragma unroll
    for (int span = 0; span < kSpans; span += SPANS) {
      float part[4][4][4] = {};
#pragma unroll
      for (int step = 0; step < SPANS * 2; ++step) {
        const int c = span * kSpan + step * 16;
        uint32_t b[2][4];
#pragma unroll
        for (int j = 0; j < 2; ++j)
          load_matrices(b[j], &s.w[wn + j * 16 + lane / 16 * 8 + lane % 8][c + lane / 8 % 2 * 8]);
#pragma unroll
        for (int p = 0; p < kParts; ++p) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            uint32_t a[4];
            load_matrices(a, &s.x[stage][p][wr + i * 16 + lane % 16][c + lane / 16 * 8]);
#pragma unroll
            for (int j = 0; j < 4; ++j) multiply_bf16(part[i][j], a, b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
          }
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float sum[2] = {};
#pragma unroll
        for (int q = 0; q < SPANS; ++q) {
          sum[0] += s.sums[stage][wr + i * 16 + lane / 4][span + q];
          sum[1] += s.sums[stage][wr + i * 16 + lane / 4 + 8][span + q];
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int n = wn + j * 8 + lane % 4 * 2 + e % 2;
            acc[i][j][e] = fmaf(s.scale[n][span], part[i][j][e], fmaf(s.bias[n][span], sum[e / 2], acc[i][j][e]));
          }
        }
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int row = row0 + wr + i * 16 + lane / 4 + e / 2 * 8, n = n0 + wn + j * 8 + lane % 4 * 2 + e % 2;
        if (row >= x.rows || n >= w.out) continue;
        const float y = acc[i][j][e];
        term.y[size_t(row) * size_t(w.out) + size_t(n)] = term.bias != nullptr ? y + term.bias[n] : y;
      }
    }
  }
}

template <int BITS, int SPANS, Code CODE = Code::uint>
void run(const Split& x, const ProductTerm& term, cudaStream_t stream) {
  allow_shared(many_kernel<BITS, SPANS, CODE>, sizeof(Shared));
  launch("matmul", many_kernel<BITS, SPANS, CODE>,
         {unsigned((x.rows + kTile - 1) / kTile), unsigned((term.weight.out + kTile - 1) / kTile)}, {kThreads},
         sizeof(Shared), stream, x, term);
}

template <int BITS>
void run(const Split& x, const ProductTerm& term, cudaStream_t stream) {
  if (BITS != 0 && term.weight.group == 32) return run<BITS, 1>(x, term, stream);
  run<BITS, 2>(x, term, stream);
}

void run_floats(const Split& x, const ProductTerm& term, cudaStream_t stream) {
  if (term.weight.code == Code::e4m3) return run<8, 1, Code::e4m3>(x, term, stream);
  if (term.weight.group == kSpan) return run<4, 1, Code::e2m1>(x, term, stream);
  run<4, 2, Code::e2m1>(x, term, stream);  // of groups of half a span, whose scales are in the codes
}

int padded(int in) { return (in + kDepth - 1) / kDepth * kDepth; }

}  // namespace

bool has_matmul_many(const WeightView& w) {
  if (w.code != Code::uint) return w.in % kSpan == 0;
  return w.bits > 0 || w.scale == Element::bf16;
}

size_t matmul_many_workspace(int rows, int in) {
  const size_t elements = size_t(rows) * size_t(padded(in));
  const size_t split = elements * kParts * sizeof(__nv_bfloat16) + elements / kSpan * sizeof(float);
  return in % kSpan == 0 ? std::max(split, wide_bytes(rows, in)) : split;
}

namespace {

void split_many(const float* x, int rows, const ProductTerm* terms, int count, void* workspace, cudaStream_t stream) {
  const int in = terms[0].weight.in;
  Split split{.parts = static_cast<const __nv_bfloat16*>(workspace),
              .sums = nullptr,
              .part = size_t(rows) * size_t(padded(in)),
              .rows = rows,
              .padded = padded(in)};
  split.sums = reinterpret_cast<const float*>(split.parts + kParts * split.part);
  launch("matmul", split_kernel, {unsigned(rows)}, {kThreads}, 0, stream, x, in, split.padded,
         const_cast<__nv_bfloat16*>(split.parts), const_cast<float*>(split.sums), split.part);
  for (int t = 0; t < count; ++t) {
    if (terms[t].weight.code != Code::uint) {
      run_floats(split, terms[t], stream);
      continue;
    }
    switch (terms[t].weight.bits) {
      case 2: run<2>(split, terms[t], stream); break;
      case 3: run<3>(split, terms[t], stream); break;
      case 4: run<4>(split, terms[t], stream); break;
      case 5: run<5>(split, terms[t], stream); break;
      case 6: run<6>(split, terms[t], stream); break;
      case 8: run<8>(split, terms[t], stream); break;
      default: run<0>(split, terms[t], stream); break;
    }
  }
}

/// What terms of one launch have in common.
bool same_format(const WeightView& a, const WeightView& b) {
  return a.code == b.code && a.bits == b.bits && a.group == b.group && has_matmul_wide(a) == has_matmul_wide(b);
}

}  // namespace

void matmul_many(const float* x, int rows, const ProductTerm* terms, int count, void* workspace, cudaStream_t stream) {
  bool rounded = false;
  for (int first = 0; first < count;) {
    int end = first + 1;
    while (end < count && same_format(terms[first].weight, terms[end].weight)) ++end;
    const WeightView& weight = terms[first].weight;
    if (has_matmul_wide(weight)) {
      const WideInput input = wide_input(workspace, rows, weight.in);
      if (!rounded) round_wide({.x = x}, input, stream);
      rounded = true;
      matmul_wide(input, terms + first, end - first, stream);
    } else {
      split_many(x, rows, terms + first, end - first, workspace, stream);
      rounded = false;
    }
    first = end;
  }
}

}  // namespace bumblebee::cuda
