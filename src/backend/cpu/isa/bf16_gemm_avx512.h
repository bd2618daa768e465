// Products of gradients with weights, and of queries and probabilities with bf16 pages: pairs of bf16, which one
// instruction multiplies and adds up. Included inside an instruction set's own namespace after matmul.inl.h.
#pragma once

/// Element i of each as the halves of word i.
inline __m512i pair_up(F32x16 low, F32x16 high) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, __m512i(_mm512_cvtne2ps_pbh(high.v, low.v)));
}

/// Sixteen columns of one row; a row past the end is zero.
template <int CODE>
struct PairRow {
  const WeightRows& w;
  int n;
  bool there;
  Decoder<CODE> decoder(int group) const {
    if (!there) return Decoder<CODE>(0, 0);
    const size_t i = size_t(n) * size_t(w.in / w.group) + size_t(group);
    if (w.floats) return Decoder<CODE>(load_element(w.scales, w.element, i) * w.factor, 0);
    return Decoder<CODE>(load_element(w.scales, w.element, i), load_element(w.biases, w.bias_element, i));
  }
  const uint8_t* codes(int k) const {
    return w.codes + size_t(there ? n : n - 1) * w.row_bytes + size_t(k) * bits_of(CODE) / 8;
  }
};

/// The same columns of the rows that are decoded next, a panel further: a line or two of each row, which no hardware
/// stream follows. An address past the end does no harm, but must not be formed as a pointer.
inline void prefetch_next_panel(const WeightRows& w, const uint8_t* codes, int rows, int bytes) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(codes) + size_t(rows) * w.row_bytes;
  for (int i = 0; i < bytes + 63; i += 64)
    asm volatile("prefetcht1 %0" : : "m"(*reinterpret_cast<const char*>(at + size_t(i))));
}

template <int CODE>
inline void decode_affine_pairs(const WeightRows& w, int first, int last, int k0, int k1, uint32_t* out) {
  const int pairs = (last - first + 1) / 2;
  for (int j = 0; j < pairs; ++j) {
    const int n = first + 2 * j;
    const PairRow<CODE> a{w, n, true}, b{w, n + 1, n + 1 < last};
    prefetch_next_panel(w, a.codes(k0), last - first, (k1 - k0) * bits_of(CODE) / 8);
    prefetch_next_panel(w, b.codes(k0), last - first, (k1 - k0) * bits_of(CODE) / 8);
    for (int k = k0; k < k1;) {
      const int group = k / w.group, end = (group + 1) * w.group < k1 ? (group + 1) * w.group : k1;
      const Decoder<CODE> low = a.decoder(group), high = b.decoder(group);
      const uint8_t *low_codes = a.codes(k), *high_codes = b.codes(k);
      for (; k < end; k += 16, low_codes += 2 * bits_of(CODE), high_codes += 2 * bits_of(CODE)) {
        const int c = k - k0;
        _mm512_storeu_si512(out + (size_t(c / kPairCols) * size_t(pairs) + size_t(j)) * kPairCols + c % kPairCols,
                            pair_up(low(low_codes), high(high_codes)));
      }
    }
  }
}

inline void decode_dense_pairs(const WeightRows& w, int first, int last, int k0, int k1, uint32_t* out) {
  const int pairs = (last - first + 1) / 2;
  const size_t size = w.element == Element::f32 ? 4 : 2;
  const auto sixteen = [&](int n, int k) {
    if (n >= last) return zero();
    const uint8_t* at = w.codes + size_t(n) * w.row_bytes + size_t(k) * size;
    return k + 16 <= k1 ? load_elements(at, w.element) : load_elements_n(at, w.element, k1 - k);
  };
  for (int j = 0; j < pairs; ++j) {
    const int n = first + 2 * j;
    for (int c = 0; c < k1 - k0; c += 16) {
      _mm512_storeu_si512(out + (size_t(c / kPairCols) * size_t(pairs) + size_t(j)) * kPairCols + c % kPairCols,
                          pair_up(sixteen(n, k0 + c), sixteen(n + 1, k0 + c)));
    }
  }
}

inline void decode_pairs(const WeightRows& w, int first, int last, int k0, int k1, uint32_t* out) {
  switch (code_of(w)) {
    case kE2m1: return decode_affine_pairs<kE2m1>(w, first, last, k0, k1, out);
    case kE4m3: return decode_affine_pairs<kE4m3>(w, first, last, k0, k1, out);
    case 2: return decode_affine_pairs<2>(w, first, last, k0, k1, out);
    case 3: return decode_affine_pairs<3>(w, first, last, k0, k1, out);
    case 4: return decode_affine_pairs<4>(w, first, last, k0, k1, out);
    case 5: return decode_affine_pairs<5>(w, first, last, k0, k1, out);
    case 6: return decode_affine_pairs<6>(w, first, last, k0, k1, out);
    case 8: return decode_affine_pairs<8>(w, first, last, k0, k1, out);
    default: return decode_dense_pairs(w, first, last, k0, k1, out);
  }
}

