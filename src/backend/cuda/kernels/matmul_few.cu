// Products for few rows: limited by reading W once. A warp has NR rows of W; a lane takes every 32nd block of 32 codes,
// in MLX's own layout, and meets it with x from shared memory. Sums are f32 and their order is fixed by `in` alone, so
// a row of x has the same bits in any company.
#include "backend/cuda/kernels/launch.h"
#include "backend/cuda/kernels/matmul_few.cuh"

namespace bumblebee::cuda {
namespace {

/// Where code i of a block is taken from, so that it need not be shifted: in place, where it lies in the mantissa of a
/// float, else from the word's upper half, else (across two words) from its own place. It is then 2^place too large.
template <int BITS>
struct CodeAt {
  __host__ __device__ static constexpr int first_bit(int i) { return i * BITS % 32; }
  __host__ __device__ static constexpr int place(int i) {
    const int bit = first_bit(i);
    return bit + BITS <= 23 ? bit : bit + BITS <= 32 ? bit - 16 : 0;
  }
};

/// (value & mask) | bits, as one instruction; left to itself the compiler takes two.
__device__ inline uint32_t masked_or(uint32_t value, uint32_t mask, uint32_t bits) {
  uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(result) : "r"(value), "r"(mask), "r"(bits));
  return result;
}

/// Code i times 2^place: put into the mantissa of 2^23, from which that is then taken.
template <int BITS>
__device__ inline float code_of(const uint32_t* words, int i) {
  const int word = i * BITS / 32, bit = CodeAt<BITS>::first_bit(i), place = CodeAt<BITS>::place(i);
  uint32_t value = words[word];
  if (bit + BITS > 32) {
    value = __funnelshift_r(words[word], words[word + 1], bit);
  } else if (bit + BITS > 23) {
    value >>= 16;
  }
  return __uint_as_float(masked_or(value, ((1u << BITS) - 1u) << place, 0x4b000000u)) - 8388608.0f;
}

/// Columns [k, k + count) of R rows of x into shared memory: each block of 32 at kStride floats, its sum in `sums`,
/// each entry by 2^place smaller; zeros for rows past the end.
template <int BITS, int R>
__device__ inline void stage_x(const float* x, const RowTile& tile, int in, int k, int count, float* xs, float* sums) {
  constexpr int kRow = kColumns<R> / kBlock * kStride, kSums = kColumns<R> / kBlock;
  const int i0 = int(threadIdx.x) * 4 % kBlock;
  float shrink[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) shrink[j] = __int_as_float((127 - CodeAt<BITS>::place(i0 + j)) << 23);
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const float* row = x + (r < tile.rows ? tile.row(r) : 0) * size_t(in) + size_t(k);
#pragma unroll 2
    for (unsigned i = threadIdx.x * 4; i < unsigned(count); i += kThreads * 4) {
      float4 v = {0, 0, 0, 0};
      if (r < tile.rows) v = *reinterpret_cast<const float4*>(row + i);
      float sum = (v.x + v.y) + (v.z + v.w);  // of the block: its eight threads follow each other
      const unsigned mask = __activemask();
      for (int offset = 4; offset > 0; offset /= 2) sum += __shfl_xor_sync(mask, sum, offset);
      if (i % kBlock == 0) sums[r * kSums + i / kBlock] = sum;
      v.x *= shrink[0], v.y *= shrink[1], v.z *= shrink[2], v.w *= shrink[3];
      *reinterpret_cast<float4*>(xs + r * kRow + i / kBlock * kStride + i0) = v;
    }
  }
}

/// Where NR rows of W begin; the last rows again where there are fewer.
template <int NR>
struct Rows {
  const uint8_t* codes[NR];
  uint32_t group[NR];  // first of the row, in scales and biases
  int shift;           // columns to groups

  __device__ Rows(const WeightView& w, int n0, int expert) : shift(w.group == 32 ? 5 : w.group == 64 ? 6 : 7) {
#pragma unroll
    for (int i = 0; i < NR; ++i) {
      const int n = expert * w.out + min(n0 + i, w.out - 1);
      codes[i] = w.codes + size_t(n) * w.row_bytes;
      group[i] = uint32_t(n) * uint32_t(w.scale_row);
    }
  }
};

/// A lane's block of each of them. BF16: of scales and biases, as MLX has them; else whatever they are.
template <int BITS, int NR, bool BF16>
struct Blocks {
  uint32_t words[NR][BITS];
  float scale[NR], bias[NR];

  __device__ void load(const WeightView& w, const Rows<NR>& rows, int at) {
#pragma unroll
    for (int i = 0; i < NR; ++i) {
      load_words<BITS>(rows.codes[i] + uint32_t(at / kBlock) * uint32_t(4 * BITS), words[i]);
      const uint32_t group = rows.group[i] + uint32_t(at >> rows.shift);
      if constexpr (BF16) {
        scale[i] = to_float(__ldg(static_cast<const __nv_bfloat16*>(w.scales) + group));
        bias[i] = to_float(__ldg(static_cast<const __nv_bfloat16*>(w.biases) + group));
      } else {
        scale[i] = load_element(w.scales, w.scale, group);
        bias[i] = load_element(w.biases, w.bias, group);
      }
    }
  }
};

