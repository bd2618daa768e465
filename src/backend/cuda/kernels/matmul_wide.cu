// x for matmul_wide.cuh, and which tiles a product takes: that moves no bit, since sums have one order in all of them.
#include "backend/cuda/kernels/matmul_wide.h"

#include <array>
#include <limits>

#include "backend/cuda/kernels/card.h"
#include "backend/cuda/kernels/matmul_wide.cuh"
#include "backend/cuda/kernels/ptx.cuh"
#include "backend/cuda/kernels/row_norm.cuh"

namespace bumblebee::cuda {

/// Of the widths other than four bits there is one shape of tiles.
void run_other_wide(const WideInput& x, const ProductTerm* terms, int count, cudaStream_t stream, const WideLora& lora);

namespace {

/// Byte in a block of rows at which 16-byte chunk `chunk` of a row of a tile lies.
__device__ inline size_t chunk_at(int tile, int row, int chunk) {
  return size_t(tile) * kTileBytes + size_t(row) * (kTileColumns * 2) + size_t((chunk ^ (row % 8)) * 16);
}

/// Of four lanes, each the fourth after another, lane t gets word t of all four.
__device__ inline void transpose(uint32_t (&w)[4], int t) {
  const bool odd = t & 1, upper = t & 2;
  const uint32_t a = __shfl_xor_sync(0xffffffffu, odd ? w[0] : w[1], 4),
                 b = __shfl_xor_sync(0xffffffffu, odd ? w[2] : w[3], 4);
  if (odd)
    w[0] = a, w[2] = b;
  else
    w[1] = a, w[3] = b;
  const uint32_t c = __shfl_xor_sync(0xffffffffu, upper ? w[0] : w[2], 8),
                 d = __shfl_xor_sync(0xffffffffu, upper ? w[1] : w[3], 8);
  if (upper)
    w[0] = c, w[1] = d;
  else
    w[2] = c, w[3] = d;
}

/// Eight columns as their share of four chunks, in the order in which fragments of W meet them: chunk c has codes c and
/// c + 4 of four octets, each the fourth after another, and after an exchange each of four lanes has a chunk.
__device__ inline void store_octet(const Eight& x, float inverse, uint8_t* block, int octet, int row, bool there) {
  uint32_t word[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __half2 v = __floats2half2_rn(x.v[i] * inverse, x.v[i + 4] * inverse);
    word[i] = reinterpret_cast<const uint32_t&>(v);
  }
  const int t = octet / 4 % 4, which = octet % 4;
  transpose(word, t);
  uint8_t* const at = block + chunk_at(octet / 16 * 2 + which / 2, row, which % 2 * 4 + t);
  if (there) *reinterpret_cast<uint4*>(at) = {word[0], word[1], word[2], word[3]};
}

/// Where the rows that are rounded come from.
enum class RowKind { plain, norm, glu };

template <RowKind Kind>
__device__ inline Eight load_row_octet(const WideRows& from, size_t row, int in, int octet) {
  const size_t at = row * size_t(in) + size_t(octet) * 8;
  Eight x = load_eight(from.x + at);
  if constexpr (Kind == RowKind::glu) {
    const Eight up = load_eight(from.up + at);
#pragma unroll
    for (int i = 0; i < 8; ++i) x.v[i] = silu_times(x.v[i], up.v[i]);
  }
  return x;
}

/// A block rounds a row: to f16 numbers of a power of two for which the largest is between 2^14 and 2^15. Rows behind
/// the last one are zero. Of experts a block of rows is a tile of theirs.
template <RowKind Kind>
__global__ void __launch_bounds__(kRoundThreads) round_kernel(WideRows from, WideInput to, ExpertTiles experts) {
  constexpr int kKept = 6, kWarps = kRoundThreads / kWarp;
  __shared__ float squares_of[kWarps], most_of[kWarps];
  launch_dependents();
  const int number = int(blockIdx.x), row = number % kBlockRows, thread = int(threadIdx.x);
  const int octets = to.in / 8, padded = tiles_of(to.in) * (kTileColumns / 8);
  uint8_t* const block = to.tiles + size_t(number / kBlockRows) * size_t(tiles_of(to.in)) * kTileBytes;
  bool there = number < to.rows;
  int source = number;
  wait_for_inputs();
  if (experts.tile != nullptr) {
    if (number / kBlockRows >= *experts.count) return;
    const ExpertTile& tile = experts.tile[number / kBlockRows];
    there = row < tile.rows;
    source = tile.first + row;
    if (there && experts.row_of != nullptr) source = experts.row_of[source];
  }
  Eight kept[kKept];  // the thread's first octets; of a very long row it has more, which are formed twice
  float inverse = 0, most = 0;
  const auto take = [&](int octet) { return load_row_octet<Kind>(from, size_t(source), to.in, octet); };
  const auto normed = [&](const Eight& x, int octet) {
    return Kind == RowKind::norm ? scaled(x, from.norm, inverse, octet * 8) : x;
  };
#pragma unroll
  for (int j = 0; j < kKept; ++j) {
    const int octet = thread + j * kRoundThreads;
    kept[j] = there && octet < octets ? take(octet) : Eight{};
  }
  if constexpr (Kind == RowKind::norm) {
    float squares = 0;
#pragma unroll
    for (int j = 0; j < kKept; ++j)
      if (there && thread + j * kRoundThreads < octets) squares = sum_squares(kept[j], squares);
    for (int octet = thread + kKept * kRoundThreads; there && octet < octets; octet += kRoundThreads)
      squares = sum_squares(take(octet), squares);
    store_sum(squares, squares_of);
    __syncthreads();
    inverse = inverse_rms(squares_of, to.in, from.eps);
#pragma unroll
    for (int j = 0; j < kKept; ++j)
      if (there && thread + j * kRoundThreads < octets) kept[j] = normed(kept[j], thread + j * kRoundThreads);
  }
  const auto largest = [&](const Eight& x) {
#pragma unroll
    for (const float v : x.v) most = fmaxf(most, fabsf(v));
  };
#pragma unroll
  for (int j = 0; j < kKept; ++j) largest(kept[j]);
  for (int octet = thread + kKept * kRoundThreads; there && octet < octets; octet += kRoundThreads)
    largest(normed(take(octet), octet));
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, offset));
  if (thread % kWarp == 0) most_of[thread / kWarp] = most;
  __syncthreads();
  most = 0;
#pragma unroll
  for (int i = 0; i < kWarps; ++i) most = fmaxf(most, most_of[i]);
  const uint32_t power = max(__float_as_uint(most) >> 23, 15u) - 14;
  const float factor = most == 0 ? 1.0f : __uint_as_float((254 - power) << 23);
  if (thread == 0) to.steps[number] = most == 0 ? 1.0f : __uint_as_float(power << 23);
#pragma unroll
  for (int j = 0; j < kKept; ++j) {
    const int octet = thread + j * kRoundThreads;
    if (j * kRoundThreads < padded) store_octet(kept[j], factor, block, octet, row, octet < padded);
  }
  for (int first = kKept * kRoundThreads; first < padded; first += kRoundThreads) {
    const int octet = first + thread;
    const Eight x = there && octet < octets ? normed(take(octet), octet) : Eight{};
    store_octet(x, factor, block, octet, row, octet < padded);
  }
}

