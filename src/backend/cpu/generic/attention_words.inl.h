// Products of queries, or of probabilities, rounded to 16 bits with a page of int8 keys or values: whole numbers, so
// that no order of their sums matters and nothing is widened to f32. Included after attention.inl.h.
#pragma once

/// ROWS rows of A times 16·COLS columns of B; with AHEAD, `next` is prefetched as b is read. As gemm_tile().
template <int ROWS, int COLS, bool AHEAD>
[[gnu::noinline]] void word_tile(const WordGemm& g, int row, const int8_t* b, float* c, const uint8_t* next) {
  I32x16 acc[ROWS][COLS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < COLS; ++i) acc[r][i] = int_zero();
  }
  const size_t a_stride = g.a_stride, b_step = 2 * g.b_stride;
  const int16_t* a = g.a + size_t(row) * a_stride;
  for (const int16_t* end = a + 2 * g.pairs; a < end; a += 2, b += b_step) {
    if constexpr (AHEAD) {
#pragma GCC unroll 8
      for (int i = 0; i < 32 * COLS; i += 64) prefetch_far(next + i);
      next += b_step;
    }
    I32x16 value[COLS];
#pragma GCC unroll 8
    for (int i = 0; i < COLS; ++i) value[i] = widen_words(b + 32 * i);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      int pair;
      __builtin_memcpy(&pair, a + size_t(r) * a_stride, 4);
      const I32x16 factor = int_set1(pair);
#pragma GCC unroll 8
      for (int i = 0; i < COLS; ++i) acc[r][i] = dot_words(acc[r][i], factor, value[i]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
    const F32x16 scale = set1(g.scale[row + r]);
    float* out = c + size_t(r) * g.c_stride;
#pragma GCC unroll 8
    for (int i = 0; i < COLS; ++i) {
      const F32x16 product = mul(to_float(acc[r][i]), scale);
      store(out + 16 * i, g.keep ? fma(load(out + 16 * i), set1(g.keep[row + r]), product) : product);
    }
  }
}

/// ROWS rows of A times all whole sixteens of columns. `next` may be null.
template <int ROWS>
inline void word_rows(const WordGemm& g, int row, const uint8_t* next) {
  constexpr int kRoom = kGemmSums / ROWS, kCols = kRoom >= 8 ? 8 : kRoom >= 4 ? 4 : kRoom >= 2 ? 2 : 1;
  float* const c = g.c + size_t(row) * g.c_stride;
  int col = 0;
  const auto columns = [&](auto count) {
    constexpr int kCount = decltype(count)();
    for (; col + 16 * kCount <= g.cols; col += 16 * kCount) {
      const int8_t* const b = g.b + 2 * size_t(col);
      if (next != nullptr) {
        word_tile<ROWS, kCount, true>(g, row, b, c + col, next + 2 * size_t(col));
      } else {
        word_tile<ROWS, kCount, false>(g, row, b, c + col, nullptr);
      }
    }
  };
  columns(Index<kCols>());
  if constexpr (kCols > 4) columns(Index<4>());
  if constexpr (kCols > 1) columns(Index<1>());
}

inline void word_gemm(const WordGemm& g) {
  int row = 0;
  const auto rows = [&](auto count) {
    constexpr int kCount = decltype(count)();
    for (; row + kCount <= g.rows; row += kCount)
      word_rows<kCount>(g, row, static_cast<const uint8_t*>(row == 0 ? g.next : nullptr));
  };
  rows(Index<kGemmRows>());
  if constexpr (kGemmRows > 4) rows(Index<4>());
  if constexpr (kGemmRows > 2) rows(Index<2>());
  if constexpr (kGemmRows > 1) rows(Index<1>());
  for (int col = g.cols / 16 * 16; col < g.cols; ++col) {
    for (int r = 0; r < g.rows; ++r) {
      const int16_t* a = g.a + size_t(r) * g.a_stride;
      const int8_t* b = g.b + 2 * size_t(col);
      int sum = 0;
      for (int k = 0; k < g.pairs; ++k, a += 2, b += 2 * g.b_stride) sum += a[0] * b[0] + a[1] * b[1];
      float& out = g.c[size_t(r) * g.c_stride + size_t(col)];
      const float product = float(sum) * g.scale[r];
      out = g.keep ? __builtin_fmaf(out, g.keep[r], product) : product;
    }
  }
}

/// What is added to a number below 2^22 leaves it as a whole number, to nearest even, in the sum's low bits.
inline constexpr float kToWords = 12582912.0f;

