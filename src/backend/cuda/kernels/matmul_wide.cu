// x for matmul_wide.cuh, and which tiles a product takes: that moves no bit, since sums have one order in all of them.
#include "backend/cuda/kernels/matmul_wide.h"

#include <array>
#include <limits>

#include "backend/cuda/kernels/card.h"
#include "backend/cuda/kernels/matmul_wide.cuh"

namespace bumblebee::cuda {

/// Of the widths other than four bits there is one shape of tiles.
void run_other_wide(const WideInput& x, const ProductTerm* terms, int count, cudaStream_t stream);

namespace {

constexpr int kSpan = 32;  // columns of a thread

/// Byte in a block of rows at which 16-byte chunk `chunk` of a row of a tile lies.
__device__ inline size_t chunk_at(int tile, int row, int chunk) {
  return size_t(tile) * kTileBytes + size_t(row) * (kTileColumns * 2) + size_t((chunk ^ (row % 8)) * 16);
}

struct Span {
  float v[kSpan];
};
__device__ inline Span load_span(const float* from) {
  Span s;
#pragma unroll
  for (int i = 0; i < kSpan / 4; ++i) {
    const float4 v = __ldg(reinterpret_cast<const float4*>(from) + i);
    s.v[4 * i] = v.x, s.v[4 * i + 1] = v.y, s.v[4 * i + 2] = v.z, s.v[4 * i + 3] = v.w;
  }
  return s;
}

/// A span as four chunks in the order in which fragments of W meet it: chunk 2m + half has codes 2m + half and 2m +
/// half
/// + 4 of each octet. Returns the sum of what was written.
__device__ inline float store_span(const Span& s, float inverse, uint8_t* block, int span, int row) {
  float sum = 0;
#pragma unroll
  for (int chunk = 0; chunk < 4; ++chunk) {
    uint32_t pair[4];
#pragma unroll
    for (int octet = 0; octet < 4; ++octet) {
      const __half2 v = __floats2half2_rn(s.v[8 * octet + chunk] * inverse, s.v[8 * octet + chunk + 4] * inverse);
      pair[octet] = reinterpret_cast<const uint32_t&>(v);
      sum += __low2float(v) + __high2float(v);
    }
    *reinterpret_cast<uint4*>(block + chunk_at(span / 2, row, span % 2 * 4 + chunk)) = {pair[0], pair[1], pair[2],
                                                                                        pair[3]};
  }
  return sum;
}

/// A block rounds a row: to f16 numbers of a power of two for which the largest is between 2^14 and 2^15. Rows behind
/// the last one are zero. Of experts a block of rows is a tile of theirs.
__global__ void round_kernel(const float* x, WideInput to, ExpertTiles experts) {
  __shared__ float scratch[kWarp];
  const int number = int(blockIdx.x), row = number % kBlockRows, spans = to.in / kSpan, thread = int(threadIdx.x);
  const int tiles = tiles_of(to.in), sums = sum_tiles_of(to.in, to.group), warps = int(blockDim.x) / kWarp;
  uint8_t* const block = to.tiles + size_t(number / kBlockRows) * size_t(tiles + sums) * kTileBytes;
  bool there = number < to.rows;
  int source = number;
  if (experts.tile != nullptr) {
    if (number / kBlockRows >= *experts.count) return;
    const ExpertTile& tile = experts.tile[number / kBlockRows];
    there = row < tile.rows;
    source = tile.first + row;
    if (there && experts.row_of != nullptr) source = experts.row_of[source];
  }
  const float* const from = x + size_t(there ? source : 0) * size_t(to.in);
  const Span zero = {};
  Span mine = zero;  // the thread's first span; of a very long row it has more
  float most = 0;
  for (int s = thread; there && s < spans; s += int(blockDim.x)) {
    const Span span = load_span(from + s * kSpan);
    if (s == thread) mine = span;
#pragma unroll
    for (const float v : span.v) most = fmaxf(most, fabsf(v));
  }
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, offset));
  if (thread % kWarp == 0) scratch[thread / kWarp] = most;
  __syncthreads();
  most = 0;
  for (int i = 0; i < warps; ++i) most = fmaxf(most, scratch[i]);
  const uint32_t power = max(__float_as_uint(most) >> 23, 15u) - 14;
  const float inverse = most == 0 ? 1.0f : __uint_as_float((254 - power) << 23);
  if (thread == 0) to.steps[number] = most == 0 ? 1.0f : __uint_as_float(power << 23);