template <int BITS, int R, int NR, bool BF16>
__global__ void __launch_bounds__(kThreads) affine_kernel(const float* x, int rows, Terms terms, ExpertTiles tiles) {
  extern __shared__ float xs[];
  constexpr int kRow = kColumns<R> / kBlock * kStride, kSums = kColumns<R> / kBlock;
  float* const sums = xs + R * kRow;
  const int t = term_of(terms, int(blockIdx.x));
  const ProductTerm& term = terms.term[t];
  const WeightView& w = term.weight;
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
  const int n0 = ((int(blockIdx.x) - terms.first_block[t]) * kWarps + warp) * NR;
  const RowTile tile = tile_of(tiles, rows, int(blockIdx.y), R);
  if (tile.rows == 0) return;
  float acc[NR][R] = {};
  const Rows<NR> starts(w, n0, tile.expert);
  Blocks<BITS, NR, BF16> next;
  if (lane * kBlock < w.in) next.load(w, starts, lane * kBlock);
  for (int k = 0; k < w.in; k += kColumns<R>) {
    const int count = min(kColumns<R>, w.in - k);
    if (k > 0) __syncthreads();
    stage_x<BITS, R>(x, tile, w.in, k, count, xs, sums);
    __syncthreads();
    for (int b = lane; b < count / kBlock; b += kWarp) {
      const Blocks<BITS, NR, BF16> now = next;
      const int ahead = k + (b + kWarp) * kBlock;  // asked for while this one is worked on
      if (ahead < w.in) next.load(w, starts, ahead);
      float part[NR][R] = {};
#pragma unroll
      for (int j = 0; j < kBlock; j += 4) {
        float4 v[R];
#pragma unroll
        for (int r = 0; r < R; ++r) v[r] = *reinterpret_cast<const float4*>(xs + r * kRow + b * kStride + j);
#pragma unroll
        for (int i = 0; i < NR; ++i) {
          float q[4];
#pragma unroll
          for (int c = 0; c < 4; ++c) q[c] = code_of<BITS>(now.words[i], j + c);
#pragma unroll
          for (int r = 0; r < R; ++r) {
            part[i][r] = fmaf(q[0], v[r].x, part[i][r]);
            part[i][r] = fmaf(q[1], v[r].y, part[i][r]);
            part[i][r] = fmaf(q[2], v[r].z, part[i][r]);
            part[i][r] = fmaf(q[3], v[r].w, part[i][r]);
          }
        }
      }
#pragma unroll
      for (int r = 0; r < R; ++r) {
        const float sum = sums[r * kSums + b];
#pragma unroll
        for (int i = 0; i < NR; ++i) acc[i][r] = fmaf(now.scale[i], part[i][r], fmaf(now.bias[i], sum, acc[i][r]));
      }
    }
  }
#pragma unroll
  for (int i = 0; i < NR; ++i) {
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const float y = warp_sum(acc[i][r]);
      if (lane != 0 || n0 + i >= w.out || r >= tile.rows) continue;
      term.y[size_t(tile.first + r) * size_t(w.out) + size_t(n0 + i)] =
          term.bias != nullptr ? y + term.bias[n0 + i] : y;
    }
  }
}

