// 5 to 32 rows of int8 activations with AVX2, with weights of four bits: lanes are rows of x, which is laid out once
// for all threads (tile_rows), and weight rows are what is broadcast, as in int8_stream_vnni.h. Eight rows of x are a
// register; two of them share four weight rows' codes, one has eight. Blocks are taken lane by lane, so the bits are
// those of other paths. Drawn in docs/internals/kernels.md. Included before int8_panel.inl.h.
#pragma once

/// How a block of 64 inputs of up to eight rows of x lies: [16 steps of four inputs][8 rows][4]. Then what brings each
/// row the bytes of codes that its outliers meet, from the first and from the second sixteen bytes of a weight row's
/// block: a word for each outlier, whose low byte meets a low half and whose high byte a high one. Then high bytes in
/// the same places, what words count, scales and sums.
struct XBlock {
  static constexpr size_t kFirst = 512, kSecond = kFirst + 32, kHigh = kSecond + 32, kWords = kHigh + 32,
                          kScales = kWords + 32, kSums = kScales + 32, kBytes = kSums + 32;
};

/// Bytes of eight rows of x.
inline size_t tile_of_eight(int in) {
  return XBlock::kBytes * size_t(padded_blocks(in, {.nibbles = true, .block = 64}));
}
inline size_t tile_bytes(int rows, int in) { return tile_of_eight(in) * size_t((rows + 7) / 8); }

/// One block of `count` rows of x from row `first` on.
inline void tile_block(const QuantRows& x, int first, int count, size_t block, uint8_t* out) {
  const int8_t* const values = x.values + size_t(first) * x.stride + block * 64;
  for (int half = 0; half < 2; ++half) {
    __m256i t[8];
    for (int r = 0; r < 8; ++r) {
      const auto* from = reinterpret_cast<const __m256i*>(values + size_t(r) * x.stride + 32 * half);
      t[r] = r < count ? _mm256_loadu_si256(from) : _mm256_setzero_si256();
    }
    transpose8(t);
    for (int i = 0; i < 8; ++i) _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 256 * half + 32 * i), t[i]);
  }
  auto* const words = reinterpret_cast<int16_t*>(out + XBlock::kWords);
  auto* const scales = reinterpret_cast<float*>(out + XBlock::kScales);
  auto* const sums = reinterpret_cast<float*>(out + XBlock::kSums);
  __builtin_memset(out + XBlock::kFirst, 0x80, XBlock::kHigh - XBlock::kFirst);  // of which a shuffle makes zeros
  __builtin_memset(out + XBlock::kHigh, 0, XBlock::kBytes - XBlock::kHigh);
  for (int r = 0; r < count; ++r) {
    const size_t at = size_t(first + r) * x.block_stride + block;
    scales[r] = x.scales[at];
    sums[r] = x.sums[at];
    for (int i = 0; i < kOutliers; ++i) {
      const Outlier& o = x.outliers[at * kOutliers + size_t(i)];
      if (o.quad == 0) continue;
      const int quad_byte = __builtin_ctz(o.quad) / 8, position = int(o.step) * 4 + quad_byte, byte = position % 32;
      const bool upper = position >= 32;
      const size_t to = size_t(4 * r + 2 * i) + (upper ? 1 : 0);
      out[(byte < 16 ? XBlock::kFirst : XBlock::kSecond) + to] = uint8_t(byte % 16);
      out[XBlock::kHigh + to] = uint8_t(o.quad >> (8 * quad_byte));
      words[2 * r + i] = upper ? 128 / 16 : 128;
    }
  }
}

/// Blocks [first, last) of x, lane by lane as x lies.
inline void tile_rows(const QuantRows& x, int rows, int in, int first, int last, uint8_t* out) {
  const int stripes = padded_blocks(in, {.nibbles = true, .block = 64}) / kLanes;
  for (int r = 0; r < rows; r += 8, out += tile_of_eight(in)) {
    for (int u = first; u < last; ++u) {
      const size_t block = size_t(u % kLanes * stripes + u / kLanes);
      tile_block(x, r, rows - r < 8 ? rows - r : 8, block, out + block * XBlock::kBytes);
    }
  }
}

inline bool takes_tiles(const WeightRows& w) { return w.bits == 4 && !w.floats && w.group >= 64 && w.in % 64 == 0; }

/// Some weight rows and one or two tiles of x.
struct StreamTile {
  const uint8_t* codes[8];
  const float *scale, *bias;  // [weight row][group]
  size_t groups;              // floats of a row
  const uint8_t* x;
  size_t x_tile;  // bytes from one to the next
  int blocks, stripes, group_shift;
  float* sums;  // [tile of x][16 weight rows][8]
};

