// 5 to 64 rows of int8 activations with AVX-512 and VNNI, with weights of four bits: lanes are rows of x, which is laid
// out once for all threads (tile_rows), and weight rows are what is broadcast. So codes need no transposition: eight
// weight rows' codes of a block become bytes where they are multiplied, and nothing waits for a panel to be decoded.
// Blocks are taken lane by lane, so the bits are those of other paths. Drawn in docs/internals/kernels.md. Included
// before int8_panel.inl.h.
#pragma once

/// Weight rows that meet a block of `tiles` tiles of up to `width` rows of x at once: as many as there are registers.
constexpr int stream_rows_at_once(int width, int tiles) { return width == 8 ? 16 : 8 / tiles; }

/// How a block of 64 inputs of up to WIDTH rows of x lies: [steps of four inputs][16 lanes][4]. Sixteen rows have a
/// lane each; eight rows have two, of which the second takes the odd inputs. Then what brings each lane the codes of
/// outliers (two words of a row's 64 codes), their high bytes, and scales and sums of each lane's row.
template <int WIDTH>
struct XBlock {
  static constexpr int kSteps = WIDTH;  // of 16 lanes
  static constexpr size_t kPick = size_t(64) * kSteps, kHigh = kPick + 64, kScales = kHigh + 64, kSums = kScales + 64,
                          kBytes = kSums + 64;
};

/// How rows of x are divided: sixteens, and up to eight of what is left in half the room.
struct XTiles {
  int rows, stripes;
  XTiles(int of_rows, int in) : rows(of_rows), stripes(padded_blocks(in, {.nibbles = true, .block = 64}) / kLanes) {}
  bool half(int first) const { return rows - first <= 8; }
  size_t block_bytes(int first) const { return half(first) ? XBlock<8>::kBytes : XBlock<16>::kBytes; }
  size_t bytes(int first) const { return block_bytes(first) * size_t(kLanes) * size_t(stripes); }
};

inline size_t tile_bytes(int rows, int in) {
  const XTiles to(rows, in);
  size_t all = 0;
  for (int r = 0; r < rows; r += 16) all += to.bytes(r);
  return all;
}

/// One block of `count` rows of x from row `first` on.
template <int WIDTH>
inline void tile_block(const QuantRows& x, int first, int count, size_t block, uint8_t* out) {
  using To = XBlock<WIDTH>;
  constexpr int kEach = 16 / WIDTH;  // lanes of a row
  const int8_t* const values = x.values + size_t(first) * x.stride + block * 64;
  I32x16 t[16];
  for (int r = 0; r < 16; ++r) t[r] = r < count ? load_int(values + size_t(r) * x.stride) : int_zero();
  transpose(t);
  if constexpr (WIDTH == 16) {
    for (int i = 0; i < 16; ++i) store_int(out + 64 * i, t[i]);
  } else {
    const __m512i order = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    for (int i = 0; i < 8; ++i) store_int(out + 64 * i, _mm512_permutex2var_epi32(t[i], order, t[8 + i]));
  }
  auto* const pick = reinterpret_cast<uint16_t*>(out + To::kPick);
  uint8_t* const high = out + To::kHigh;
  auto* const scales = reinterpret_cast<float*>(out + To::kScales);
  auto* const sums = reinterpret_cast<float*>(out + To::kSums);
  __builtin_memset(pick, 0, To::kBytes - To::kPick);
  for (int r = 0; r < count; ++r) {
    const size_t at = size_t(first + r) * x.block_stride + block;
    for (int i = 0; i < kEach; ++i) {
      scales[kEach * r + i] = x.scales[at];
      sums[kEach * r + i] = x.sums[at];
    }
    for (int i = 0; i < kOutliers; ++i) {
      const Outlier& o = x.outliers[at * kOutliers + size_t(i)];
      if (o.quad == 0) continue;
      const int byte = __builtin_ctz(o.quad) / 8;
      const int step = int(o.step), quad = WIDTH == 16 ? step : step % 8 * 2 + step / 8;
      const int word = WIDTH == 16 ? 2 * r + i : 2 * (2 * r + i);  // of all lanes
      pick[word] = uint16_t(2 * quad + byte / 2);
      high[2 * word + byte % 2] = uint8_t(o.quad >> (8 * byte));
    }
  }
}

