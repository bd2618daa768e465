// Many rows of int8 activations: a panel of weight rows is decoded to bytes in the caches and meets all rows of x. Lane
// l of a row's sums has blocks l, l + 16, ..., so codes and x lie lane by lane. A tile of sixteen weight rows takes all
// lanes of a few rows of x, and their sums stay in registers from the first block to the last. Drawn in
// docs/internals/kernels.md. Included after panel_parts.inl.h.
#pragma once

#include BB_ISA_TILED_ROWS

/// One panel in scratch: codes [tile][lane][block of the lane][step][16 rows][4 bytes], scales and biases
/// [group][tile][16 rows].
struct Panel {
  float *scale, *bias;
  uint8_t* codes;
  size_t lane_codes;     // bytes of a tile's lane
  int cols = kInt8Cols;  // weight rows: as many as leave room for x in the second level
  Panel(const WeightRows& w, void* scratch) {
    const QuantLayout layout = quant_layout(w);
    const size_t depth = size_t(padded_blocks(w.in, layout)) * size_t(layout.block),
                 factors = (size_t(w.in / w.group) + 15) / 16 * 16 * kInt8Cols;
    lane_codes = depth / kLanes * 16;
    while (cols > 16 && size_t(cols) * depth > size_t(kInt8Cols) * kInt8Depth) cols /= 2;
    scale = static_cast<float*>(scratch);
    bias = scale + factors;
    codes = reinterpret_cast<uint8_t*>(bias + factors);
  }
  size_t tile_codes() const { return kLanes * lane_codes; }
};

/// The i-th four bytes of the chunks of sixteen rows, to the blocks of a panel.
template <class Codes>
BB_INLINE void store_nibbles(int i, I32x16 bytes, int block, size_t lane_codes, uint8_t* out) {
  const size_t q = size_t(i / 4), at = block == 32 ? q * lane_codes : q / 2 * lane_codes + q % 2 * 256;
  uint8_t* const to = out + at + size_t(i % 4) * 64;
  store_int(to, Codes::low(bytes));
  store_int(to + size_t(8) * size_t(block), Codes::high(bytes));  // after a block's even inputs
}

template <class Codes>
BB_INLINE void decode_nibbles(const TileRows& rows, const WeightRows& w, int block, int k, size_t lane_codes,
                              uint8_t* out) {
  const auto put = [&](auto i, I32x16 bytes) __attribute__((always_inline)) {
    store_nibbles<Codes>(i, bytes, block, lane_codes, out);
  };
  if (rows.full && w.in - k >= kNibbleChunk) return load_square(rows.base + size_t(k) / 2, rows.stride, put);
  I32x16 t[16];
  load_chunk(rows, 4, k, w.in - k, t);
  unroll<16>(BB_BODY(i) { put(i, t[i]); });
}

/// Decodes the chunk of inputs from k on, of rows n..n+15 (below last), to `out`: steps of four inputs, in the order of
/// QuantLayout.
[[gnu::noinline]] inline void decode_chunk(const TileRows& rows, const WeightRows& w, int block, int k,
                                           size_t lane_codes, uint8_t* out) {
  if (w.floats) return decode_nibbles<E2m1Codes>(rows, w, block, k, lane_codes, out);
  if (w.bits == 4) return decode_nibbles<NibbleCodes>(rows, w, block, k, lane_codes, out);
  I32x16 t[16];
  load_chunk(rows, w.bits, k, w.in - k, t);
  uint8_t* const second = out + (block == 32 ? lane_codes : 512);
  unroll<8>(BB_BODY(i) { store_int(out + 64 * i, t[i]); });
  unroll<8>(BB_BODY(i) { store_int(second + 64 * i, t[8 + i]); });
}

/// A tile of weight rows, as plain addresses for the first row of x.
struct GemmTile {
  const uint8_t* codes;
  size_t lane_codes;
  const float *scale, *bias;  // groups are kInt8Cols apart
  const int8_t* x;
  const float *x_scale, *x_sum;
  const Outlier* outliers;
  size_t x_stride, block_stride;  // from row to row
  float* y;
  size_t y_stride;
  int cols;                    // of y, at most 16 are written
  int blocks;                  // of all lanes
  int block_steps, sum_steps;  // steps of four inputs of a block; so many fit the sums of D
  int lane_blocks;             // of x
  int group_shift;             // from block to group
  RowsAhead* ahead;
};

