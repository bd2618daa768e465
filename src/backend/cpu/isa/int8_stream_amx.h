// 5 to 32 rows of int8 activations with AMX, with weights of four bits: weight rows are the left operand, sixteen of
// them with a block of inputs each, so their codes need no transposition and are read in the order of the file; x is
// laid out once for all threads as the right operand (tile_rows). What bounds such a product is memory, as with one
// row. Lanes are summed apart, so the bits are those of other paths. Drawn in docs/internals/kernels.md. Included
// before int8_panel_amx.h.
#pragma once

#include "backend/cpu/isa/tiles_amx.h"

/// Chunks ahead of the reads, in their order: 16 KiB of codes.
inline constexpr int kTileAhead = 8;

/// Eight or sixteen columns of what leaves a tile: rows of x.
template <int WIDTH>
struct Columns;
template <>
struct Columns<16> {
  using Ints = __m512i;
  using Floats = __m512;
  static BB_INLINE Ints ints(const int32_t* p) { return _mm512_load_si512(p); }
  static BB_INLINE Floats floats(const float* p) { return _mm512_load_ps(p); }
  static BB_INLINE Floats set(float a) { return _mm512_set1_ps(a); }
  static BB_INLINE Floats zero() { return _mm512_setzero_ps(); }
  static BB_INLINE void keep(float* p, Floats a) { _mm512_store_ps(p, a); }
  static BB_INLINE Floats joined(Ints low, Ints high, Ints shift) {
    return _mm512_cvtepi32_ps(_mm512_add_epi32(low, _mm512_sllv_epi32(high, shift)));
  }
  static BB_INLINE Floats times(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static BB_INLINE Floats sum(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static BB_INLINE Floats fused(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
};
template <>
struct Columns<8> {
  using Ints = __m256i;
  using Floats = __m256;
  static BB_INLINE Ints ints(const int32_t* p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(p)); }
  static BB_INLINE Floats floats(const float* p) { return _mm256_load_ps(p); }
  static BB_INLINE Floats set(float a) { return _mm256_set1_ps(a); }
  static BB_INLINE Floats zero() { return _mm256_setzero_ps(); }
  static BB_INLINE void keep(float* p, Floats a) { _mm256_store_ps(p, a); }
  static BB_INLINE Floats joined(Ints low, Ints high, Ints shift) {
    return _mm256_cvtepi32_ps(_mm256_add_epi32(low, _mm256_sllv_epi32(high, shift)));
  }
  static BB_INLINE Floats times(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
  static BB_INLINE Floats sum(Floats a, Floats b) { return _mm256_add_ps(a, b); }
  static BB_INLINE Floats fused(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
};

/// How rows of x lie as tiles, block by block of 64 inputs in order: [16 steps of 4 inputs][16][4] of eight rows' low
/// bytes and high ones beside each other, or of sixteen rows' low bytes and then of their high ones; then scales, sums
/// and shifts of all rows.
struct XTiles {
  int width, count;
  explicit XTiles(int rows) : width(rows <= 8 ? 8 : 16), count((rows + 15) / 16) {}
  static constexpr size_t kTile = 1024;
  size_t factors() const { return kTile * size_t(width == 8 ? 1 : 2 * count); }
  size_t block() const { return (factors() + size_t(12 * width * count) + 63) / 64 * 64; }
};

inline size_t tile_bytes(int rows, int in) { return XTiles(rows).block() * size_t(in / 64); }

/// Blocks [first, last) of x as tiles.
inline void tile_rows(const QuantRows& x, int rows, int in, int first, int last, uint8_t* out) {
  const XTiles to(rows);
  const int stripes = padded_blocks(in, {.nibbles = true, .block = 64}) / kLanes;
  const size_t high = size_t(rows) * x.stride, all = size_t(to.width) * size_t(to.count);
  for (int u = first; u < last; ++u) {
    uint8_t* const at = out + size_t(u) * to.block();
    const size_t block = size_t(u % kLanes * stripes + u / kLanes);
    float* const scales = reinterpret_cast<float*>(at + to.factors());
    auto* const shifts = reinterpret_cast<int32_t*>(scales + 2 * all);
    __builtin_memset(scales, 0, 12 * all);
    for (int r = 0; r < rows; ++r) {
      const size_t from = size_t(r) * x.block_stride + block;
      scales[r] = x.scales[from];
      scales[all + size_t(r)] = x.sums[from];
      shifts[r] = x.high_shifts[from];
    }
    for (int part = 0; part < 2 * to.count; ++part) {
      const int begin = part / 2 * 16, count = rows - begin < 16 ? rows - begin : 16;
      const int8_t* const values = x.values + (part % 2 == 0 ? 0 : high) + size_t(begin) * x.stride + block * 64;
      I32x16 t[16];
      for (int r = 0; r < 16; ++r) t[r] = r < count ? load_int(values + size_t(r) * x.stride) : int_zero();
      transpose(t);
      uint8_t* const tile = at + (to.width == 8 ? size_t(part) * 32 : size_t(part) * XTiles::kTile);
      for (int i = 0; i < 16; ++i) {
        if (to.width == 16) {
          store_int(tile + 64 * i, t[i]);
        } else {
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(tile + 64 * i), _mm512_castsi512_si256(t[i]));
        }
      }
    }
  }
}

inline bool takes_tiles(const WeightRows& w) {
  return w.bits == 4 && !w.floats && w.group >= 64 && w.in % kNibbleChunk == 0 && w.in <= 1 << 16;
}

/// The order in which chunks of a row are read: in passes of some lanes, whose sums stay in the nearest cache.
struct ChunkWalk {
  int chunks, pass;  // chunks of a stripe that a pass takes
  int stripe = 0, in_pass = 0, first = 0;
  static constexpr int kStripe = 8;  // chunks
  int at() const { return stripe * kStripe + first + in_pass; }
  bool ended() const { return first >= kStripe || first >= chunks; }
  /// Returns true where a pass ends.
  bool next() {
    ++in_pass;
    if (in_pass == pass || at() >= chunks) {
      in_pass = 0;
      ++stripe;
      if (at() >= chunks) {
        stripe = 0;
        first += pass;
        return true;
      }
    }
    return false;
  }
};

/// A product of a block: sixteen weight rows times a tile of rows of x. What is to be done once its sums have left the
/// tiles.
struct StreamStep {
  const float *scale, *bias;
  const float *xs, *x_sum;
  const int32_t* shift;
  float* sums;
};

template <int WIDTH, int COUNT>
struct StreamPanel {
  using C = Columns<WIDTH>;
  static constexpr int kRow = WIDTH * COUNT;                   // floats of a weight row's sums
  static constexpr int kLanesOfPass = 16 / (kRow / 8);         // whose sums are 16 KiB
  static constexpr size_t kSums = size_t(kTiledCols) * kRow;   // floats
  static constexpr size_t kTile = 1024, kChunk = 4 * kTile;    // bytes of codes: [tile][block]
  static constexpr int kSumTiles = WIDTH == 8 ? 1 : 2;         // of a step
  static constexpr size_t kLeaving = size_t(256) * kSumTiles;  // ints
  const WeightRows& w;
  const uint8_t* x;
  const XTiles of_x;
  uint8_t* codes;    // of two chunks in turn
  int32_t* leaving;  // of two steps in turn, [16][low, high] or [low, high][16][16]
  float *sums, *lanes, *scale, *bias;
  size_t groups;  // padded
  int group_shift;
  int step = 0;
  bool asked = false;  // for the first chunks of the panel that comes
  StreamStep steps[2];

  StreamPanel(const WeightRows& of, const uint8_t* tiled, int rows, void* scratch) : w(of), x(tiled), of_x(rows) {
    codes = static_cast<uint8_t*>(scratch);
    leaving = reinterpret_cast<int32_t*>(codes + 2 * kChunk);
    sums = reinterpret_cast<float*>(leaving + 2 * kLeaving);
    lanes = sums + kSums;
    scale = lanes + kLanes * kSums;
    groups = (size_t(w.in / w.group) + 15) / 16 * 16;
    bias = scale + kTiledCols * groups;
    group_shift = w.group > 64 ? 1 : 0;
  }

  /// Scales and biases of the panel as f32, [weight row][groups].
  void load_scales(int n, int last) const {
    const int count = w.in / w.group;
    const size_t scale_size = element_size(w.element), bias_size = element_size(w.bias_element);
    for (int i = 0; i < kTiledCols; ++i) {
      const size_t row = size_t(n + i < last ? n + i : last - 1) * size_t(count);
      for (int g = 0; g < count; g += 16) {
        const int some = count - g < 16 ? count - g : 16;
        const uint8_t* s = w.scales + (row + size_t(g)) * scale_size;
        const uint8_t* b = w.biases + (row + size_t(g)) * bias_size;
        const size_t to = size_t(i) * groups + size_t(g);
        store(scale + to, some == 16 ? load_elements(s, w.element) : load_elements_n(s, w.element, some));
        store(bias + to, some == 16 ? load_elements(b, w.bias_element) : load_elements_n(b, w.bias_element, some));
      }
    }
  }

  /// A quarter of the codes of a chunk of all rows, as two blocks of bytes: even inputs, then odd ones.
  BB_INLINE void decode(const TileRows (&rows)[2], int chunk, int quarter, uint8_t* out) const {
    const int t = quarter / 2;
    const __m512i shifts = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(4), 1),
                  mask = _mm512_set1_epi8(15);
    uint8_t* const to = out + size_t(t) * 2 * kTile;
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      const int row = quarter % 2 * 8 + i;
      const uint8_t* p = rows[t].at(row) + size_t(chunk) * 64;
#pragma GCC unroll 2
      for (int b = 0; b < 2; ++b) {
        const __m512i twice = _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32 * b)));
        _mm512_store_si512(to + size_t(b) * kTile + 64 * row, _mm512_and_si512(_mm512_srlv_epi16(twice, shifts), mask));
      }
    }
  }

  /// Scales the sums that a step left behind. ALONE: of rows so short that every block is a lane.
  template <bool ALONE>
  BB_INLINE void drain(const StreamStep& d, const int32_t* low) const {
    constexpr int kHigh = WIDTH == 8 ? 8 : 256;  // from low sums to high ones
    const auto xs = C::floats(d.xs), x_sum = C::floats(d.x_sum);
    const auto shift = C::ints(d.shift);
#pragma GCC unroll 4
    for (int i = 0; i < 16; ++i) {
      const auto total = C::joined(C::ints(low + 16 * i), C::ints(low + kHigh + 16 * i), shift);
      const auto scaled = C::times(total, C::set(d.scale[size_t(i) * groups])), b = C::set(d.bias[size_t(i) * groups]);
      float* const sum = d.sums + i * kRow;
      if constexpr (ALONE) {
        C::keep(sum, C::sum(C::floats(sum), C::fused(b, x_sum, C::fused(scaled, xs, C::zero()))));
      } else {
        C::keep(sum, C::fused(b, x_sum, C::fused(scaled, xs, C::floats(sum))));
      }
    }
  }

  /// Multiplies a tile of codes by a tile of x, which stays from step to step of SET 0 and 1. Sums are stored after the
  /// products of the next step, or the processor would wait for them, and scaled after those of the one after.
  template <int SET, bool ALONE>
  BB_INLINE void multiply(const uint8_t* codes_tile, const uint8_t* x_tile, const StreamStep& now) {
    tile_load<kCodeTile + SET>(codes_tile, 64);
    unroll<kSumTiles>(BB_BODY(i) {
      tile_zero<kSumTile + 2 * SET + i>();
      if constexpr (SET == 0) tile_load<kXTile + i>(x_tile + size_t(i) * XTiles::kTile, 64);
      tile_dot_codes<kSumTile + 2 * SET + i, kCodeTile + SET, kXTile + i>();
    });
    if (step > 0) store_sums<1 - SET>();
    if (step > 1) drain<ALONE>(steps[SET], leaving + SET * kLeaving);
    steps[SET] = now;
    ++step;
  }
  template <int SET>
  BB_INLINE void store_sums() {
    unroll<kSumTiles>(BB_BODY(i) { tile_store<kSumTile + 2 * SET + i>(leaving + SET * kLeaving + i * 256, 64); });
  }

  /// What is still in the tiles and on its way out of them: an even number of steps was taken.
  template <bool ALONE>
  void finish() {
    store_sums<1>();
    drain<ALONE>(steps[0], leaving);
    drain<ALONE>(steps[1], leaving + kLeaving);
    step = 0;
  }

  /// The panel's sums to y.
  void write(int n, int last, int rows, float* y, size_t y_stride) const {
    for (int t = 0; t < 2 && n + 16 * t < last; ++t) {
      const int first = n + 16 * t, count = last - first < 16 ? last - first : 16;
      for (int c = 0; c < COUNT; ++c) {
        I32x16 a[16];
        for (int i = 0; i < 16; ++i) {
          const float* const from = sums + (16 * t + i) * kRow + c * WIDTH;
          a[i] = WIDTH == 16 ? load_int(from) : load_int_n(from, 32);
        }
        transpose(a);
        for (int r = 16 * c; r < rows && r < 16 * c + WIDTH; ++r) {
          float* const to = y + size_t(r) * y_stride + size_t(first);
          count == 16 ? store(to, as_float(a[r - 16 * c])) : store_n(to, as_float(a[r - 16 * c]), count);
        }
      }
    }
  }
};