/// What high bytes add to the sums of a weight row's block.
BB_INLINE __m256i outlier_sums(const uint8_t* p, const uint8_t* x) {
  const auto at = [&](size_t offset) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(x + offset)); };
  const auto both = [&](size_t offset) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + offset)));
  };
  const __m256i bytes = _mm256_or_si256(_mm256_shuffle_epi8(both(0), at(XBlock::kFirst)),
                                        _mm256_shuffle_epi8(both(16), at(XBlock::kSecond)));
  const __m256i codes = _mm256_and_si256(bytes, _mm256_set1_epi16(short(0xf00f)));  // high ones sixteen times
  return _mm256_madd_epi16(_mm256_maddubs_epi16(codes, at(XBlock::kHigh)), at(XBlock::kWords));
}

/// Products of four inputs of a row of x in each lane.
template <class D>
struct StreamDot {
  static constexpr bool kNarrow = D::kSteps < 16;  // sums of 16 bits, which cannot hold a block
  static BB_INLINE __m256i step(__m256i s, __m256i codes, __m256i x) {
    if constexpr (kNarrow) {
      return D::step8(s, codes, x);
    } else {
      return D::step({s, s}, {codes, codes}, {x, x}).lo;
    }
  }
};

/// Four codes in every lane. As text: GCC would go through a register of whole numbers.
BB_INLINE __m256i broadcast_codes(const uint8_t* p) {
  __m256i codes;
  asm("vpbroadcastd %1, %0" : "=x"(codes) : "m"(*reinterpret_cast<const uint32_t*>(p)));
  return codes;
}

template <int COUNT>
[[gnu::noinline]] inline void stream_tile(const StreamTile& tile, RowsAhead& rows_ahead) {
  constexpr int kRows = 8 / COUNT;
  const StreamTile g = tile;
  RowsAhead ahead = rows_ahead;
  alignas(64) uint8_t codes[kRows][64];
  alignas(64) __m256i total[kRows][COUNT];
  alignas(64) __m256 acc[kRows][COUNT];
  const auto sums = [&](int i, int c) { return g.sums + (16 * c + i) * 8; };
  for (int i = 0; i < kRows; ++i)
    for (int c = 0; c < COUNT; ++c) _mm256_store_ps(sums(i, c), _mm256_setzero_ps());
  for (int lane = 0; lane < kLanes && lane < g.blocks; ++lane) {
    const uint8_t* x = g.x + size_t(lane) * size_t(g.stripes) * XBlock::kBytes;
    for (int i = 0; i < kRows; ++i)
      for (int c = 0; c < COUNT; ++c) acc[i][c] = _mm256_setzero_ps();
    for (int u = lane; u < g.blocks; u += kLanes, x += XBlock::kBytes) {
      ahead.ask();
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const uint8_t* const p = g.codes[i] + size_t(u) * 32;
        const RowCodes c = halves_of<NibbleCodes>(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
        _mm256_store_si256(reinterpret_cast<__m256i*>(codes[i]), c.lo);
        _mm256_store_si256(reinterpret_cast<__m256i*>(codes[i] + 32), c.hi);
#pragma GCC unroll 2
        for (int t = 0; t < COUNT; ++t) total[i][t] = outlier_sums(p, x + size_t(t) * g.x_tile);
      }
      constexpr int kTimes = StreamDot<Dot>::kNarrow ? 2 : 1, kBytes = 512 / kTimes;
#pragma GCC unroll 1
      for (int half = 0; half < kTimes; ++half) {
        __m256i sum[kRows][COUNT];
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
          for (int t = 0; t < COUNT; ++t) sum[i][t] = StreamDot<Dot>::kNarrow ? _mm256_setzero_si256() : total[i][t];
        }
        const uint8_t* quad = codes[0] + 32 * half;
        for (const uint8_t *step = x + kBytes * half, *end = step + kBytes; step < end; step += 32, quad += 4) {
          __m256i values[COUNT];
#pragma GCC unroll 2
          for (int t = 0; t < COUNT; ++t)
            values[t] = _mm256_load_si256(reinterpret_cast<const __m256i*>(step + size_t(t) * g.x_tile));
#pragma GCC unroll 8
          for (int i = 0; i < kRows; ++i) {
            const __m256i b = broadcast_codes(quad + 64 * i);
#pragma GCC unroll 2
            for (int t = 0; t < COUNT; ++t) sum[i][t] = StreamDot<Dot>::step(sum[i][t], b, values[t]);
          }
        }
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
          for (int t = 0; t < COUNT; ++t) {
            if constexpr (StreamDot<Dot>::kNarrow) {
              total[i][t] = _mm256_add_epi32(total[i][t], _mm256_madd_epi16(sum[i][t], _mm256_set1_epi16(1)));
            } else {
              total[i][t] = sum[i][t];
            }
          }
        }
      }
      const size_t group = size_t(u >> g.group_shift);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const __m256 s = _mm256_broadcast_ss(g.scale + size_t(i) * g.groups + group),
                     b = _mm256_broadcast_ss(g.bias + size_t(i) * g.groups + group);
#pragma GCC unroll 2
        for (int t = 0; t < COUNT; ++t) {
          const auto* of_x = reinterpret_cast<const float*>(x + size_t(t) * g.x_tile);
          const __m256 xs = _mm256_load_ps(of_x + XBlock::kScales / 4),
                       x_sum = _mm256_load_ps(of_x + XBlock::kSums / 4);
          const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(total[i][t]), s);
          acc[i][t] = _mm256_fmadd_ps(b, x_sum, _mm256_fmadd_ps(scaled, xs, acc[i][t]));
        }
      }
    }
    for (int i = 0; i < kRows; ++i) {
      for (int c = 0; c < COUNT; ++c) _mm256_store_ps(sums(i, c), _mm256_add_ps(_mm256_load_ps(sums(i, c)), acc[i][c]));
    }
  }
  rows_ahead = ahead;
}