/// ROWS rows of x times a tile. Plain loops over this function's own arrays, counts that are not constants, and nothing
/// that is called: otherwise GCC 12 keeps the sums in memory.
template <class D, int ROWS>
[[gnu::noinline]] void int8_gemm_tile(const GemmTile& tile) {
  const GemmTile g = tile;
  RowsAhead ahead = *g.ahead;
  constexpr bool kNarrow = D::kSteps < 16;  // sums of 16 bits, which cannot hold a block
  const int chunk = kNarrow ? g.sum_steps : g.block_steps;
  const size_t next_group = size_t(kLanes >> g.group_shift) * kInt8Cols;
  F32x16 sums[ROWS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) sums[r] = zero();
  for (int lane = 0; lane < kLanes && lane < g.blocks; ++lane) {
    const int blocks = (g.blocks - lane + kLanes - 1) / kLanes, first_block = lane * g.lane_blocks;
    const uint8_t* codes = g.codes + size_t(lane) * g.lane_codes;
    const size_t group = size_t(lane >> g.group_shift) * kInt8Cols;
    const float *scale = g.scale + group, *bias = g.bias + group;
    const int8_t* x = g.x + size_t(first_block) * size_t(4 * g.block_steps);
    const Outlier* outliers = g.outliers + size_t(first_block) * kOutliers;
    const float *x_scale = g.x_scale + first_block, *x_sum = g.x_sum + first_block;
    F32x16 acc[ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) acc[r] = zero();
    for (int u = 0; u < blocks; ++u) {
      ahead.ask();
      I32x16 total[ROWS];
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) {
        typename D::Sum high = D::zero();
        const Outlier* outlier = outliers + size_t(r) * g.block_stride * kOutliers;
#pragma GCC unroll 8
        for (int i = 0; i < kOutliers; ++i) {
          const I32x16 quad = broadcast4(reinterpret_cast<const int8_t*>(&outlier[i].quad));
          high = D::step(high, load_int(codes + 64 * size_t(outlier[i].step)), quad);
        }
        total[r] = times128(D::total(high));
      }
      int done = 0;
      do {
        typename D::Sum sum[ROWS];
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
          if constexpr (kNarrow) {
            sum[r] = D::zero();
          } else {
            sum[r] = D::from(total[r]);
          }
        }
        for (const uint8_t* end = codes + 64 * chunk; codes < end; codes += 64, x += 4) {
          const I32x16 b = load_int(codes);
#pragma GCC unroll 8
          for (int r = 0; r < ROWS; ++r) sum[r] = D::step(sum[r], b, broadcast4(x + size_t(r) * g.x_stride));
        }
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
          if constexpr (kNarrow) {
            total[r] = add(total[r], D::total(sum[r]));
          } else {
            total[r] = D::total(sum[r]);
          }
        }
      } while (kNarrow && (done += chunk) < g.block_steps);
      const F32x16 s = load(scale), b = load(bias);
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) {
        const size_t at = size_t(r) * g.block_stride;
        acc[r] = fma(mul(to_float(total[r]), s), set1(x_scale[at]), acc[r]);
        acc[r] = fma(b, set1(x_sum[at]), acc[r]);
      }
      scale += next_group;
      bias += next_group;
      outliers += kOutliers;
      ++x_scale;
      ++x_sum;
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) sums[r] = add(sums[r], acc[r]);
  }
  *g.ahead = ahead;
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
    float* out = g.y + size_t(r) * g.y_stride;
    if (g.cols >= 16) {
      store(out, sums[r]);
    } else {
      store_n(out, sums[r], g.cols);
    }
  }
}

/// ROWS rows of x times the tiles of a panel.
template <class D, int ROWS>
inline void int8_gemm_rows(GemmTile g) {
  for (; g.cols > 0; g.cols -= 16) {
    int8_gemm_tile<D, ROWS>(g);
    g.codes += kLanes * g.lane_codes;
    g.scale += 16;
    g.bias += 16;
    g.y += 16;
  }
}