/// Blocks [first, last) of x, lane by lane as x lies.
inline void tile_rows(const QuantRows& x, int rows, int in, int first, int last, uint8_t* out) {
  const XTiles to(rows, in);
  for (int r = 0; r < rows; r += 16) {
    const int count = rows - r < 16 ? rows - r : 16;
    for (int u = first; u < last; ++u) {
      const size_t block = size_t(u % kLanes * to.stripes + u / kLanes);
      uint8_t* const at = out + block * to.block_bytes(r);
      to.half(r) ? tile_block<8>(x, r, count, block, at) : tile_block<16>(x, r, count, block, at);
    }
    out += to.bytes(r);
  }
}

inline bool takes_tiles(const WeightRows& w) { return w.bits == 4 && !w.floats && w.group >= 64 && w.in % 64 == 0; }

/// 64 codes as bytes: even inputs and then odd ones, or four of each in turns.
template <int WIDTH>
BB_INLINE I32x16 block_codes(const uint8_t* p) {
  const __m512i mask = _mm512_set1_epi8(15);
  const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  if constexpr (WIDTH == 16) {
    const __m512i shifts = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(4), 1);
    return _mm512_and_si512(_mm512_srlv_epi16(_mm512_broadcast_i64x4(bytes), shifts), mask);
  } else {
    const __m512i wide = _mm512_cvtepu32_epi64(bytes);
    return _mm512_and_si512(_mm512_or_si512(wide, _mm512_slli_epi64(wide, 28)), mask);
  }
}
/// Four codes in every lane, or eight in every two. As text: GCC would go through a register of whole numbers.
template <int WIDTH>
BB_INLINE I32x16 broadcast_codes(const uint8_t* p) {
  I32x16 codes;
  if constexpr (WIDTH == 16) {
    asm("vpbroadcastd %1, %0" : "=v"(codes) : "m"(*reinterpret_cast<const uint32_t*>(p)));
  } else {
    asm("vpbroadcastq %1, %0" : "=v"(codes) : "m"(*reinterpret_cast<const uint64_t*>(p)));
  }
  return codes;
}

/// Some weight rows and one or two tiles of x.
struct StreamTile {
  const uint8_t* codes[16];
  const float *scale, *bias;  // [pair of weight rows][group][2]
  size_t pair;                // floats of a pair
  const uint8_t* x;
  size_t x_tile;  // bytes from one to the next
  int blocks, stripes, group_shift;
  float* sums;  // [16 lanes] of a weight row, or of a pair of them; kTileSums of the next tile follow
};
inline constexpr size_t kTileSums = 16 * 16;

