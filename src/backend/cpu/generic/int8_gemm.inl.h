// Many rows of int8 activations: a panel of weight rows is decoded to bytes in the first-level cache and meets all
// rows of x; sums stay in scratch until the panel is done, then go to y once. Included after int8.inl.h.
#pragma once

inline constexpr int kPanelTiles = kInt8Cols / 16;

/// One panel in scratch: codes [tile][step][16 rows][4 bytes], scales and biases [16 groups][tile][16 rows].
struct Panel {
  float* sums;     // [kInt8Rows, kInt8Cols]
  uint8_t* codes;  // tiles are kInt8Cols/4·kInt8Depth bytes apart
  float *scale, *bias;
  static constexpr size_t kTileCodes = size_t(16) * kInt8Depth;
  explicit Panel(void* scratch) {
    sums = static_cast<float*>(scratch);
    codes = reinterpret_cast<uint8_t*>(sums + size_t(kInt8Rows) * kInt8Cols);
    scale = reinterpret_cast<float*>(codes + kPanelTiles * kTileCodes);
    bias = scale + 16 * kInt8Cols;
  }
};

/// Decodes inputs [k0, k1) of rows n..n+15 (below last) into tile `tile` of the panel.
template <int BITS, int UNIT>
inline void decode_tile(const WeightRows& w, int n, int last, int k0, int k1, int tile, const Panel& panel) {
  const TileRows rows(w, n, last);
  uint8_t* out = panel.codes + size_t(tile) * Panel::kTileCodes;
  for (int k = k0; k < k1; k += kLineCodes<BITS>) {
    I16 t[16];
    load_line<BITS>(rows, k, w.in - k, t);
    // The next block of the same rows, or of the next panel's, arrives while this one is multiplied.
    size_t ahead = size_t(k + kInt8Depth) * BITS / 8;
    if (ahead >= w.row_bytes) ahead += (kInt8Cols - 1) * w.row_bytes;
    each_row(
        rows, ahead, [](auto, const uint8_t* p) __attribute__((always_inline)) { prefetch(p); });
    const int steps = (k1 - k < kLineCodes<BITS> ? k1 - k : kLineCodes<BITS>) / 4;
    if (steps == kLineCodes<BITS> / 4) {
      unroll<kLineCodes<BITS> / UNIT>(BB_BODY(u) {
        unroll<UNIT / 4>(BB_BODY(s) { store_int(out + 16 * (u * UNIT + 4 * s), line_step<BITS, UNIT>(t, u, s)); });
      });
    } else {
      for (int s = 0; s < steps; ++s) store_int(out + 64 * s, line_step<BITS, UNIT>(t, s / (UNIT / 4), s % (UNIT / 4)));
    }
    out += 64 * steps;
  }
}

/// The scales and biases of sixteen groups, from g0 on, of all rows of the panel.
inline void load_panel_scales(const WeightRows& w, int n, int last, int g0, int tiles, const Panel& panel) {
  const int left = w.in / w.group - g0, count = left < 16 ? left : 16;
  for (int t = 0; t < tiles; ++t) {
    load_scale_lanes<kInt8Cols>(w.scales, w.element, w, n + 16 * t, last, g0, count, panel.scale + 16 * t);
    load_scale_lanes<kInt8Cols>(w.biases, w.bias_element, w, n + 16 * t, last, g0, count, panel.bias + 16 * t);
  }
}

/// What a tile of sums needs, as plain addresses for its first row and tile.
struct GemmTile {
  const uint8_t* codes;       // tiles are Panel::kTileCodes apart
  const float *scale, *bias;  // groups are kInt8Cols apart
  const int8_t* x;
  const float *x_scale, *x_sum;
  const Outlier* outliers;
  size_t x_stride, x_scale_stride, x_sum_stride, outlier_stride;
  float* sums;                   // rows are kInt8Cols apart
  int units, unit_steps;         // units of unit_steps steps of four inputs
  int scale_shift, group_shift;  // units that share a scale of x (as a shift), and of the weights
};