/// y = x·Wᵀ for weight rows [n, last), at most kTiledCols.
template <int WIDTH, int COUNT, bool ALONE>
[[gnu::noinline]] inline void stream_panel(StreamPanel<WIDTH, COUNT>& p, int n, int last, int rows, float* y,
                                           size_t y_stride) {
  using Panel = StreamPanel<WIDTH, COUNT>;
  const WeightRows& w = p.w;
  const int chunks = w.in / kNibbleChunk, lanes = ALONE ? kLanes : Panel::kLanesOfPass;
  const size_t panel_bytes = size_t(kTiledCols) * w.row_bytes;
  const size_t scale_bytes = size_t(kTiledCols) * size_t(w.in / w.group) * element_size(w.element);
  p.load_scales(n, last);
  const TileRows of_rows[2] = {TileRows(w, n, last), TileRows(w, n + 16 < last ? n + 16 : last - 1, last)};
  const uint8_t* const codes = w.codes + size_t(n) * w.row_bytes;
  const uint8_t* const next_scales =
      w.scales + size_t(n + kTiledCols) * size_t(w.in / w.group) * element_size(w.element);
  const uint8_t* const next_biases =
      w.biases + size_t(n + kTiledCols) * size_t(w.in / w.group) * element_size(w.bias_element);
  const size_t scale_step = (scale_bytes / size_t(chunks) + 63) / 64 * 64;
  ChunkWalk walk{chunks, lanes / 2}, ahead = walk, decoded = walk;
  const uint8_t* ahead_rows = codes;
  const auto ask = [&](int first, int count) __attribute__((always_inline)) {
    const uint8_t* at = ahead_rows + size_t(first) * w.row_bytes + size_t(ahead.at()) * 64;
    for (int i = 0; i < count; ++i, at += w.row_bytes) prefetch_far(at);
  };
  const auto further = [&] {
    ahead.next();
    if (!ahead.ended()) return;
    ahead = ChunkWalk{chunks, lanes / 2};
    ahead_rows += panel_bytes;
  };
  for (int i = 0; i < kTileAhead; ++i) {
    if (!p.asked) ask(0, kTiledCols);
    further();
  }
  p.asked = true;
  for (int quarter = 0; quarter < 4; ++quarter) p.decode(of_rows, decoded.at(), quarter, p.codes);
  decoded.next();
  __builtin_memset(p.sums, 0, Panel::kSums * sizeof(float));
  size_t asked_scales = 0;
  for (int parity = 0; !walk.ended(); parity = 1 - parity) {
    if (!ALONE && walk.stripe == 0 && walk.in_pass == 0)
      __builtin_memset(p.lanes, 0, size_t(lanes) * Panel::kSums * sizeof(float));
    const uint8_t* const now = p.codes + size_t(parity) * Panel::kChunk;
    uint8_t* const later = p.codes + size_t(1 - parity) * Panel::kChunk;
    const int chunk = walk.at(), next_chunk = decoded.ended() ? 0 : decoded.at();
    unroll<2>(BB_BODY(b) {
      const int u = 2 * chunk + b, group = u >> p.group_shift;
      const uint8_t* const block = p.x + size_t(u) * p.of_x.block();
      const float* const factors = reinterpret_cast<const float*>(block + p.of_x.factors());
      float* const sums = ALONE ? p.sums : p.lanes + size_t(u % kLanes - 2 * walk.first) * Panel::kSums;
      unroll<COUNT>(BB_BODY(c) {
        const StreamStep step = {.scale = p.scale + group,
                                 .bias = p.bias + group,
                                 .xs = factors + c * WIDTH,
                                 .x_sum = factors + Panel::kRow + c * WIDTH,
                                 .shift = reinterpret_cast<const int32_t*>(factors) + 2 * Panel::kRow + c * WIDTH,
                                 .sums = sums + c * WIDTH};
        unroll<2>(BB_BODY(t) {
          StreamStep of_tile = step;
          of_tile.scale += size_t(16 * t) * p.groups;
          of_tile.bias += size_t(16 * t) * p.groups;
          of_tile.sums += 16 * t * Panel::kRow;
          p.template multiply<t, ALONE>(now + size_t(2 * t + b) * Panel::kTile, block + size_t(2 * c) * XTiles::kTile,
                                        of_tile);
          if constexpr (c == COUNT - 1) {
            ask(8 * (2 * b + t), 8);
            p.decode(of_rows, next_chunk, 2 * b + t, later);
          }
        });
      });
    });
    for (const size_t end = asked_scales + scale_step; asked_scales < end && asked_scales < scale_bytes;
         asked_scales += 64) {
      prefetch_far(next_scales + asked_scales);
      prefetch_far(next_biases + asked_scales);
    }
    further();
    if (!decoded.ended()) decoded.next();
    const int first_lane = 2 * walk.first;
    if (!walk.next()) continue;
    p.template finish<ALONE>();
    if (ALONE) continue;
    for (int q = 0; q < lanes && first_lane + q < kLanes; ++q)
      add_lane(p.lanes + size_t(q) * Panel::kSums, Panel::kSums, p.sums);
  }
  p.write(n, last, rows, y, y_stride);
}