/// Scales or biases of sixteen weight rows from n on (those past the last repeat it) as f32: [weight row][groups].
inline void load_row_scales(const uint8_t* p, Element element, const WeightRows& w, int n, int last, size_t padded,
                            float* out) {
  const size_t size = element_size(element), groups = size_t(w.in / w.group);
  for (int i = 0; i < 16; ++i, out += padded) {
    const uint8_t* const row = p + size_t(n + i < last ? n + i : last - 1) * groups * size;
    size_t g = 0;
    for (; g + 16 <= groups; g += 16) store(out + g, load_elements(row + g * size, element));
    if (g < groups) store(out + g, load_elements_n(row + g * size, element, int(groups - g)));
  }
}

/// Sums of sixteen weight rows, [weight row][8], to `count` columns of y of some rows of x.
inline void write_sums(const float* sums, int rows, int count, float* y, size_t y_stride) {
  for (int n = 0; n < count; n += 8, sums += 64) {
    __m256i t[8];
    for (int i = 0; i < 8; ++i) t[i] = _mm256_load_si256(reinterpret_cast<const __m256i*>(sums + 8 * i));
    transpose8(t);
    for (int r = 0; r < rows; ++r) {
      float* const to = y + size_t(r) * y_stride + n;
      if (count - n >= 8) {
        _mm256_storeu_ps(to, _mm256_castsi256_ps(t[r]));
      } else {
        __builtin_memcpy(to, &t[r], size_t(count - n) * sizeof(float));
      }
    }
  }
}

/// y = x·Wᵀ for weight rows [first, last) where x lies as tile_rows() laid it out; false where it does not.
inline bool tiled_matmul(const WeightRows& w, int first, int last, const QuantRows& x, int rows, float* y,
                         size_t y_stride, void* scratch) {
  if (x.tiles == nullptr || !takes_tiles(w)) return false;
  const size_t padded = (size_t(w.in / w.group) + 15) / 16 * 16, x_tile = tile_of_eight(w.in);
  float *const scale = static_cast<float*>(scratch), *const bias = scale + 16 * padded;
  alignas(64) float sums[2 * 16 * 8];
  StreamTile tile = {};
  tile.groups = padded;
  tile.x_tile = x_tile;
  tile.blocks = w.in / 64;
  tile.stripes = padded_blocks(w.in, quant_layout(w)) / kLanes;
  tile.group_shift = w.group > 64 ? 1 : 0;
  const int passes = rows / 16 * 4 + (rows % 16 > 8 ? 4 : rows % 16 > 0 ? 2 : 0);
  for (int n = first; n < last; n += 16) {
    const int count = last - n < 16 ? last - n : 16;
    load_row_scales(w.scales, w.element, w, n, last, padded, scale);
    load_row_scales(w.biases, w.bias_element, w, n, last, padded, bias);
    RowsAhead ahead(w, n + 16, 16, tile.blocks * passes);
    for (int r = 0; r < rows; r += 16) {
      const int tiles = rows - r > 8 ? 2 : 1, each = 8 / tiles;
      tile.x = x.tiles + size_t(r / 8) * x_tile;
      for (int k = 0; k < 16; k += each) {
        for (int i = 0; i < each; ++i)
          tile.codes[i] = w.codes + size_t(n + k + i < last ? n + k + i : last - 1) * w.row_bytes;
        tile.scale = scale + size_t(k) * padded;
        tile.bias = bias + size_t(k) * padded;
        tile.sums = sums + 8 * k;
        tiles == 2 ? stream_tile<2>(tile, ahead) : stream_tile<1>(tile, ahead);
      }
      for (int t = 0; t < tiles; ++t) {
        const int from = r + 8 * t, some = rows - from < 8 ? rows - from : 8;
        write_sums(sums + 128 * t, some, count, y + size_t(from) * y_stride + n, y_stride);
      }
    }
  }
  return true;
}

inline constexpr int kTiledRows = 32;
inline constexpr decltype(Kernels::takes_tiles) kTakesTiles = takes_tiles;
inline constexpr decltype(Kernels::tile_bytes) kTileBytes = tile_bytes;
inline constexpr decltype(Kernels::tile_rows) kTileRows = tile_rows;
