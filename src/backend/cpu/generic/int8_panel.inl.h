// Many rows of int8 activations: a panel of weight rows is decoded to bytes in the caches and meets all rows of x. Lane
// l of a row's sums has blocks l, l + 16, ..., so a panel takes those first, then the blocks of the next lane: block by
// block they are kLanes·BLOCK inputs apart. Drawn in docs/internals/kernels.md. Included after panel_parts.inl.h.
#pragma once

inline constexpr int kPanelTiles = kInt8Cols / 16;

/// One panel in scratch: codes [block of a chunk][tile][chunk][step][16 rows][4 bytes], scales and biases
/// [group][tile][16 rows].
struct Panel {
  float *sums, *lane;  // [kInt8Rows, kInt8Cols]: of the lanes that are done, and of each lane at work (kChunkLanes)
  uint8_t* codes;
  float *scale, *bias;
  static constexpr size_t kLaneSums = size_t(kInt8Rows) * kInt8Cols;
  static constexpr int kDepth = 256;                               // inputs of a lane
  static constexpr size_t kTileCodes = size_t(16) * kDepth;        // bytes
  static constexpr size_t kBlockCodes = kPanelTiles * kTileCodes;  // of all tiles, for one block of each chunk
  Panel(const WeightRows& w, void* scratch) {
    sums = static_cast<float*>(scratch);
    lane = sums + kLaneSums;
    codes = reinterpret_cast<uint8_t*>(lane + kChunkLanes * kLaneSums);
    scale = reinterpret_cast<float*>(codes + size_t(kInt8Cols) * kInt8Depth);
    bias = scale + size_t((w.in / w.group + 15) / 16 * 16) * kInt8Cols;
  }
};

/// A transposed chunk of codes of four bits to the blocks of a panel.
template <class Codes>
BB_INLINE void store_nibbles(const I32x16 (&t)[16], int block, uint8_t* out) {
  const size_t half = size_t(8) * size_t(block);  // bytes of a block's even inputs
  const size_t second = block == 32 ? Panel::kBlockCodes : 256;
  unroll<4>(BB_BODY(q) {
    uint8_t* to = out + (block == 32 ? q * Panel::kBlockCodes : q / 2 * Panel::kBlockCodes + q % 2 * second);
    unroll<4>(BB_BODY(i) {
      store_int(to + 64 * i, Codes::low(t[4 * q + i]));
      store_int(to + half + 64 * i, Codes::high(t[4 * q + i]));
    });
  });
}

/// Decodes the chunk of inputs from k on, of rows n..n+15 (below last), to `out`: steps of four inputs, in the order of
/// QuantLayout.
[[gnu::noinline]] inline void decode_chunk(const TileRows& rows, const WeightRows& w, int block, int k, uint8_t* out) {
  I32x16 t[16];
  load_chunk(rows, w.bits, k, w.in - k, t);
  if (w.floats) {
    store_nibbles<E2m1Codes>(t, block, out);
  } else if (w.bits == 4) {
    store_nibbles<NibbleCodes>(t, block, out);
  } else {
    uint8_t* const second = out + (block == 32 ? Panel::kBlockCodes : 512);
    unroll<8>(BB_BODY(i) { store_int(out + 64 * i, t[i]); });
    unroll<8>(BB_BODY(i) { store_int(second + 64 * i, t[8 + i]); });
  }
}

/// Some blocks of one lane, or all blocks of several lanes, as plain addresses for the first row, tile and lane; those
/// of x follow each other.
struct GemmTile {
  const uint8_t* codes;       // tiles are Panel::kTileCodes apart
  const float *scale, *bias;  // groups are kInt8Cols apart
  const int8_t* x;
  const float *x_scale, *x_sum;
  const Outlier* outliers;
  size_t x_stride, block_stride;  // from row to row
  float *lane, *sums;             // rows are kInt8Cols apart
  int lanes;                      // from lane to lane codes are Panel::kBlockCodes apart, and x as lane_blocks says
  int blocks, block_steps;        // blocks (of all lanes from the first on) of block_steps steps of four inputs
  int sum_steps;                  // so many fit the sums of D
  int lane_blocks;                // of x
  int group_shift;                // from block to group
  bool first, final;              // blocks of a lane, which starts from zero and in the end goes to sums
  PanelPrefetch* prefetch;
};

