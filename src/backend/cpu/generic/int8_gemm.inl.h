// Many rows of int8 activations: a panel of weight rows is decoded to bytes in the caches and meets all rows of x.
// Units are taken lane by lane, in the order of kLanes: those of one lane are sixteen apart, and the lines that hold
// them kLanes·UNIT inputs. Included after int8.inl.h.
#pragma once

inline constexpr int kPanelTiles = kInt8Cols / 16;

/// One panel in scratch: codes [unit of a line][tile][line][step][16 rows][4 bytes], scales and biases [group][tile][16
/// rows].
struct Panel {
  float *sums, *lane;  // [kInt8Rows, kInt8Cols]: of the lanes that are done, and of the one at work
  uint8_t* codes;
  float *scale, *bias;
  static constexpr int kDepth = 256;                              // inputs of a lane
  static constexpr size_t kTileCodes = size_t(16) * kDepth;       // bytes
  static constexpr size_t kUnitCodes = kPanelTiles * kTileCodes;  // of all tiles, for one unit of each line
  Panel(const WeightRows& w, void* scratch) {
    sums = static_cast<float*>(scratch);
    lane = sums + size_t(kInt8Rows) * kInt8Cols;
    codes = reinterpret_cast<uint8_t*>(lane + size_t(kInt8Rows) * kInt8Cols);
    scale = reinterpret_cast<float*>(codes + size_t(kInt8Cols) * kInt8Depth);
    bias = scale + size_t((w.in / w.group + 15) / 16 * 16) * kInt8Cols;
  }
};

/// The codes of the next panel, whose rows follow those of this one: asked for in the order of memory, a few lines at a
/// time while this panel is multiplied. The processor can wait for some twenty lines, and would stand still over more.
struct PanelAhead {
  const uint8_t* next;
  size_t left;  // bytes
  int lines;    // at a time
  [[gnu::noinline]] void ask() {
    for (int i = 0; i < lines && left > 0; ++i, next += 64) {
      prefetch_far(next);
      left -= left < 64 ? left : 64;
    }
  }
};

/// Decodes the line of inputs from k on, of rows n..n+15 (below last), to `out`: steps of four inputs, in the order of
/// QuantLayout.
[[gnu::noinline]] inline void decode_line(const TileRows& rows, int bits, int unit, int k, int left, uint8_t* out) {
  I16 t[16];
  load_line(rows, bits, k, left, t);
  if (bits == 4) {
    const size_t half = size_t(8) * size_t(unit);  // bytes of a unit's even inputs
    const size_t second = unit == 32 ? Panel::kUnitCodes : 256;
    unroll<4>(BB_BODY(q) {
      uint8_t* to = out + (unit == 32 ? q * Panel::kUnitCodes : q / 2 * Panel::kUnitCodes + q % 2 * second);
      unroll<4>(BB_BODY(i) {
        store_int(to + 64 * i, NibbleCodes::low(t[4 * q + i]));
        store_int(to + half + 64 * i, NibbleCodes::high(t[4 * q + i]));
      });
    });
  } else {
    uint8_t* const second = out + (unit == 32 ? Panel::kUnitCodes : 512);
    unroll<8>(BB_BODY(i) { store_int(out + 64 * i, t[i]); });
    unroll<8>(BB_BODY(i) { store_int(second + 64 * i, t[8 + i]); });
  }
}

/// The scales and biases of all rows of the panel.
inline void load_panel_scales(const WeightRows& w, int n, int last, int tiles, const Panel& panel) {
  const int groups = w.in / w.group;
  for (int g = 0; g < groups; g += 16) {
    const int count = groups - g < 16 ? groups - g : 16;
    const size_t at = size_t(g) * kInt8Cols;
    for (int t = 0; t < tiles; ++t) {
      load_scale_lanes<kInt8Cols>(w.scales, w.element, w, n + 16 * t, last, g, count, panel.scale + at + 16 * t);
      load_scale_lanes<kInt8Cols>(w.biases, w.bias_element, w, n + 16 * t, last, g, count, panel.bias + at + 16 * t);
    }
  }
}

