// matmul_few for codes that are small floats, with a scale for each group and no bias. As there, a warp has NR rows of
// W and a lane blocks of 32 codes; of nvfp4 a block has two groups. Rows of other lengths take a kernel that decodes
// one weight after the other.
#include "backend/cuda/kernels/float_codes.cuh"
#include "backend/cuda/kernels/launch.h"
#include "backend/cuda/kernels/matmul_few.cuh"

namespace bumblebee::cuda {
namespace {

/// Columns [k, k + count) of R rows of x into shared memory: each block of 32 at kStride floats, zeros for rows past
/// the end.
template <int R>
__device__ inline void stage_plain(const float* x, const RowTile& tile, int in, int k, int count, float* xs) {
  constexpr int kRow = kColumns<R> / kBlock * kStride;
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const float* row = x + (r < tile.rows ? tile.row(r) : 0) * size_t(in) + size_t(k);
    for (unsigned i = threadIdx.x * 4; i < unsigned(count); i += kThreads * 4) {
      float4 v = {0, 0, 0, 0};
      if (r < tile.rows) v = *reinterpret_cast<const float4*>(row + i);
      *reinterpret_cast<float4*>(xs + r * kRow + i / kBlock * kStride + i % kBlock) = v;
    }
  }
}

/// A lane's block of NR rows of W.
template <Code code, int Groups, int NR>
struct FloatBlocks {
  static constexpr int kBits = bits_of(code);
  uint32_t words[NR][kBits];
  float scale[NR][Groups];

  __device__ void load(const WeightView& w, const uint8_t* const (&codes)[NR], const size_t (&group)[NR], int at) {
#pragma unroll
    for (int i = 0; i < NR; ++i) {
      load_words<kBits>(codes[i] + size_t(at / kBlock) * size_t(4 * kBits), words[i]);
#pragma unroll
      for (int g = 0; g < Groups; ++g)
        scale[i][g] = to_float(
            __ldg(static_cast<const __nv_bfloat16*>(w.scales) + group[i] + size_t(at / (kBlock / Groups) + g)));
    }
  }
};

template <Code code, int Groups, int R, int NR>
__global__ void __launch_bounds__(kThreads) float_kernel(const float* x, int rows, Terms terms, ExpertTiles tiles) {
  extern __shared__ float xs[];
  constexpr int kRow = kColumns<R> / kBlock * kStride, kWordCodes = 32 / bits_of(code), kGroup = kBlock / Groups;
  const int t = term_of(terms, int(blockIdx.x));
  const ProductTerm& term = terms.term[t];
  const WeightView& w = term.weight;
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
  const int n0 = ((int(blockIdx.x) - terms.first_block[t]) * kWarps + warp) * NR;
  const RowTile tile = tile_of(tiles, rows, int(blockIdx.y), R);
  if (tile.rows == 0) return;
  const uint8_t* codes[NR];
  size_t group[NR];
#pragma unroll
  for (int i = 0; i < NR; ++i) {
    const size_t n = size_t(tile.expert) * size_t(w.out) + size_t(min(n0 + i, w.out - 1));  // the last again
    codes[i] = w.codes + n * w.row_bytes;
    group[i] = n * size_t(w.scale_row);
  }
  float acc[NR][R] = {};
  FloatBlocks<code, Groups, NR> next;
  if (lane * kBlock < w.in) next.load(w, codes, group, lane * kBlock);
  for (int k = 0; k < w.in; k += kColumns<R>) {
    const int count = min(kColumns<R>, w.in - k);
    if (k > 0) __syncthreads();
    stage_plain<R>(x, tile, w.in, k, count, xs);
    __syncthreads();
    for (int b = lane; b < count / kBlock; b += kWarp) {
      const FloatBlocks<code, Groups, NR> now = next;
      const int ahead = k + (b + kWarp) * kBlock;  // asked for while this one is worked on
      if (ahead < w.in) next.load(w, codes, group, ahead);
#pragma unroll
      for (int g = 0; g < Groups; ++g) {
        float part[NR][R] = {};
#pragma unroll
        for (int j = 0; j < kGroup; j += kWordCodes) {
          float v[R][kWordCodes];
#pragma unroll
          for (int r = 0; r < R; ++r) {
#pragma unroll
            for (int c = 0; c < kWordCodes; c += 4) {
              const float4 four = *reinterpret_cast<const float4*>(xs + r * kRow + b * kStride + g * kGroup + j + c);
              v[r][c] = four.x, v[r][c + 1] = four.y, v[r][c + 2] = four.z, v[r][c + 3] = four.w;
            }
          }
#pragma unroll
          for (int i = 0; i < NR; ++i) {
            float q[kWordCodes];
            small_codes<code>(now.words[i][(g * kGroup + j) / kWordCodes], q);
#pragma unroll
            for (int r = 0; r < R; ++r) {
#pragma unroll
              for (int c = 0; c < kWordCodes; ++c) part[i][r] = fmaf(q[c], v[r][c], part[i][r]);
            }
          }
        }
#pragma unroll
        for (int i = 0; i < NR; ++i) {
#pragma unroll
          for (int r = 0; r < R; ++r) acc[i][r] = fmaf(now.scale[i][g], part[i][r] * power_of(code), acc[i][r]);
        }
      }
    }
  }
  const float factor = w.factors != nullptr ? __ldg(w.factors + tile.expert) : 1.0f;
#pragma unroll
  for (int i = 0; i < NR; ++i) {
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const float y = warp_sum(acc[i][r]) * factor;
      if (lane != 0 || n0 + i >= w.out || r >= tile.rows) continue;
      term.y[size_t(tile.first + r) * size_t(w.out) + size_t(n0 + i)] =
          term.bias != nullptr ? y + term.bias[n0 + i] : y;
    }
  }
}