inline void transpose_pairs(const float* x, size_t stride, int cols, int depth, uint32_t* out) {
  const int pairs = (depth + 1) / 2;
  const auto sixteen = [](const float* p, int count) {
    return count >= 16 ? load(p) : count > 0 ? load_n(p, count) : zero();
  };
  for (int c = 0; c < cols; c += 16) {
    uint32_t* const tile = out + size_t(c / kPairCols) * size_t(pairs) * kPairCols + c % kPairCols;
    for (int k = 0; k < depth; k += 32) {
      __m512i t[16];
      for (int i = 0; i < 16; ++i) {
        const float* p = x + size_t(c + i) * stride + k;
        t[i] = c + i < cols ? __m512i(_mm512_cvtne2ps_pbh(sixteen(p + 16, depth - k - 16).v, sixteen(p, depth - k).v))
                            : _mm512_setzero_si512();
      }
      transpose(t);
      const int count = pairs - k / 2 < 16 ? pairs - k / 2 : 16;
      for (int i = 0; i < count; ++i) _mm512_storeu_si512(tile + size_t(k / 2 + i) * kPairCols, t[i]);
    }
  }
}

/// ROWS rows of A times 16·COLS columns of a tile, of which the last `lanes` of sixteen are columns of C. A function of
/// its own, with plain unrolled loops, so that the sums stay in registers.
template <int ROWS, int COLS>
[[gnu::noinline]] void bf16_tile(const Bf16Gemm& g, const uint16_t* a, const uint32_t* b, float* c, int lanes) {
  __m512 sum[ROWS][COLS];
  const __mmask16 last = lanes < 16 ? first_lanes(lanes) : __mmask16(0xffff);
  const auto mask = [&](int i) { return i == COLS - 1 ? last : __mmask16(0xffff); };
  const size_t a_stride = g.a_stride, c_stride = g.c_stride;
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < COLS; ++i) {
      sum[r][i] =
          g.accumulate ? _mm512_maskz_loadu_ps(mask(i), c + size_t(r) * c_stride + 16 * i) : _mm512_setzero_ps();
    }
  }
  for (const uint16_t* end = a + 2 * size_t(g.pairs); a < end; a += 2, b += kPairCols) {
    __m512i value[COLS];
#pragma GCC unroll 8
    for (int i = 0; i < COLS; ++i) value[i] = _mm512_loadu_si512(b + 16 * i);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      int pair;
      __builtin_memcpy(&pair, a + size_t(r) * a_stride, 4);
      const __m512bh factor = __m512bh(_mm512_set1_epi32(pair));
#pragma GCC unroll 8
      for (int i = 0; i < COLS; ++i) sum[r][i] = _mm512_dpbf16_ps(sum[r][i], factor, __m512bh(value[i]));
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < COLS; ++i) _mm512_mask_storeu_ps(c + size_t(r) * c_stride + 16 * i, mask(i), sum[r][i]);
  }
}

template <int COLS>
inline void bf16_strip(const Bf16Gemm& g, const uint32_t* b, float* c, int lanes) {
  int r = 0;
  const auto rows = [&](auto count) {
    for (; r + count <= g.rows; r += count)
      bf16_tile<count, COLS>(g, g.a + size_t(r) * g.a_stride, b, c + size_t(r) * g.c_stride, lanes);
  };
  rows(Index<6>());
  rows(Index<4>());
  rows(Index<2>());
  rows(Index<1>());
}

inline void gemm_bf16(const Bf16Gemm& g) {
  const uint32_t* b = g.b;
  for (int col = 0; col < g.cols; col += kPairCols, b += g.b_tile) {
    const int cols = g.cols - col < kPairCols ? g.cols - col : kPairCols, lanes = cols % 16 == 0 ? 16 : cols % 16;
    switch ((cols + 15) / 16) {
      case 4: bf16_strip<4>(g, b, g.c + col, lanes); break;
      case 3: bf16_strip<3>(g, b, g.c + col, lanes); break;
      case 2: bf16_strip<2>(g, b, g.c + col, lanes); break;
      default: bf16_strip<1>(g, b, g.c + col, lanes);
    }
  }
}

