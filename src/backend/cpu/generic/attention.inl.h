// What attention is made of: softmax in parts, and products of a few query vectors with a page of cached keys or
// values, which are widened to f32 on the way. Included inside an instruction set's own namespace after
// elementwise.inl.h and its int header.
#pragma once

inline float max_scaled(const float* p, int count, float scale) {
  F32x16 best = set1(-__builtin_inff());
  int i = 0;
  for (; i + 16 <= count; i += 16) best = max(best, mul(load(p + i), set1(scale)));
  float maximum = reduce_max(best);
  for (; i < count; ++i) maximum = p[i] * scale > maximum ? p[i] * scale : maximum;
  return maximum;
}

/// e^(before - highest), where most pages leave what was highest before.
BB_INLINE float shrink_to(float before, float highest) {
  if (before == highest) return 1;
  float lanes[16];
  store(lanes, exp16(set1(before - highest)));
  return lanes[0];
}

inline float softmax_part(float* p, int count, float scale, float maximum) {
  const F32x16 f = set1(scale), h = set1(-maximum);
  F32x16 sum = zero();
  int i = 0;
  for (; i + 16 <= count; i += 16) {
    const F32x16 e = exp16(fma(load(p + i), f, h));
    store(p + i, e);
    sum = add(sum, e);
  }
  if (i < count) {
    store_n(p + i, exp16(fma(load_n(p + i, count - i), f, h)), count - i);
    sum = add(sum, load_n(p + i, count - i));
  }
  return reduce_add(sum);
}

/// A whole page stays in registers from its scores to its weights.
template <int COUNT>
BB_INLINE float page_softmax_whole(const PageSoftmax& s) {
  const F32x16 scale = set1(s.scale);
  F32x16 x[COUNT], best = set1(-__builtin_inff());
#pragma GCC unroll 8
  for (int i = 0; i < COUNT; ++i) {
    x[i] = load(s.scores + 16 * i);
    best = max(best, mul(x[i], scale));
  }
  const float before = *s.highest, found = reduce_max(best), highest = found > before ? found : before;
  const F32x16 top = set1(-highest);
  F32x16 sum = zero();
#pragma GCC unroll 8
  for (int i = 0; i < COUNT; ++i) {
    const F32x16 e = exp16(fma(x[i], scale, top));
    sum = add(sum, e);
    store(s.scores + 16 * i, e);
  }
  const float keep = shrink_to(before, highest);
  *s.total = *s.total * keep + reduce_add(sum);
  *s.highest = highest;
  return keep;
}

inline float page_softmax(const PageSoftmax& s) {
  if (s.low == 0 && s.high == 64 && s.count == 64) return page_softmax_whole<4>(s);
  float* const p = s.scores;
  for (int i = 0; i < s.low; ++i) p[i] = 0;
  for (int i = s.high; i < s.count; ++i) p[i] = 0;
  const int seen = s.high - s.low;
  if (seen == 0) return 1;
  const float before = *s.highest, found = max_scaled(p + s.low, seen, s.scale),
              highest = found > before ? found : before, keep = shrink_to(before, highest);
  *s.total = *s.total * keep + softmax_part(p + s.low, seen, s.scale, highest);
  *s.highest = highest;
  return keep;
}

/// Sixteen elements of a cached row; i8 without its scale.
template <Element ELEMENT>
BB_INLINE F32x16 load_cached(const uint8_t* p) {
  if constexpr (ELEMENT == Element::f32) return load(reinterpret_cast<const float*>(p));
  if constexpr (ELEMENT == Element::f16) return load_f16(p);
  if constexpr (ELEMENT == Element::bf16) return load_bf16(p);
  return load_i8(p);
}
template <Element ELEMENT>
inline constexpr size_t kCachedBytes = ELEMENT == Element::f32  ? 4
                                       : ELEMENT == Element::i8 ? 1
                                                                : 2;