/// A warp for a row of W, of any length.
template <int R>
__global__ void __launch_bounds__(kThreads) any_kernel(const float* x, int rows, Terms terms, ExpertTiles tiles) {
  const int t = term_of(terms, int(blockIdx.x));
  const ProductTerm& term = terms.term[t];
  const WeightView& w = term.weight;
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
  const int n = (int(blockIdx.x) - terms.first_block[t]) * kWarps + warp;
  const RowTile tile = tile_of(tiles, rows, int(blockIdx.y), R);
  if (n >= w.out || tile.rows == 0) return;
  float acc[R] = {};
  for (int k = lane; k < w.in; k += kWarp) {
    const float v = load_weight(w, tile.expert * w.out + n, k);
#pragma unroll
    for (int r = 0; r < R; ++r) acc[r] = fmaf(v, x[tile.row(min(r, tile.rows - 1)) * size_t(w.in) + size_t(k)], acc[r]);
  }
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const float y = warp_sum(acc[r]);
    if (lane != 0 || r >= tile.rows) continue;
    term.y[size_t(tile.first + r) * size_t(w.out) + size_t(n)] = term.bias != nullptr ? y + term.bias[n] : y;
  }
}

template <Code code, int Groups, int R, int NR>
void run_tiles(const Work& work, Terms terms, cudaStream_t stream) {
  const unsigned blocks = unsigned(place_terms(terms, kWarps * NR));
  constexpr size_t kMost = sizeof(float) * R * (kColumns<R> / kBlock) * kStride;
  static_assert(kMost <= 48 * 1024);
  launch("matmul", float_kernel<code, Groups, R, NR>, {blocks, work.blocks(R)}, {kThreads}, kMost, stream, work.x,
         work.rows, terms, work.tiles);
}

template <Code code, int Groups>
void run_blocks(const Work& work, const Terms& terms, cudaStream_t stream) {
  if (work.tile_rows == 1) return run_tiles<code, Groups, 1, 2>(work, terms, stream);
  if (work.tile_rows == 2) return run_tiles<code, Groups, 2, 2>(work, terms, stream);
  if (work.tile_rows == 4) return run_tiles<code, Groups, 4, 4>(work, terms, stream);
  run_tiles<code, Groups, 8, 4>(work, terms, stream);
}

template <int R>
void run_any(const Work& work, Terms terms, cudaStream_t stream) {
  const unsigned blocks = unsigned(place_terms(terms, kWarps));
  launch("matmul", any_kernel<R>, {blocks, work.blocks(R)}, {kThreads}, 0, stream, work.x, work.rows, terms,
         work.tiles);
}

}  // namespace

void run_floats(const Work& work, const Terms& terms, cudaStream_t stream) {
  const WeightView& w = terms.term[0].weight;
  if (w.in % kBlock != 0)
    return work.tile_rows == 1 ? run_any<1>(work, terms, stream) : run_any<8>(work, terms, stream);
  if (w.code == Code::e4m3) return run_blocks<Code::e4m3, 1>(work, terms, stream);
  if (w.group == kBlock) return run_blocks<Code::e2m1, 1>(work, terms, stream);
  run_blocks<Code::e2m1, 2>(work, terms, stream);
}

}  // namespace bumblebee::cuda