/// ROWS rows of x times COLS tiles of the panel. Plain loops over this function's own arrays, counts that are not
/// constants, and no inlining: otherwise GCC 12 keeps the sums in memory.
template <class D, int ROWS, int COLS>
[[gnu::noinline]] void int8_gemm_tile(const GemmTile& tile) {
  const GemmTile g = tile;
  alignas(64) static constexpr float kZeros[16 * COLS] = {};
  constexpr bool kNarrow = D::kSteps < 16;  // sums of 16 bits, which cannot hold a block
  const int chunk = g.block_steps < g.sum_steps ? g.block_steps : g.sum_steps;  // a constant would cost the registers
  const int block_bytes = 4 * g.block_steps, next_group = kLanes >> g.group_shift;
  for (int l = 0; l < g.lanes; ++l) {
    const uint8_t* codes = g.codes + size_t(l) * Panel::kBlockCodes;
    const int first_block = l * g.lane_blocks, blocks = g.lanes == 1 ? g.blocks : (g.blocks - l + kLanes - 1) / kLanes;
    const int8_t* x = g.x + size_t(first_block) * size_t(block_bytes);
    for (int u = 0; u < blocks; ++u) {
      g.prefetch->step();
      I32x16 total[ROWS][COLS];
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) {
        typename D::Sum high[COLS];
#pragma GCC unroll 8
        for (int c = 0; c < COLS; ++c) high[c] = D::zero();
        const Outlier* outlier = g.outliers + (size_t(r) * g.block_stride + size_t(first_block + u)) * kOutliers;
#pragma GCC unroll 8
        for (int i = 0; i < kOutliers; ++i) {
          const I32x16 a = broadcast4(reinterpret_cast<const int8_t*>(&outlier[i].quad));
          const uint8_t* at = codes + 64 * size_t(outlier[i].step);
#pragma GCC unroll 8
          for (int c = 0; c < COLS; ++c) high[c] = D::step(high[c], load_int(at + size_t(c) * Panel::kTileCodes), a);
        }
#pragma GCC unroll 8
        for (int c = 0; c < COLS; ++c) total[r][c] = times128(D::total(high[c]));
      }
      int done = 0;
      do {
        typename D::Sum sum[ROWS][COLS];
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 8
          for (int c = 0; c < COLS; ++c) {
            if constexpr (kNarrow) {
              sum[r][c] = D::zero();
            } else {
              sum[r][c] = D::from(total[r][c]);
            }
          }
        }
        for (const uint8_t* end = codes + 64 * chunk; codes < end; codes += 64, x += 4) {
          I32x16 b[COLS];
#pragma GCC unroll 8
          for (int c = 0; c < COLS; ++c) b[c] = load_int(codes + size_t(c) * Panel::kTileCodes);
#pragma GCC unroll 8
          for (int r = 0; r < ROWS; ++r) {
            const I32x16 a = broadcast4(x + size_t(r) * g.x_stride);
#pragma GCC unroll 8
            for (int c = 0; c < COLS; ++c) sum[r][c] = D::step(sum[r][c], b[c], a);
          }
        }
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 8
          for (int c = 0; c < COLS; ++c) {
            if constexpr (kNarrow) {
              total[r][c] = add(total[r][c], D::total(sum[r][c]));
            } else {
              total[r][c] = D::total(sum[r][c]);
            }
          }
        }
      } while ((done += chunk) < g.block_steps);
      const size_t group = size_t((l >> g.group_shift) + u * next_group) * kInt8Cols;
      const float *scale = g.scale + group, *bias = g.bias + group;
      const bool start = g.first && u == 0;
      const bool alone = g.final && blocks == 1 && start;  // a lane of one block
      const float* before = start ? kZeros : g.lane;
      const size_t before_stride = start ? 0 : kInt8Cols;
      asm volatile("" : : : "memory");  // lanes stay in memory: the registers are taken
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) {
        const size_t at = size_t(r) * g.block_stride + size_t(first_block + u);
        const F32x16 x_scale = set1(g.x_scale[at]), x_sum = set1(g.x_sum[at]);
#pragma GCC unroll 8
        for (int c = 0; c < COLS; ++c) {
          const F32x16 scaled = mul(to_float(total[r][c]), load(scale + 16 * c));
          const F32x16 sum_so_far = fma(scaled, x_scale, load(before + size_t(r) * before_stride + 16 * c));
          const F32x16 with_bias = fma(load(bias + 16 * c), x_sum, sum_so_far);
          float* out = g.sums + r * kInt8Cols + 16 * c;
          if (alone) {
            store(out, add(load(out), with_bias));
          } else {
            store(g.lane + r * kInt8Cols + 16 * c, with_bias);
          }
        }
      }
    }
    if (!g.final || (g.first && blocks == 1)) continue;
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < COLS; ++c) {
        float* out = g.sums + r * kInt8Cols + 16 * c;
        store(out, add(load(out), load(g.lane + r * kInt8Cols + 16 * c)));
      }
    }
  }
}