/// Some units of one lane, or all units of several lanes, as plain addresses for the first row, tile and lane; those of
/// x follow each other.
struct GemmTile {
  const uint8_t* codes;       // tiles are Panel::kTileCodes apart
  const float *scale, *bias;  // groups are kInt8Cols apart
  const int8_t* x;
  const float *x_scale, *x_sum;
  const Outlier* outliers;
  size_t x_stride, unit_stride;  // from row to row
  float *lane, *sums;            // rows are kInt8Cols apart
  int lanes;                     // from lane to lane codes are Panel::kUnitCodes apart, and x as lane_units says
  int units, unit_steps;         // units (of all lanes from the first on) of unit_steps steps of four inputs
  int lane_units;                // of x
  int group_shift;               // from unit to group
  bool first, final;             // units of a lane, which starts from zero and in the end goes to sums
  PanelAhead* ahead;
};

/// ROWS rows of x times COLS tiles of the panel. Plain loops over this function's own arrays, counts that are not
/// constants, and no inlining: otherwise GCC 12 keeps the sums in memory.
template <class D, int ROWS, int COLS>
[[gnu::noinline]] void int8_gemm_tile(const GemmTile& tile) {
  const GemmTile g = tile;
  alignas(64) static constexpr float kZeros[16 * COLS] = {};
  constexpr bool kNarrow = D::kSteps < 16;                                // sums of 16 bits, which cannot hold a unit
  const int chunk = g.unit_steps < D::kSteps ? g.unit_steps : D::kSteps;  // a constant would cost the registers
  const int unit_bytes = 4 * g.unit_steps, next_group = kLanes >> g.group_shift;
  for (int l = 0; l < g.lanes; ++l) {
    const uint8_t* codes = g.codes + size_t(l) * Panel::kUnitCodes;
    const int first_unit = l * g.lane_units, units = g.lanes == 1 ? g.units : (g.units - l + kLanes - 1) / kLanes;
    const int8_t* x = g.x + size_t(first_unit) * size_t(unit_bytes);
    for (int u = 0; u < units; ++u) {
      g.ahead->ask();
      I16 total[ROWS][COLS];
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) {
        typename D::Sum high[COLS];
#pragma GCC unroll 8
        for (int c = 0; c < COLS; ++c) high[c] = D::zero();
        const Outlier* outlier = g.outliers + (size_t(r) * g.unit_stride + size_t(first_unit + u)) * kOutliers;
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
            if constexpr (kNarrow) {
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
            if constexpr (kNarrow) {
              total[r][c] = add(total[r][c], D::total(sum[r][c]));
            } else {
              total[r][c] = D::total(sum[r][c]);
            }
          }
        }
      } while ((done += chunk) < g.unit_steps);
      const size_t group = size_t((l >> g.group_shift) + u * next_group) * kInt8Cols;
      const float *scale = g.scale + group, *bias = g.bias + group;
      const bool start = g.first && u == 0;
      const bool alone = g.final && units == 1 && start;  // a lane of one unit
      const float* before = start ? kZeros : g.lane;
      const size_t before_stride = start ? 0 : kInt8Cols;
      asm volatile("" : : : "memory");  // lanes stay in memory: the registers are taken
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) {
        const size_t at = size_t(r) * g.unit_stride + size_t(first_unit + u);
        const F16 x_scale = set1(g.x_scale[at]), x_sum = set1(g.x_sum[at]);
#pragma GCC unroll 8
        for (int c = 0; c < COLS; ++c) {
          const F16 scaled = mul(to_float(total[r][c]), load(scale + 16 * c));
          const F16 sum_so_far = fma(scaled, x_scale, load(before + size_t(r) * before_stride + 16 * c));
          const F16 with_bias = fma(load(bias + 16 * c), x_sum, sum_so_far);
          float* out = g.sums + r * kInt8Cols + 16 * c;
          if (alone) {
            store(out, add(load(out), with_bias));
          } else {
            store(g.lane + r * kInt8Cols + 16 * c, with_bias);
          }
        }
      }
    }
    if (!g.final || (g.first && units == 1)) continue;
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
    g.x_scale += size_t(count) * g.unit_stride;
    g.x_sum += size_t(count) * g.unit_stride;
    g.outliers += size_t(count) * g.unit_stride * kOutliers;
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
  const int unit = layout.unit, inputs = line_inputs(w.bits), line_units = inputs / unit;
  const int apart = kLanes / line_units, most = Panel::kDepth / unit;  // lines of a lane; most of them at once
  const int cols = last - n, tiles = (cols + 15) / 16, lines = (w.in + inputs - 1) / inputs;
  const int group_shift = w.group > unit ? 1 : 0, rounds = padded_units(w.in, layout) / kLanes;
  load_panel_scales(w, n, last, tiles, panel);
  const int steps = w.in / unit * ((rows + kIntRows - 1) / kIntRows);  // at least so many times is asked
  const size_t bytes = more ? size_t(kInt8Cols) * w.row_bytes : 0;
  PanelAhead ahead = {w.codes + size_t(last) * w.row_bytes, bytes, int(bytes / 64) / steps + 1};
  __builtin_memset(panel.sums, 0, size_t(rows) * kInt8Cols * sizeof(float));
  const auto decode = [&](int l0, int count, uint8_t* codes) {
    for (int t = 0; t < tiles; ++t) {
      const TileRows tile(w, n + 16 * t, last);
      uint8_t* out = codes + size_t(t) * Panel::kTileCodes;
      for (int i = 0; i < count; ++i, out += 16 * unit) {
        const int k = (l0 + i * apart) * inputs;
        decode_line(tile, w.bits, unit, k, w.in - k, out);
      }
    }
  };
  const auto multiply = [&](int first_unit, int lanes, int units, const uint8_t* codes, bool first, bool final) {
    const size_t group = size_t(first_unit >> group_shift) * kInt8Cols;
    const int x_unit = first_unit % kLanes * rounds + first_unit / kLanes;
    const GemmTile tile = {.codes = codes,
                           .scale = panel.scale + group,
                           .bias = panel.bias + group,
                           .x = x.values + x_unit * unit,
                           .x_scale = x.scales + x_unit,
                           .x_sum = x.sums + x_unit,
                           .outliers = x.outliers + x_unit * kOutliers,
                           .x_stride = x.stride,
                           .unit_stride = x.unit_stride,
                           .lane = panel.lane,
                           .sums = panel.sums,
                           .lanes = lanes,
                           .units = units,
                           .unit_steps = unit / 4,
                           .lane_units = rounds,
                           .group_shift = group_shift,
                           .first = first,
                           .final = final,
                           .ahead = &ahead};
    if constexpr (Dot::kBits < 8) {
      if (w.bits > Dot::kBits) return int8_gemm<WideDot>(tile, rows, tiles);
    }
    int8_gemm<Dot>(tile, rows, tiles);
  };
  static_assert(kLanes * Panel::kUnitCodes == size_t(kInt8Cols) * kInt8Depth);
  const int all = w.in / unit;
  if (lines <= apart * most) {  // the codes of all lanes fit
    for (int p = 0; p < apart && p < lines; ++p)
      decode(p, (lines - p + apart - 1) / apart, panel.codes + size_t(p) * line_units * Panel::kUnitCodes);
    multiply(0, all < kLanes ? all : kLanes, all, panel.codes, true, true);
  } else {
    for (int p = 0; p < apart; ++p) {
      for (int l0 = p; l0 < lines; l0 += apart * most) {
        const int left = (lines - l0 + apart - 1) / apart, count = left < most ? left : most;
        decode(l0, count, panel.codes);
        for (int q = 0; q < line_units; ++q) {
          const int first_unit = l0 * line_units + q;  // the first of this lane here
          if (first_unit >= all) break;
          const int units = count - (first_unit + (count - 1) * kLanes >= all ? 1 : 0);  // a line may be half a line
          multiply(first_unit, 1, units, panel.codes + size_t(q) * Panel::kUnitCodes, l0 == p, first_unit + units * kLanes >= all);
        }
      }
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