/// ROWS rows of A times 16·COLS columns of B; with AHEAD, `next` is prefetched as b is read. A function of its own,
/// with plain unrolled loops, so that the sums stay in registers.
template <Element ELEMENT, int ROWS, int COLS, bool AHEAD>
[[gnu::noinline]] void gemm_tile(const SmallGemm& g, const float* a, const uint8_t* b, float* c, const uint8_t* next) {
  F32x16 acc[ROWS][COLS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < COLS; ++i) acc[r][i] = g.accumulate ? load(c + size_t(r) * g.c_stride + 16 * i) : zero();
  }
  const size_t b_step = g.b_stride * kCachedBytes<ELEMENT>, a_stride = g.a_stride;
  for (const float* end = a + g.depth; a < end; ++a, b += b_step) {
    if constexpr (AHEAD) {
#pragma GCC unroll 8
      for (int i = 0; i < 16 * COLS * int(kCachedBytes<ELEMENT>); i += 64) prefetch_far(next + i);
      next += b_step;
    }
    F32x16 value[COLS];
#pragma GCC unroll 8
    for (int i = 0; i < COLS; ++i) value[i] = load_cached<ELEMENT>(b + size_t(16 * i) * kCachedBytes<ELEMENT>);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const F32x16 factor = set1(a[size_t(r) * a_stride]);
#pragma GCC unroll 8
      for (int i = 0; i < COLS; ++i) acc[r][i] = fma(factor, value[i], acc[r][i]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < COLS; ++i) store(c + size_t(r) * g.c_stride + 16 * i, acc[r][i]);
  }
}

/// ROWS rows of A times `cols` columns, a multiple of 16. `next` may be null.
template <Element ELEMENT, int ROWS>
inline void gemm_rows(const SmallGemm& g, const float* a, const uint8_t* b, float* c, int cols, const uint8_t* next) {
  constexpr int kRoom = kGemmSums / ROWS, kCols = kRoom >= 8 ? 8 : kRoom >= 4 ? 4 : kRoom >= 2 ? 2 : 1;
  int col = 0;
  const auto columns = [&](auto count) {
    constexpr int kCount = decltype(count)();
    for (; col + 16 * kCount <= cols; col += 16 * kCount) {
      const size_t at = size_t(col) * kCachedBytes<ELEMENT>;
      if (next != nullptr) {
        gemm_tile<ELEMENT, ROWS, kCount, true>(g, a, b + at, c + col, next + at);
      } else {
        gemm_tile<ELEMENT, ROWS, kCount, false>(g, a, b + at, c + col, nullptr);
      }
    }
  };
  columns(Index<kCols>());
  if constexpr (kCols > 4) columns(Index<4>());
  if constexpr (kCols > 1) columns(Index<1>());
}

template <Element ELEMENT>
inline void gemm_columns(const SmallGemm& g, const uint8_t* b, float* c, int cols) {
  int r = 0;
  const auto rows = [&](auto count) {
    constexpr int kCount = decltype(count)();
    for (; r + kCount <= g.rows; r += kCount) {
      const auto* next = static_cast<const uint8_t*>(r == 0 ? g.next : nullptr);
      gemm_rows<ELEMENT, kCount>(g, g.a + size_t(r) * g.a_stride, b, c + size_t(r) * g.c_stride, cols, next);
    }
  };
  rows(Index<kGemmRows>());
  if constexpr (kGemmRows > 4) rows(Index<4>());
  if constexpr (kGemmRows > 2) rows(Index<2>());
  if constexpr (kGemmRows > 1) rows(Index<1>());
}

inline constexpr int kWidenDepth = 256, kWidenCols = 16 * (kGemmSums / kGemmRows);