/// Weight rows times a tile of up to WIDTH rows of x, or two, which share their codes.
template <int WIDTH, int COUNT>
[[gnu::noinline]] inline void stream_tile(const StreamTile& tile, RowsAhead& rows_ahead) {
  using From = XBlock<WIDTH>;
  constexpr int kRows = stream_rows_at_once(WIDTH, COUNT), kSums = kRows * WIDTH / 16;
  const StreamTile g = tile;
  RowsAhead ahead = rows_ahead;
  alignas(64) uint8_t codes[kRows][64];
#pragma GCC unroll 2
  for (int c = 0; c < COUNT; ++c) {
#pragma GCC unroll 8
    for (int i = 0; i < kSums; ++i) store(g.sums + size_t(c) * kTileSums + 16 * i, zero());
  }
  for (int lane = 0; lane < kLanes && lane < g.blocks; ++lane) {
    const uint8_t* x = g.x + size_t(lane) * size_t(g.stripes) * From::kBytes;
    F32x16 acc[COUNT][kSums];
#pragma GCC unroll 2
    for (int c = 0; c < COUNT; ++c) {
#pragma GCC unroll 8
      for (int i = 0; i < kSums; ++i) acc[c][i] = zero();
    }
    for (int u = lane; u < g.blocks; u += kLanes, x += From::kBytes) {
      ahead.ask();
      I32x16 sum[COUNT][kRows];
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        const I32x16 of_block = block_codes<WIDTH>(g.codes[i] + size_t(u) * 32);
        store_int(codes[i], of_block);
#pragma GCC unroll 2
        for (int c = 0; c < COUNT; ++c) {
          const uint8_t* const from = x + size_t(c) * g.x_tile;
          const I32x16 picked = _mm512_permutexvar_epi16(load_int(from + From::kPick), of_block);
          sum[c][i] = times128(Dot::step(Dot::zero(), picked, load_int(from + From::kHigh)));
        }
      }
      const uint8_t* quad = codes[0];
      for (const uint8_t *end = x + 64 * From::kSteps, *step = x; step < end; step += 64, quad += 64 / From::kSteps) {
        I32x16 values[COUNT];
#pragma GCC unroll 2
        for (int c = 0; c < COUNT; ++c) values[c] = load_int(step + size_t(c) * g.x_tile);
#pragma GCC unroll 16
        for (int i = 0; i < kRows; ++i) {
          const I32x16 four = broadcast_codes<WIDTH>(quad + 64 * i);
#pragma GCC unroll 2
          for (int c = 0; c < COUNT; ++c) sum[c][i] = Dot::step(sum[c][i], four, values[c]);
        }
      }
      const float *scale = g.scale + 2 * size_t(u >> g.group_shift), *bias = g.bias + 2 * size_t(u >> g.group_shift);
#pragma GCC unroll 2
      for (int c = 0; c < COUNT; ++c) {
        const auto* const of_x = reinterpret_cast<const float*>(x + size_t(c) * g.x_tile);
        const F32x16 xs = load(of_x + From::kScales / 4), x_sum = load(of_x + From::kSums / 4);
#pragma GCC unroll 8
        for (int i = 0; i < kSums; ++i) {
          F32x16 s, b;
          I32x16 total;
          if constexpr (WIDTH == 16) {
            total = sum[c][i];
            s = set1(scale[size_t(i / 2) * g.pair + i % 2]);
            b = set1(bias[size_t(i / 2) * g.pair + i % 2]);
          } else {  // a lane of even inputs and one of odd ones are a row's
            const I32x16 first = sum[c][2 * i], second = sum[c][2 * i + 1];
            total = add(_mm512_mask_shuffle_epi32(first, 0xaaaa, second, _MM_PERM_CDAB),
                        _mm512_mask_shuffle_epi32(second, 0x5555, first, _MM_PERM_CDAB));
            const auto both = [&](const float* p) {
              double pair;
              __builtin_memcpy(&pair, p + size_t(i) * g.pair, 8);
              return F32x16{_mm512_castpd_ps(_mm512_set1_pd(pair))};
            };
            s = both(scale);
            b = both(bias);
          }
          acc[c][i] = fma(mul(to_float(total), s), xs, acc[c][i]);
          acc[c][i] = fma(b, x_sum, acc[c][i]);
        }
      }
    }
#pragma GCC unroll 2
    for (int c = 0; c < COUNT; ++c) {
      float* const to = g.sums + size_t(c) * kTileSums;
#pragma GCC unroll 8
      for (int i = 0; i < kSums; ++i) store(to + 16 * i, add(load(to + 16 * i), acc[c][i]));
    }
  }
  rows_ahead = ahead;
}

/// Scales or biases of sixteen weight rows from n on (those past the last repeat it) as f32: [pair][group][2].
inline void load_pairs(const uint8_t* p, Element element, const WeightRows& w, int n, int last, size_t pair,
                       float* out) {
  const size_t size = element_size(element), groups = size_t(w.in / w.group);
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23),
                eight = _mm512_set1_epi32(8);
  for (int i = 0; i < 16; i += 2, out += pair) {
    const auto row = [&](int r) { return p + size_t(r < last ? r : last - 1) * groups * size; };
    const uint8_t *first = row(n + i), *second = row(n + i + 1);
    for (size_t g = 0; g < groups; g += 16) {
      const auto some = [&](const uint8_t* from) {
        const uint8_t* at = from + g * size;
        return groups - g < 16 ? load_elements_n(at, element, int(groups - g)) : load_elements(at, element);
      };
      const __m512 a = some(first).v, b = some(second).v;
      store(out + 2 * g, {_mm512_permutex2var_ps(a, low, b)});
      store(out + 2 * g + 16, {_mm512_permutex2var_ps(a, _mm512_add_epi32(low, eight), b)});
    }
  }
}