template <class D, int ROWS>
inline void int8_gemm_rows(GemmTile g, int tiles) {
  const auto next = [&](int count) {
    g.codes += size_t(count) * Panel::kTileCodes;
    g.scale += 16 * count;
    g.bias += 16 * count;
    g.lane += 16 * count;
    g.sums += 16 * count;
  };
  for (; tiles >= kIntCols; tiles -= kIntCols, next(kIntCols)) int8_gemm_tile<D, ROWS, kIntCols>(g);
  if constexpr (kIntCols > 1) {
    for (; tiles > 0; --tiles, next(1)) int8_gemm_tile<D, ROWS, 1>(g);
  }
}

template <class D>
inline void int8_gemm(GemmTile g, int rows, int tiles) {
  const auto take = [&](auto count) {
    int8_gemm_rows<D, count>(g, tiles);
    rows -= count;
    g.x += size_t(count) * g.x_stride;
    g.x_scale += size_t(count) * g.block_stride;
    g.x_sum += size_t(count) * g.block_stride;
    g.outliers += size_t(count) * g.block_stride * kOutliers;
    g.lane += size_t(count) * kInt8Cols;
    g.sums += size_t(count) * kInt8Cols;
  };
  if constexpr (kIntRows > 4) {
    while (rows >= kIntRows && rows != 8) take(Index<kIntRows>());  // eight are two times four
  }
  while (rows >= 4) take(Index<4>());
  if (rows >= 2) take(Index<2>());
  if (rows > 0) take(Index<1>());
}