template <int WIDTH, int COUNT>
inline void stream_panels(const WeightRows& w, int first, int last, const uint8_t* x, int rows, float* y,
                          size_t y_stride, void* scratch) {
  TileShapes shapes;
  for (int i = 0; i < 8; ++i) shapes.rows[i] = 16, shapes.bytes[i] = 64;
  tile_shapes(shapes);
  StreamPanel<WIDTH, COUNT> panel(w, x, rows, scratch);
  const bool alone = w.in <= kLanes * 64;
  for (int n = first; n < last; n += kTiledCols) {
    const int end = last - n < kTiledCols ? last : n + kTiledCols;
    alone ? stream_panel<WIDTH, COUNT, true>(panel, n, end, rows, y, y_stride)
          : stream_panel<WIDTH, COUNT, false>(panel, n, end, rows, y, y_stride);
  }
  tile_release();
}

/// y = x·Wᵀ for weight rows [first, last) and up to 32 rows of x, as tile_rows() laid them out.
inline void int8_stream(const WeightRows& w, int first, int last, const uint8_t* x, int rows, float* y, size_t y_stride,
                        void* scratch) {
  if (rows <= 8) return stream_panels<8, 1>(w, first, last, x, rows, y, y_stride, scratch);
  if (rows <= 16) return stream_panels<16, 1>(w, first, last, x, rows, y, y_stride, scratch);
  return stream_panels<16, 2>(w, first, last, x, rows, y, y_stride, scratch);
}

inline constexpr int kTiledRows = 32;
inline constexpr decltype(Kernels::takes_tiles) kTakesTiles = takes_tiles;
inline constexpr decltype(Kernels::tile_bytes) kTileBytes = tile_bytes;
inline constexpr decltype(Kernels::tile_rows) kTileRows = tile_rows;