template <Element ELEMENT>
inline void small_gemm_of(const SmallGemm& g) {
  const auto* b = static_cast<const uint8_t*>(g.b);
  const int whole = g.cols / 16 * 16;
  int col = 0;
  if constexpr (ELEMENT != Element::f32) {
    if (g.rows >= 2 * kGemmRows && g.depth <= kWidenDepth) {  // columns are widened once for all rows
      alignas(64) float wide[size_t(kWidenDepth) * kWidenCols];
      SmallGemm strip = g;
      strip.b_stride = kWidenCols;
      strip.next = nullptr;
      for (; col < whole; col += kWidenCols) {
        const int cols = whole - col < kWidenCols ? whole - col : kWidenCols;
        const uint8_t* from = b + size_t(col) * kCachedBytes<ELEMENT>;
        for (int k = 0; k < g.depth; ++k, from += g.b_stride * kCachedBytes<ELEMENT>) {
          for (int i = 0; i < cols; i += 16)
            store(wide + k * kWidenCols + i, load_cached<ELEMENT>(from + size_t(i) * kCachedBytes<ELEMENT>));
        }
        gemm_columns<Element::f32>(strip, reinterpret_cast<const uint8_t*>(wide), g.c + col, cols);
      }
    }
  }
  if (col < whole) gemm_columns<ELEMENT>(g, b, g.c, whole);
  for (col = whole; col < g.cols; ++col) {  // the same chain of additions over k as a lane above
    for (int r = 0; r < g.rows; ++r) {
      float* c = g.c + size_t(r) * g.c_stride + col;
      float sum = g.accumulate ? *c : 0.0f;
      for (int k = 0; k < g.depth; ++k) {
        const float value = load_element(b + size_t(k) * g.b_stride * kCachedBytes<ELEMENT>, ELEMENT, size_t(col));
        sum += g.a[size_t(r) * g.a_stride + size_t(k)] * value;
      }
      *c = sum;
    }
  }
}

inline void small_gemm(const SmallGemm& g) {
  switch (g.element) {
    case Element::f32: return small_gemm_of<Element::f32>(g);
    case Element::f16: return small_gemm_of<Element::f16>(g);
    case Element::bf16: return small_gemm_of<Element::bf16>(g);
    default: return small_gemm_of<Element::i8>(g);
  }
}

template <Element ELEMENT>
inline void widen_of(const uint8_t* x, int count, float* out) {
  int i = 0;
  for (; i + 16 <= count; i += 16) store(out + i, load_cached<ELEMENT>(x + size_t(i) * kCachedBytes<ELEMENT>));
  for (; i < count; ++i) out[i] = load_element(x, ELEMENT, size_t(i));
}

inline void widen(const void* x, int count, Element element, float* out) {
  const auto* at = static_cast<const uint8_t*>(x);
  switch (element) {
    case Element::f32: return widen_of<Element::f32>(at, count, out);
    case Element::f16: return widen_of<Element::f16>(at, count, out);
    case Element::bf16: return widen_of<Element::bf16>(at, count, out);
    default: return widen_of<Element::i8>(at, count, out);
  }
}

/// The largest magnitude of what becomes whole numbers, and whether all of it was finite: a maximum forgets what is not
/// a number, and its code would be any number.
struct Largest {
  F32x16 magnitude = zero(), lost = zero();
  BB_INLINE void see(F32x16 x) {
    magnitude = max(magnitude, abs(x));
    lost = fma(x, zero(), lost);
  }
  float largest() const { return reduce_max(magnitude); }
  /// Of codes up to `most`; not a number where something was not finite.
  float step(float most) const { return largest() / most + reduce_add(lost); }
};

inline float store_i8(const float* x, int count, int8_t* out) {
  Largest found;
  int i = 0;
  for (; i + 16 <= count; i += 16) found.see(load(x + i));
  if (i < count) found.see(load_n(x + i, count - i));
  const float largest = found.largest();
  const F32x16 inverse = set1(largest > 0 ? 127.0f / largest : 0.0f);
  for (i = 0; i + 16 <= count; i += 16) store_int8(out + i, mul(load(x + i), inverse));
  if (i < count) {
    int8_t t[16];
    store_int8(t, mul(load_n(x + i, count - i), inverse));
    __builtin_memcpy(out + i, t, size_t(count - i));
  }
  return found.step(127.0f);
}