constexpr float kLargestFloatCode = 6;  // of e2m1

/// A warp for a row: the power of two for which the largest that its numbers, or the two they are made of, can be is
/// between 2^14 and 2^15.
__global__ void units_kernel(WeightView w, int rows, float* units) {
  const int row = int(blockIdx.x * blockDim.x + threadIdx.x) / kWarp, lane = int(threadIdx.x) % kWarp;
  if (row >= rows) return;
  float most = 0;
  for (int g = lane; g < w.in / w.group; g += kWarp) {
    const size_t at = size_t(row) * size_t(w.scale_row) + size_t(g);
    const float largest = w.code == Code::uint ? float((1 << w.bits) - 1) : kLargestFloatCode;
    const float codes = largest * fabsf(load_element(w.scales, w.scale, at));
    most = fmaxf(most, w.code == Code::uint ? codes + fabsf(load_element(w.biases, w.bias, at)) : codes);
  }
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, offset));
  if (lane == 0) units[row] = most == 0 ? 1.0f : __uint_as_float((max(__float_as_uint(most) >> 23, 15u) - 14) << 23);
}

bool is_16_bits(Element e) { return e == Element::bf16 || e == Element::f16; }

/// What a launch takes: waves of blocks, by what a tile of 128 by 64, 128 or 256 takes.
template <int Chunks>
int cost_of(const WideInput& x, const ProductTerm* terms, int count) {
  const int tiles = (out_tiles_of(terms, count) + 1) / 2 * tiles_for(x.rows, Chunks * kBlockRows);
  return tiles_for(tiles, wide_grid() / kWideCluster) * (Chunks == 1 ? 10 : Chunks == 2 ? 14 : 21);
}