/// y = x·Wᵀ for weight rows [n, last), at most kInt8Cols, and at most kInt8Rows rows of x; `more` when another panel
/// follows.
inline void int8_panel(const WeightRows& w, int n, int last, const QuantRows& x, int rows, float* y, size_t y_stride,
                       const Panel& panel, bool more) {
  const QuantLayout layout = quant_layout(w);
  const int block = layout.block, inputs = chunk_inputs(w.bits), chunk_blocks = inputs / block;
  const int apart = kLanes / chunk_blocks,
            max_chunks = Panel::kDepth / block;  // chunks of a lane; most of them at once
  const int cols = last - n, tiles = (cols + 15) / 16, chunks = (w.in + inputs - 1) / inputs;
  const int group_shift = w.group > block ? 1 : 0, stripes = padded_blocks(w.in, layout) / kLanes;
  load_panel_scales(w, n, last, tiles, panel.scale, panel.bias);
  const int steps = w.in / block * ((rows + kIntRows - 1) / kIntRows);  // at least so many times is asked
  const size_t bytes = more ? size_t(kInt8Cols) * w.row_bytes : 0;
  PanelPrefetch prefetch = {w.codes + size_t(last) * w.row_bytes, bytes, int(bytes / 64) / steps + 1};
  __builtin_memset(panel.sums, 0, size_t(rows) * kInt8Cols * sizeof(float));
  const auto decode = [&](int l0, int count, uint8_t* codes) {
    for (int t = 0; t < tiles; ++t) {
      const TileRows tile(w, n + 16 * t, last);
      uint8_t* out = codes + size_t(t) * Panel::kTileCodes;
      for (int i = 0; i < count; ++i, out += 16 * block) {
        const int k = (l0 + i * apart) * inputs;
        decode_chunk(tile, w, block, k, out);
      }
    }
  };
  const auto multiply = [&](int first_block, int lanes, int blocks, const uint8_t* codes, float* lane, bool first,
                            bool final) {
    const size_t group = size_t(first_block >> group_shift) * kInt8Cols;
    const int x_block = first_block % kLanes * stripes + first_block / kLanes;
    const GemmTile tile = {.codes = codes,
                           .scale = panel.scale + group,
                           .bias = panel.bias + group,
                           .x = x.values + x_block * block,
                           .x_scale = x.scales + x_block,
                           .x_sum = x.sums + x_block,
                           .outliers = x.outliers + x_block * kOutliers,
                           .x_stride = x.stride,
                           .block_stride = x.block_stride,
                           .lane = lane,
                           .sums = panel.sums,
                           .lanes = lanes,
                           .blocks = blocks,
                           .block_steps = block / 4,
                           .sum_steps = w.floats ? Dot::kSteps / 2 : Dot::kSteps,  // codes up to 24, not 15
                           .lane_blocks = stripes,
                           .group_shift = group_shift,
                           .first = first,
                           .final = final,
                           .prefetch = &prefetch};
    if constexpr (Dot::kBits < 8) {
      if (w.bits > Dot::kBits) return int8_gemm<WideDot>(tile, rows, tiles);
    }
    int8_gemm<Dot>(tile, rows, tiles);
  };
  static_assert(kLanes * Panel::kBlockCodes == size_t(kInt8Cols) * kInt8Depth);
  const int all = w.in / block;
  if (chunks <= apart * max_chunks) {  // the codes of all lanes fit
    for (int p = 0; p < apart && p < chunks; ++p)
      decode(p, (chunks - p + apart - 1) / apart, panel.codes + size_t(p) * chunk_blocks * Panel::kBlockCodes);
    multiply(0, all < kLanes ? all : kLanes, all, panel.codes, panel.lane, true, true);
  } else {
    for (int p = 0; p < apart; ++p) {
      for (int l0 = p; l0 < chunks; l0 += apart * max_chunks) {
        const int left = (chunks - l0 + apart - 1) / apart, count = left < max_chunks ? left : max_chunks;
        decode(l0, count, panel.codes);
        for (int q = 0; q < chunk_blocks; ++q) {
          const int first_block = l0 * chunk_blocks + q;  // the first of this lane here
          if (first_block >= all) break;
          const int blocks =
              count - (first_block + (count - 1) * kLanes >= all ? 1 : 0);  // the last chunk may be a half
          multiply(first_block, 1, blocks, panel.codes + size_t(q) * Panel::kBlockCodes,
                   panel.lane + size_t(q) * Panel::kLaneSums, l0 == p, false);
        }
      }
      // The lanes of a chunk are at work together, and the last chunk may have ended some before others.
      for (int q = 0; q < chunk_blocks && p * chunk_blocks + q < all; ++q)
        add_lane(panel.lane + size_t(q) * Panel::kLaneSums, size_t(rows) * kInt8Cols, panel.sums);
    }
  }
  for (int r = 0; r < rows; ++r)
    __builtin_memcpy(y + size_t(r) * y_stride + size_t(n), panel.sums + size_t(r) * kInt8Cols, size_t(cols) * 4);
}

inline void int8_matmul(const WeightRows& w, int first, int last, const QuantRows& x, int rows, float* y,
                        size_t y_stride, void* scratch) {
  if (rows <= kDirectRows) return int8_direct(w, first, last, x, rows, y, y_stride);
  const Panel panel(w, scratch);
  for (int r = 0; r < rows; r += kInt8Rows) {
    const int count = rows - r < kInt8Rows ? rows - r : kInt8Rows;
    for (int n = first; n < last; n += kInt8Cols) {
      const int end = last - n < kInt8Cols ? last : n + kInt8Cols;
      int8_panel(w, n, end, x.from(r), count, y + size_t(r) * y_stride, y_stride, panel, end < last);
    }
  }
}