  const int group_spans = to.group / kSpan, padded = (2 * tiles + int(blockDim.x) - 1) / int(blockDim.x);
  for (int i = 0; i < padded; ++i) {  // whole warps: sums go from lane to lane
    const int s = i * int(blockDim.x) + thread;
    float sum = 0;
    if (s < 2 * tiles) {
      if (i > 0) mine = there && s < spans ? load_span(from + s * kSpan) : zero;
      sum = store_span(mine, inverse, block, s, row);
    }
    for (int offset = 1; offset < group_spans; offset *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (s % group_spans != 0 || s >= spans) continue;
    const int group = s / group_spans;
    const float part = sum / kSumParts;
    const __half high = __float2half_rn(part);
    *reinterpret_cast<__half2*>(block + chunk_at(tiles + group / kSpan, row, group % kSpan / 4) + group % 4 * 4) =
        __halves2half2(high, __float2half_rn(part - __half2float(high)));
  }
  for (int group = spans / group_spans + thread; group < sums * kSpan; group += int(blockDim.x))
    *reinterpret_cast<uint32_t*>(block + chunk_at(tiles + group / kSpan, row, group % kSpan / 4) + group % 4 * 4) = 0;
}

bool is_hopper() { return card_attribute<cudaDevAttrComputeCapabilityMajor>() == 9; }

bool is_16_bits(Element e) { return e == Element::bf16 || e == Element::f16; }

/// What a launch takes: waves of blocks, by what a tile of 128 by 64, 128 or 256 takes.
template <int Blocks, int Chunks>
int cost_of(const WideInput& x, const ProductTerm* terms, int count) {
  const int tiles = (out_tiles_of<Blocks>(terms, count) + 1) / 2 * tiles_for(x.rows, Chunks * kBlockRows);
  return tiles_for(tiles, wide_grid() / kWideCluster) * (Chunks == 1 ? 10 : Chunks == 2 ? 14 : 21);
}

void run_four_bits(const WideInput& x, const ProductTerm* terms, int count, cudaStream_t stream) {
  if (x.group == 32) return run_wide<4, 2, 1, 2>(x, terms, count, stream);
  const int large = cost_of<1, 4>(x, terms, count), middle = cost_of<1, 2>(x, terms, count),
            small = cost_of<1, 1>(x, terms, count);
  if (large <= middle && large <= small) return run_wide<4, 1, 1, 4>(x, terms, count, stream);
  if (middle <= small) return run_wide<4, 1, 1, 2>(x, terms, count, stream);
  run_wide<4, 1, 1, 1>(x, terms, count, stream);
}

}  // namespace

int wide_blocks(int rows) { return tiles_for(rows, 4 * kBlockRows) * 4; }

size_t wide_bytes(int rows, int in, int group) {
  const size_t tiles = size_t(tiles_of(in) + sum_tiles_of(in, group));
  return size_t(wide_blocks(rows)) * (tiles * kTileBytes + kBlockRows * sizeof(float));
}

WideInput wide_input(void* workspace, int rows, int in, int group) {
  const size_t tiles = size_t(tiles_of(in) + sum_tiles_of(in, group)) * size_t(wide_blocks(rows)) * kTileBytes;
  uint8_t* const at = static_cast<uint8_t*>(workspace);
  return {.tiles = at, .steps = reinterpret_cast<float*>(at + tiles), .rows = rows, .in = in, .group = group};
}

void round_wide(const float* x, const WideInput& to, cudaStream_t stream, const ExpertTiles& experts) {
  const int threads = std::min(1024, tiles_for(2 * tiles_of(to.in), kWarp) * kWarp);
  const int blocks = experts.tile != nullptr ? experts.most : wide_blocks(to.rows);
  launch("round", round_kernel, {unsigned(blocks * kBlockRows)}, {unsigned(threads)}, 0, stream, x, to, experts);
}

bool has_matmul_wide(const WeightView& w, int experts) {
  const bool known = w.code == Code::uint || (w.code == Code::e2m1 && w.group == kSpan && w.factors == nullptr);
  // Places of codes are 32 bits.
  return is_hopper() && known && w.bits > 0 && is_16_bits(w.scale) && is_16_bits(w.bias) &&
         size_t(experts) * size_t(w.out) * w.row_bytes <= std::numeric_limits<uint32_t>::max();
}

void matmul_wide(const WideInput& x, const ProductTerm* terms, int count, cudaStream_t stream) {
  if (terms[0].weight.code == Code::e2m1) return run_wide<4, 2, 1, 2, false, Code::e2m1>(x, terms, count, stream);
  if (terms[0].weight.bits == 4) return run_four_bits(x, terms, count, stream);
  run_other_wide(x, terms, count, stream);
}

}  // namespace bumblebee::cuda