template <class D>
inline void int8_gemm(GemmTile g, int rows) {
  const auto take = [&](auto count) {
    int8_gemm_rows<D, count>(g);
    rows -= count;
    g.x += size_t(count) * g.x_stride;
    g.x_scale += size_t(count) * g.block_stride;
    g.x_sum += size_t(count) * g.block_stride;
    g.outliers += size_t(count) * g.block_stride * kOutliers;
    g.y += size_t(count) * g.y_stride;
  };
  while (rows >= kIntRows) take(Index<kIntRows>());
  if constexpr (kIntRows > 4) {
    if (rows >= 4) take(Index<4>());
  }
  if (rows >= 2) take(Index<2>());
  if (rows > 0) take(Index<1>());
}

/// y = x·Wᵀ for weight rows [n, last), at most panel.cols. The rows that follow are asked for meanwhile: as a rule they
/// are this thread's next, whether in this piece of its share or in another; where they are not, nothing is read.
inline void int8_panel(const WeightRows& w, int n, int last, const QuantRows& x, int rows, float* y, size_t y_stride,
                       const Panel& panel) {
  const QuantLayout layout = quant_layout(w);
  const int block = layout.block, inputs = chunk_inputs(w.bits), chunk_blocks = inputs / block;
  const int apart = kLanes / chunk_blocks, chunks = (w.in + inputs - 1) / inputs;  // chunks of a lane
  const int tiles = (last - n + 15) / 16, blocks = w.in / block;
  load_panel_scales(w, n, last, tiles, panel.scale, panel.bias);
  for (int t = 0; t < tiles; ++t) {
    const TileRows tile(w, n + 16 * t, last);
    for (int c = 0; c < chunks; ++c) {
      uint8_t* const lane =
          panel.codes + size_t(t) * panel.tile_codes() + size_t(c % apart * chunk_blocks) * panel.lane_codes;
      decode_chunk(tile, w, block, c * inputs, panel.lane_codes, lane + size_t(c / apart) * 16 * size_t(block));
    }
  }
  RowsAhead ahead(w, last, panel.cols, blocks * tiles * ((rows + kIntRows - 1) / kIntRows));
  const GemmTile tile = {.codes = panel.codes,
                         .lane_codes = panel.lane_codes,
                         .scale = panel.scale,
                         .bias = panel.bias,
                         .x = x.values,
                         .x_scale = x.scales,
                         .x_sum = x.sums,
                         .outliers = x.outliers,
                         .x_stride = x.stride,
                         .block_stride = x.block_stride,
                         .y = y + n,
                         .y_stride = y_stride,
                         .cols = last - n,
                         .blocks = blocks,
                         .block_steps = block / 4,
                         .sum_steps = w.floats ? Dot::kSteps / 2 : Dot::kSteps,  // codes up to 24, not 15
                         .lane_blocks = padded_blocks(w.in, layout) / kLanes,
                         .group_shift = w.group > block ? 1 : 0,
                         .ahead = &ahead};
  if constexpr (Dot::kBits < 8) {
    if (w.bits > Dot::kBits) return int8_gemm<WideDot>(tile, rows);
  }
  int8_gemm<Dot>(tile, rows);
}

inline void int8_matmul(const WeightRows& w, int first, int last, const QuantRows& x, int rows, float* y,
                        size_t y_stride, void* scratch) {
  if (rows <= kDirectRows) return int8_direct(w, first, last, x, rows, y, y_stride);
  if (tiled_matmul(w, first, last, x, rows, y, y_stride, scratch)) return;
  const Panel panel(w, scratch);
  for (int r = 0; r < rows; r += kInt8Rows) {
    const int count = rows - r < kInt8Rows ? rows - r : kInt8Rows;
    for (int n = first; n < last; n += panel.cols) {
      const int end = last - n < panel.cols ? last : n + panel.cols;
      int8_panel(w, n, end, x.from(r), count, y + size_t(r) * y_stride, y_stride, panel);
    }
  }
}