void run_four_bits(const WideInput& x, const ProductTerm* terms, int count, cudaStream_t stream, const WideLora& lora) {
  static_assert(!has_mixed_tiles(4));
  const int large = lora.mixed ? std::numeric_limits<int>::max() : cost_of<4>(x, terms, count),
            middle = cost_of<2>(x, terms, count), small = cost_of<1>(x, terms, count);
  if (large <= middle && large <= small) return run_wide<4, 4>(x, terms, count, stream, lora);
  if (middle <= small) return run_wide<4, 2>(x, terms, count, stream, lora);
  run_wide<4, 1>(x, terms, count, stream, lora);
}

template <RowKind Kind>
void round_rows(const WideRows& from, const WideInput& to, cudaStream_t stream, const ExpertTiles& experts,
                int blocks) {
  if (blocks == 0) blocks = experts.tile != nullptr ? experts.most : wide_blocks(to.rows);
  launch_overlapping("round", round_kernel<Kind>, {unsigned(blocks * kBlockRows)}, {kRoundThreads}, 0, stream, from, to,
                     experts);
}

}  // namespace

int wide_blocks(int rows) { return tiles_for(rows, 4 * kBlockRows) * 4; }

size_t wide_bytes(int rows, int in) {
  return size_t(wide_blocks(rows)) * (size_t(tiles_of(in)) * kTileBytes + kBlockRows * sizeof(float));
}

WideInput wide_input(void* workspace, int rows, int in) {
  uint8_t* const at = static_cast<uint8_t*>(workspace);
  const size_t tiles = size_t(wide_blocks(rows)) * size_t(tiles_of(in)) * kTileBytes;
  return {.tiles = at, .steps = reinterpret_cast<float*>(at + tiles), .rows = rows, .in = in};
}

void round_wide(const WideRows& from, const WideInput& to, cudaStream_t stream, const ExpertTiles& experts,
                int blocks) {
  if (from.up != nullptr) return round_rows<RowKind::glu>(from, to, stream, experts, blocks);
  if (from.norm != nullptr) return round_rows<RowKind::norm>(from, to, stream, experts, blocks);
  round_rows<RowKind::plain>(from, to, stream, experts, blocks);
}

void fill_units(const WeightView& weight, int rows, float* units, cudaStream_t stream) {
  constexpr int kRowsOfBlock = 8;
  launch("units", units_kernel, {unsigned(tiles_for(rows, kRowsOfBlock))}, {kRowsOfBlock * kWarp}, 0, stream, weight,
         rows, units);
}

bool wants_units(const WeightView& w, int experts) {
  constexpr int kFloatGroup = 32;
  const bool known = w.code == Code::uint || (w.code == Code::e2m1 && w.group == kFloatGroup && w.factors == nullptr);
  // Places of codes are 32 bits.
  return is_hopper() && known && w.bits > 0 && is_16_bits(w.scale) && is_16_bits(w.bias) &&
         size_t(experts) * size_t(w.out) * w.row_bytes <= std::numeric_limits<uint32_t>::max();
}
bool has_matmul_wide(const WeightView& w) { return w.units != nullptr; }
bool is_hopper() { return code_major() == 9; }

void matmul_wide(const WideInput& x, const ProductTerm* terms, int count, cudaStream_t stream, const WideLora& lora) {
  const WeightView& w = terms[0].weight;
  if (w.code == Code::e2m1) return run_wide<4, 2, false, Code::e2m1>(x, terms, count, stream, lora);
  if (w.bits != 4) return run_other_wide(x, terms, count, stream, lora);
  run_four_bits(x, terms, count, stream, lora);
}

}  // namespace bumblebee::cuda