/// Sixteen words, x·inverse to nearest even.
BB_INLINE void put_words(F32x16 x, F32x16 inverse, int16_t* out) {
  store_low_words(out, as_int(add(mul(x, inverse), set1(kToWords))));
}

inline float inverse_step(float largest) { return largest > 0 ? 32767.0f / largest : 0.0f; }

inline float store_words(const float* x, int count, int16_t* out) {
  Largest found;
  int i = 0;
  for (; i + 16 <= count; i += 16) found.see(load(x + i));
  if (i < count) found.see(load_n(x + i, count - i));
  const F32x16 inverse = set1(inverse_step(found.largest()));
  for (i = 0; i + 16 <= count; i += 16) put_words(load(x + i), inverse, out + i);
  if (i < count) {
    int16_t t[16];
    put_words(load_n(x + i, count - i), inverse, t);
    __builtin_memcpy(out + i, t, 2 * size_t(count - i));
  }
  return found.step(32767.0f);
}

/// A whole page stays in registers from its scores to its weights.
template <int COUNT>
BB_INLINE WordWeights word_softmax_whole(const WordSoftmax& s) {
  const F32x16 scale = set1(s.scale);
  F32x16 x[COUNT], best = set1(-__builtin_inff());
#pragma GCC unroll 8
  for (int i = 0; i < COUNT; ++i) {
    x[i] = mul(mul(load(s.scores + 16 * i), load(s.key_scales + 16 * i)), scale);
    best = max(best, x[i]);
  }
  const float before = *s.highest, found = reduce_max(best), highest = found > before ? found : before;
  const F32x16 top = set1(-highest);
  F32x16 sum = zero();
  Largest most;
#pragma GCC unroll 8
  for (int i = 0; i < COUNT; ++i) {
    const F32x16 e = exp16(add(x[i], top));
    sum = add(sum, e);
    x[i] = mul(e, load(s.value_scales + 16 * i));
    most.see(x[i]);
  }
  const F32x16 inverse = set1(inverse_step(most.largest()));
#pragma GCC unroll 8
  for (int i = 0; i < COUNT; ++i) put_words(x[i], inverse, s.weights + 16 * i);
  const float keep = shrink_to(before, highest);
  *s.total = *s.total * keep + reduce_add(sum);
  *s.highest = highest;
  return {most.step(32767.0f), keep};
}

/// Scores outside of what is visible are minus infinity for this, and their weights zero, whatever scales a page has
/// there from those who had it before.
inline WordWeights word_softmax(const WordSoftmax& s) {
  if (s.low == 0 && s.high == 64 && s.count == 64 && s.soft_cap == 0) return word_softmax_whole<4>(s);
  float* const p = s.scores;
  const F32x16 scale = set1(s.soft_cap > 0 ? s.scale / s.soft_cap : s.scale), cap = set1(s.soft_cap);
  F32x16 best = set1(-__builtin_inff());
  for (int i = 0; i < s.count; i += 16) {
    F32x16 score = mul(mul(load(p + i), load(s.key_scales + i)), scale);
    if (s.soft_cap > 0) score = mul(tanh16(score), cap);
    store(p + i, score);
  }
  for (int i = 0; i < s.low; ++i) p[i] = -__builtin_inff();
  for (int i = s.high; i < s.count; ++i) p[i] = -__builtin_inff();
  for (int i = 0; i < s.count; i += 16) best = max(best, load(p + i));
  const float before = *s.highest, found = reduce_max(best), highest = found > before ? found : before;
  const F32x16 top = set1(-highest);
  F32x16 sum = zero();
  for (int i = 0; i < s.count; i += 16) {
    const F32x16 e = exp16(add(load(p + i), top));
    sum = add(sum, e);
    store(p + i, mul(e, load(s.value_scales + i)));
  }
  for (int i = 0; i < s.low; ++i) p[i] = 0;
  for (int i = s.high; i < s.count; ++i) p[i] = 0;
  Largest most;
  for (int i = 0; i < s.count; i += 16) most.see(load(p + i));
  const F32x16 inverse = set1(inverse_step(most.largest()));
  for (int i = 0; i < s.count; i += 16) put_words(load(p + i), inverse, s.weights + i);
  const float keep = shrink_to(before, highest);
  *s.total = *s.total * keep + reduce_add(sum);
  *s.highest = highest;
  return {most.step(32767.0f), keep};
}