/// Sums of sixteen weight rows, [weight row or pair of them][16 lanes], to `count` columns of y of some rows of x.
template <int WIDTH>
inline void write_sums(const float* sums, int rows, int count, float* y, size_t y_stride) {
  I32x16 t[16];
  if constexpr (WIDTH == 16) {
    for (int i = 0; i < 16; ++i) t[i] = load_int(sums + 16 * i);
    transpose(t);
  } else {
    alignas(64) float of_row[8][16];
    for (int i = 0; i < 8; ++i)
      for (int r = 0; r < 8; ++r) __builtin_memcpy(&of_row[r][2 * i], sums + 16 * i + 2 * r, 8);
    for (int r = 0; r < 8; ++r) t[r] = load_int(of_row[r]);
  }
  for (int r = 0; r < rows; ++r) {
    float* const to = y + size_t(r) * y_stride;
    count == 16 ? store(to, as_float(t[r])) : store_n(to, as_float(t[r]), count);
  }
}

/// y = x·Wᵀ for weight rows [first, last) where x lies as tile_rows() laid it out; false where it does not.
inline bool tiled_matmul(const WeightRows& w, int first, int last, const QuantRows& x, int rows, float* y,
                         size_t y_stride, void* scratch) {
  if (x.tiles == nullptr || !takes_tiles(w)) return false;
  const XTiles of_x(rows, w.in);
  const size_t pair = (size_t(w.in / w.group) + 15) / 16 * 32;
  float *const scale = static_cast<float*>(scratch), *const bias = scale + 8 * pair;
  alignas(64) float sums[2 * kTileSums];
  StreamTile tile = {};
  tile.pair = pair;
  tile.x_tile = of_x.bytes(0);
  tile.blocks = w.in / 64;
  tile.stripes = of_x.stripes;
  tile.group_shift = w.group > 64 ? 1 : 0;
  const auto tiles_at = [&](int r) { return !of_x.half(r) && rows - r > 16 && !of_x.half(r + 16) ? 2 : 1; };
  int passes = 0;
  for (int r = 0; r < rows; r += 16 * tiles_at(r))
    passes += 16 / stream_rows_at_once(of_x.half(r) ? 8 : 16, tiles_at(r));
  for (int n = first; n < last; n += 16) {
    const int count = last - n < 16 ? last - n : 16;
    load_pairs(w.scales, w.element, w, n, last, pair, scale);
    load_pairs(w.biases, w.bias_element, w, n, last, pair, bias);
    RowsAhead ahead(w, n + 16, 16, passes * tile.blocks);
    for (int r = 0; r < rows;) {
      const bool half = of_x.half(r);
      const int tiles = tiles_at(r), each = stream_rows_at_once(half ? 8 : 16, tiles);
      tile.x = x.tiles + size_t(r / 16) * of_x.bytes(0);
      for (int k = 0; k < 16; k += each) {
        for (int i = 0; i < each; ++i)
          tile.codes[i] = w.codes + size_t(n + k + i < last ? n + k + i : last - 1) * w.row_bytes;
        tile.scale = scale + size_t(k / 2) * pair;
        tile.bias = bias + size_t(k / 2) * pair;
        tile.sums = sums + (half ? 8 : 16) * k;
        tiles == 2 ? stream_tile<16, 2>(tile, ahead)
        : half     ? stream_tile<8, 1>(tile, ahead)
                   : stream_tile<16, 1>(tile, ahead);
      }
      for (int t = 0; t < tiles; ++t, r += 16) {
        const int some = rows - r < 16 ? rows - r : 16;
        float* const to = y + size_t(r) * y_stride + size_t(n);
        half ? write_sums<8>(sums, some, count, to, y_stride)
             : write_sums<16>(sums + size_t(t) * kTileSums, some, count, to, y_stride);
      }
    }
  }
  return true;
}

inline constexpr int kTiledRows = 64;
inline constexpr decltype(Kernels::takes_tiles) kTakesTiles = takes_tiles;
inline constexpr decltype(Kernels::tile_bytes) kTileBytes = tile_bytes;
inline constexpr decltype(Kernels::tile_rows) kTileRows = tile_rows;