/// ROWS rows of A times 16·COLS columns of B. As word_tile().
template <int ROWS, int COLS, bool REST, bool AHEAD>
[[gnu::noinline]] void pair_tile(const PairGemm& g, int row, const uint32_t* b, float* c, const uint8_t* next) {
  __m512 sum[ROWS][COLS];
  const size_t a_stride = g.a_stride, b_stride = g.b_stride, c_stride = g.c_stride;
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < COLS; ++i)
      sum[r][i] = g.accumulate ? _mm512_loadu_ps(c + size_t(r) * c_stride + 16 * i) : _mm512_setzero_ps();
  }
  const uint16_t* a = g.a + size_t(row) * a_stride;
  const ptrdiff_t to_rest = REST ? g.rest - g.a : 0;
  const auto step = [&](__m512i keep) __attribute__((always_inline)) {
    __m512bh value[COLS];
#pragma GCC unroll 8
    for (int i = 0; i < COLS; ++i) value[i] = __m512bh(_mm512_and_si512(_mm512_loadu_si512(b + 16 * i), keep));
    const auto multiply = [&](const uint16_t* from) __attribute__((always_inline)) {
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) {
        int pair;
        __builtin_memcpy(&pair, from + size_t(r) * a_stride, 4);
        const __m512bh factor = __m512bh(_mm512_set1_epi32(pair));
#pragma GCC unroll 8
        for (int i = 0; i < COLS; ++i) sum[r][i] = _mm512_dpbf16_ps(sum[r][i], factor, value[i]);
      }
    };
    multiply(a);
    if constexpr (REST) multiply(a + to_rest);
  };
  const __m512i all = _mm512_set1_epi32(-1);
  for (const uint16_t* end = a + g.depth / 2 * 2; a < end; a += 2, b += b_stride) {
    if constexpr (AHEAD) {
#pragma GCC unroll 8
      for (int i = 0; i < COLS; ++i) prefetch_far(next + 64 * i);
      next += 4 * b_stride;
    }
    step(all);
  }
  if (g.depth % 2) step(_mm512_set1_epi32(0xffff));
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < COLS; ++i) _mm512_storeu_ps(c + size_t(r) * c_stride + 16 * i, sum[r][i]);
  }
}

template <int ROWS, bool REST>
inline void pair_rows(const PairGemm& g, int row, const uint8_t* next) {
  constexpr int kRoom = kGemmSums / ROWS, kCols = kRoom >= 8 ? 8 : kRoom >= 4 ? 4 : 2;
  float* const c = g.c + size_t(row) * g.c_stride;
  int col = 0;
  const auto columns = [&](auto count) {
    constexpr int kCount = decltype(count)();
    for (; col + 16 * kCount <= g.cols; col += 16 * kCount) {
      const uint32_t* const b = g.b + col;
      if (next != nullptr) {
        pair_tile<ROWS, kCount, REST, true>(g, row, b, c + col, next + 4 * size_t(col));
      } else {
        pair_tile<ROWS, kCount, REST, false>(g, row, b, c + col, nullptr);
      }
    }
  };
  columns(Index<kCols>());
  if constexpr (kCols > 4) columns(Index<4>());
  columns(Index<1>());
}

template <bool REST>
inline void pair_gemm_of(const PairGemm& g) {
  int row = 0;
  const auto rows = [&](auto count) {
    constexpr int kCount = decltype(count)();
    for (; row + kCount <= g.rows; row += kCount)
      pair_rows<kCount, REST>(g, row, static_cast<const uint8_t*>(row == 0 ? g.next : nullptr));
  };
  rows(Index<6>());
  rows(Index<4>());
  rows(Index<2>());
  rows(Index<1>());
}

inline void pair_gemm(const PairGemm& g) { g.rest != nullptr ? pair_gemm_of<true>(g) : pair_gemm_of<false>(g); }

inline void split_bf16(const float* x, int count, uint16_t* out, uint16_t* rest) {
  for (int i = 0; i < count; i += 16) {
    const __mmask16 mask = count - i >= 16 ? __mmask16(0xffff) : first_lanes(count - i);
    const __m512 value = _mm512_maskz_loadu_ps(mask, x + i);
    const __m256i high = __m256i(_mm512_cvtneps_pbh(value));
    const __m512 back = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
    _mm256_mask_storeu_epi16(out + i, mask, high);
    _mm256_mask_storeu_epi16(rest + i, mask, __m256i(_mm512_cvtneps_pbh(_mm512_sub_ps(value, back))));
  }
}

inline constexpr decltype(Kernels::pair_gemm) kPairGemm = pair_gemm;
inline constexpr decltype(Kernels::split_bf16) kSplitBf16 = split_bf16;
inline constexpr decltype(Kernels::decode_pairs) kDecodePairs = decode_pairs;
inline constexpr decltype(Kernels::transpose_pairs) kTransposePairs = transpose_pairs;
inline constexpr decltype(Kernels::gemm_bf16) kGemmBf16 = gemm_bf16;