/// Dense rows: VEC consecutive elements a lane, straight from L1 and L2; VEC 1 for rows of any length.
template <class T, int VEC, int R>
__global__ void __launch_bounds__(kThreads) dense_kernel(const float* x, int rows, Terms terms, ExpertTiles tiles) {
  const int t = term_of(terms, int(blockIdx.x));
  const ProductTerm& term = terms.term[t];
  const WeightView& w = term.weight;
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
  const int n = (int(blockIdx.x) - terms.first_block[t]) * kWarps + warp;
  const RowTile tile = tile_of(tiles, rows, int(blockIdx.y), R);
  if (n >= w.out || tile.rows == 0) return;
  const T* row = reinterpret_cast<const T*>(w.codes) + size_t(tile.expert * w.out + n) * size_t(w.in);
  float acc[R] = {};
  for (int k = lane * VEC; k < w.in; k += kWarp * VEC) {
    float v[VEC];
    if constexpr (VEC > 1) {
      alignas(16) T packed[VEC];
#pragma unroll
      for (int i = 0; i < int(VEC * sizeof(T) / 16); ++i)
        reinterpret_cast<uint4*>(packed)[i] = __ldg(reinterpret_cast<const uint4*>(row + k) + i);
#pragma unroll
      for (int i = 0; i < VEC; ++i) v[i] = to_float(packed[i]);
    } else {
      v[0] = to_float(row[k]);
    }
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const float* xr = x + tile.row(min(r, tile.rows - 1)) * size_t(w.in) + size_t(k);
      if constexpr (VEC > 1) {
#pragma unroll
        for (int i = 0; i < VEC; i += 4) {
          const float4 u = __ldg(reinterpret_cast<const float4*>(xr + i));
          acc[r] = fmaf(v[i], u.x, acc[r]);
          acc[r] = fmaf(v[i + 1], u.y, acc[r]);
          acc[r] = fmaf(v[i + 2], u.z, acc[r]);
          acc[r] = fmaf(v[i + 3], u.w, acc[r]);
        }
      } else {
        acc[r] = fmaf(v[0], xr[0], acc[r]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const float y = warp_sum(acc[r]);
    if (lane != 0 || r >= tile.rows) continue;
    term.y[size_t(tile.first + r) * size_t(w.out) + size_t(n)] = term.bias != nullptr ? y + term.bias[n] : y;
  }
}

template <int BITS, int R, int NR>
void run_affine(const Work& work, Terms terms, cudaStream_t stream) {
  bool bf16 = true;
  for (int t = 0; t < terms.count; ++t)
    bf16 = bf16 && terms.term[t].weight.scale == Element::bf16 && terms.term[t].weight.bias == Element::bf16;
  const unsigned blocks = unsigned(place_terms(terms, kWarps * NR));
  constexpr size_t kMost = sizeof(float) * R * (kColumns<R> / kBlock) * (kStride + 1);
  static_assert(kMost <= 48 * 1024);
  const auto start = [&](auto* kernel) {
    launch("matmul", kernel, {blocks, work.blocks(R)}, {kThreads}, kMost, stream, work.x, work.rows, terms, work.tiles);
  };
  if constexpr (BITS == 4 || BITS == 8) {
    if (bf16) return start(affine_kernel<BITS, R, NR, true>);
  }
  start(affine_kernel<BITS, R, NR, false>);
}

template <int BITS>
void run_affine(const Work& work, const Terms& terms, cudaStream_t stream) {
  if (work.tile_rows == 1) {
    run_affine<BITS, 1, 2>(work, terms, stream);
  } else if (work.tile_rows == 2) {
    run_affine<BITS, 2, 2>(work, terms, stream);
  } else if (work.tile_rows == 4) {
    run_affine<BITS, 4, 4>(work, terms, stream);
  } else {
    run_affine<BITS, 8, 4>(work, terms, stream);
  }
}

template <class T, int VEC>
void run_dense(const Work& work, Terms terms, cudaStream_t stream) {
  const unsigned blocks = unsigned(place_terms(terms, kWarps));
  if (work.tile_rows == 1) {
    launch("matmul", dense_kernel<T, VEC, 1>, {blocks, work.blocks(1)}, {kThreads}, 0, stream, work.x, work.rows, terms,
           work.tiles);
  } else {
    launch("matmul", dense_kernel<T, VEC, 8>, {blocks, work.blocks(8)}, {kThreads}, 0, stream, work.x, work.rows, terms,
           work.tiles);
  }
}

template <class T>
void run_dense(const Work& work, const Terms& terms, cudaStream_t stream) {
  if (terms.term[0].weight.in % 8 == 0) return run_dense<T, 8>(work, terms, stream);
  run_dense<T, 1>(work, terms, stream);
}

void run(const Work& work, const Terms& terms, cudaStream_t stream) {
  const WeightView& w = terms.term[0].weight;
  if (w.code != Code::uint) return run_floats(work, terms, stream);
  switch (w.bits) {
    case 2: return run_affine<2>(work, terms, stream);
    case 3: return run_affine<3>(work, terms, stream);
    case 4: return run_affine<4>(work, terms, stream);
    case 5: return run_affine<5>(work, terms, stream);
    case 6: return run_affine<6>(work, terms, stream);
    case 8: return run_affine<8>(work, terms, stream);
    default: break;
  }
  if (w.scale == Element::bf16) return run_dense<__nv_bfloat16>(work, terms, stream);
  if (w.scale == Element::f16) return run_dense<__half>(work, terms, stream);
  run_dense<float>(work, terms, stream);
}

/// Terms of one format are one launch.
void run_alike(const Work& work, const ProductTerm* terms, int count, cudaStream_t stream) {
  const auto alike = [](const WeightView& a, const WeightView& b) {
    if (a.code != b.code || a.bits != b.bits) return false;
    return a.code != Code::uint ? a.group == b.group : a.bits > 0 || a.scale == b.scale;
  };
  for (int first = 0; first < count;) {
    Terms some;
    while (first + some.count < count && some.count < kMaxTerms &&
           alike(terms[first].weight, terms[first + some.count].weight)) {
      some.term[some.count] = terms[first + some.count];
      ++some.count;
    }
    run(work, some, stream);
    first += some.count;
  }
}

}  // namespace

void matmul_few(const float* x, int rows, const ProductTerm* terms, int count, cudaStream_t stream) {
  run_alike({x, rows, rows <= 2 ? rows : rows <= 4 ? 4 : 8, {}}, terms, count, stream);
}

void matmul_few_experts(const float* x, const ExpertTiles& tiles, const ProductTerm* terms, int count,
                        cudaStream_t stream) {
  run_alike({x, 0, tiles.tile_rows, tiles}, terms, count, stream);
}

}  // namespace bumblebee::cuda