/// ROWS rows of x times COLS tiles of the panel, added to sums. Plain loops over this function's own arrays, counts
/// that are not constants, and no inlining: otherwise GCC 12 keeps the sums in memory.
template <class D, int ROWS, int COLS>
[[gnu::noinline]] void int8_gemm_tile(const GemmTile& tile) {
  const GemmTile g = tile;
  const uint8_t* codes = g.codes;
  const int8_t* x = g.x;
  const int chunk = g.unit_steps < D::kSteps ? g.unit_steps : D::kSteps;
  for (int u = 0; u < g.units; ++u) {
    I16 total[ROWS][COLS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      typename D::Sum high[COLS];
#pragma GCC unroll 8
      for (int c = 0; c < COLS; ++c) high[c] = D::zero();
      const Outlier* outlier = g.outliers + size_t(r) * g.outlier_stride + size_t(u * kOutliers);
#pragma GCC unroll 8
      for (int i = 0; i < kOutliers; ++i) {
        const I16 a = broadcast4(reinterpret_cast<const int8_t*>(&outlier[i].quad));
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
          if constexpr (D::kSteps < 16) {
            sum[r][c] = D::zero();
          } else {
            sum[r][c] = D::from(total[r][c]);
          }
        }
      }
      for (const uint8_t* end = codes + 64 * chunk; codes < end; codes += 64, x += 4) {
        I16 b[COLS];
#pragma GCC unroll 8
        for (int c = 0; c < COLS; ++c) b[c] = load_int(codes + size_t(c) * Panel::kTileCodes);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
          const I16 a = broadcast4(x + size_t(r) * g.x_stride);
#pragma GCC unroll 8
          for (int c = 0; c < COLS; ++c) sum[r][c] = D::step(sum[r][c], b[c], a);
        }
      }
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 8
        for (int c = 0; c < COLS; ++c) {
          if constexpr (D::kSteps < 16) {
            total[r][c] = add(total[r][c], D::total(sum[r][c]));
          } else {
            total[r][c] = D::total(sum[r][c]);
          }
        }
      }
    } while ((done += chunk) < g.unit_steps);
    const float* scale = g.scale + (u >> g.group_shift) * kInt8Cols;
    const float* bias = g.bias + (u >> g.group_shift) * kInt8Cols;
    const float* x_scale_at = g.x_scale + (u >> g.scale_shift);
    const float* x_sum_at = g.x_sum + u;
    asm volatile("" : : : "memory");  // sums stay in memory: the registers are taken
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const F16 x_scale = set1(x_scale_at[size_t(r) * g.x_scale_stride]);
      const F16 x_sum = set1(x_sum_at[size_t(r) * g.x_sum_stride]);
#pragma GCC unroll 8
      for (int c = 0; c < COLS; ++c) {
        float* y = g.sums + r * kInt8Cols + 16 * c;
        const F16 scaled = mul(to_float(total[r][c]), load(scale + 16 * c));
        store(y, fma(load(bias + 16 * c), x_sum, fma(scaled, x_scale, load(y))));
      }
    }
  }
}

template <class D, int ROWS>
inline void int8_gemm_rows(const GemmTile& first, int tiles) {
  GemmTile g = first;
  const auto next = [&](int count) {
    g.codes += size_t(count) * Panel::kTileCodes;
    g.scale += 16 * count;
    g.bias += 16 * count;
    g.sums += 16 * count;
  };
  for (; tiles >= kIntCols; tiles -= kIntCols, next(kIntCols)) int8_gemm_tile<D, ROWS, kIntCols>(g);
  if constexpr (kIntCols > 1) {
    for (; tiles > 0; --tiles, next(1)) int8_gemm_tile<D, ROWS, 1>(g);
  }
}

/// y = x·Wᵀ for weight rows [n, last), at most kInt8Cols, and at most kInt8Rows rows of x.
template <int BITS>
inline void int8_panel(const WeightRows& w, int n, int last, const QuantRows& x, int rows, float* y, size_t y_stride,
                       const Panel& panel) {
  const int cols = last - n, tiles = (cols + 15) / 16;
  __builtin_memset(panel.sums, 0, size_t(rows) * kInt8Cols * sizeof(float));
  for (int k0 = 0; k0 < w.in; k0 += kInt8Depth) {
    const int k1 = w.in - k0 < kInt8Depth ? w.in : k0 + kInt8Depth;
    if (k0 % (16 * w.group) == 0) load_panel_scales(w, n, last, k0 / w.group, tiles, panel);
    const int unit = w.group < 64 ? w.group : 64;
    for (int t = 0; t < tiles; ++t) {
      if (BITS != 4 || unit == 64) {
        decode_tile<BITS, 64>(w, n + 16 * t, last, k0, k1, t, panel);
      } else {
        decode_tile<BITS, 32>(w, n + 16 * t, last, k0, k1, t, panel);
      }
    }
    const size_t at = size_t(k0 / w.group % 16) * kInt8Cols;
    GemmTile g = {.codes = panel.codes,
                  .scale = panel.scale + at,
                  .bias = panel.bias + at,
                  .x = x.values + k0,
                  .x_scale = x.scales + k0 / kQuantGroup,
                  .x_sum = x.sums + k0 / unit,
                  .outliers = x.outliers + k0 / unit * kOutliers,
                  .x_stride = x.stride,
                  .x_scale_stride = x.scale_stride,
                  .x_sum_stride = x.sum_stride,
                  .outlier_stride = x.outlier_stride,
                  .sums = panel.sums,
                  .units = (k1 - k0) / unit,
                  .unit_steps = unit / 4,
                  .scale_shift = unit == 32 ? 1 : 0,
                  .group_shift = w.group == 128 ? 1 : 0};
    const auto next = [&](int count) {
      g.x += size_t(count) * g.x_stride;
      g.x_scale += size_t(count) * g.x_scale_stride;
      g.x_sum += size_t(count) * g.x_sum_stride;
      g.outliers += size_t(count) * g.outlier_stride;
      g.sums += size_t(count) * kInt8Cols;
    };
    int r = 0;
    for (; r + kIntRows <= rows; r += kIntRows, next(kIntRows)) int8_gemm_rows<DotOf<BITS>, kIntRows>(g, tiles);
    for (; r + 2 <= rows; r += 2, next(2)) int8_gemm_rows<DotOf<BITS>, 2>(g, tiles);
    if (r < rows) int8_gemm_rows<DotOf<BITS>, 1>(g, tiles);
  }
  for (int r = 0; r < rows; ++r)
    __builtin_memcpy(y + size_t(r) * y_stride + size_t(n), panel.sums + size_t(r) * kInt8Cols, size_t(cols) * 4);
}

template <int BITS, int UNIT>
inline void int8_matvec(const WeightRows& w, int first, int last, const QuantRows& x, int rows, float* y,
                        size_t y_stride, void* scratch) {
  for (int n = first; n < last; n += 16) {
    switch (rows) {
      case 1: int8_tile<BITS, UNIT, 1>(w, n, last, x, y, y_stride, scratch); break;
      case 2: int8_tile<BITS, UNIT, 2>(w, n, last, x, y, y_stride, scratch); break;
      case 3: int8_tile<BITS, UNIT, 3>(w, n, last, x, y, y_stride, scratch); break;
      case 4: int8_tile<BITS, UNIT, 4>(w, n, last, x, y, y_stride, scratch); break;
      default:
        if constexpr (kDirectRows > 4) {
          switch (rows) {
            case 5: int8_tile<BITS, UNIT, 5>(w, n, last, x, y, y_stride, scratch); break;
            case 6: int8_tile<BITS, UNIT, 6>(w, n, last, x, y, y_stride, scratch); break;
            case 7: int8_tile<BITS, UNIT, 7>(w, n, last, x, y, y_stride, scratch); break;
            default: int8_tile<BITS, UNIT, 8>(w, n, last, x, y, y_stride, scratch);
          }
        }
    }
  }
}

template <int BITS>
inline void int8_matmul_bits(const WeightRows& w, int first, int last, const QuantRows& x, int rows, float* y,
                             size_t y_stride, void* scratch) {
  if (rows <= kDirectRows && w.group == 32) return int8_matvec<BITS, 32>(w, first, last, x, rows, y, y_stride, scratch);
  if (rows <= kDirectRows) return int8_matvec<BITS, 64>(w, first, last, x, rows, y, y_stride, scratch);
  const Panel panel(scratch);
  for (int r = 0; r < rows; r += kInt8Rows) {
    const int count = rows - r < kInt8Rows ? rows - r : kInt8Rows;
    const QuantRows part = x.from(r);
    for (int n = first; n < last; n += kInt8Cols) {
      const int end = last - n < kInt8Cols ? last : n + kInt8Cols;
      int8_panel<BITS>(w, n, end, part, count, y + size_t(r) * y_stride, y_stride, panel);
    }
  }
}

inline void int8_matmul(const WeightRows& w, int first, int last, const QuantRows& x, int rows, float* y,
                        size_t y_stride, void* scratch) {
  switch (w.bits) {
    case 2: return int8_matmul_bits<2>(w, first, last, x, rows, y, y_stride, scratch);
    case 3: return int8_matmul_bits<3>(w, first, last, x, rows, y, y_stride, scratch);
    case 4: return int8_matmul_bits<4>(w, first, last, x, rows, y, y_stride, scratch);
    case 5: return int8_matmul_bits<5>(w, first, last, x, rows, y, y_stride, scratch);
    case 6: return int8_matmul_bits<6>(w, first, last, x, rows, y, y_stride, scratch);
    default: return int8_matmul_bits<8>(w, first, last, x, rows, y, y_stride, scratch);
  }
}
