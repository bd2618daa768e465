// Derivatives that work row by row, and the mask of dropout. Included inside an instruction set's own namespace after
// elementwise.inl.h and its int header.
#pragma once

inline float dot(const float* x, const float* y, int count) {
  F32x16 sum = zero();
  int i = 0;
  for (; i + 16 <= count; i += 16) sum = fma(load(x + i), load(y + i), sum);
  if (i < count) sum = fma(load_n(x + i, count - i), load_n(y + i, count - i), sum);
  return reduce_add(sum);
}

inline void multiply_add(float* y, const float* a, const float* b, int count) {
  int i = 0;
  for (; i + 16 <= count; i += 16) store(y + i, fma(load(a + i), load(b + i), load(y + i)));
  if (i < count) {
    const int n = count - i;
    store_n(y + i, fma(load_n(a + i, n), load_n(b + i, n), load_n(y + i, n)), n);
  }
}

inline void transpose_rows(const float* x, size_t stride, int rows, int cols, float* out, size_t out_stride) {
  for (int r = 0; r < rows; r += 16) {
    for (int c = 0; c < cols; c += 16) {
      const float* from = x + size_t(r) * stride + size_t(c);
      float* to = out + size_t(c) * out_stride + size_t(r);
      if (rows - r >= 16 && cols - c >= 16) {
        I32x16 t[16];
        for (int i = 0; i < 16; ++i) t[i] = load_int(from + size_t(i) * stride);
        transpose(t);
        for (int i = 0; i < 16; ++i) store_int(to + size_t(i) * out_stride, t[i]);
        continue;
      }
      for (int i = 0; i < 16 && r + i < rows; ++i) {
        for (int j = 0; j < 16 && c + j < cols; ++j)
          to[size_t(j) * out_stride + size_t(i)] = from[size_t(i) * stride + size_t(j)];
      }
    }
  }
}

/// With r = 1/sqrt(mean(x²) + eps): r·w∘dy - x·r³·mean(w∘dy∘x).
inline void rms_norm_dx(const float* dy, const float* x, const float* w, float eps, int count, float* dx) {
  F32x16 squares = zero(), mixed = zero();
  const auto sum = [&](F32x16 d, F32x16 v, F32x16 f) {
    squares = fma(v, v, squares);
    mixed = fma(mul(f, d), v, mixed);
  };
  int i = 0;
  for (; i + 16 <= count; i += 16) sum(load(dy + i), load(x + i), load(w + i));
  if (const int n = count - i; n > 0) sum(load_n(dy + i, n), load_n(x + i, n), load_n(w + i, n));
  const float inverse = 1.0f / __builtin_sqrtf(reduce_add(squares) / float(count) + eps);
  const F32x16 r = set1(inverse), back = set1(inverse * inverse * (reduce_add(mixed) / float(count)));
  const auto value = [&](F32x16 d, F32x16 v, F32x16 f) { return mul(fnma(v, back, mul(f, d)), r); };
  for (i = 0; i + 16 <= count; i += 16) store(dx + i, value(load(dy + i), load(x + i), load(w + i)));
  if (const int n = count - i; n > 0) store_n(dx + i, value(load_n(dy + i, n), load_n(x + i, n), load_n(w + i, n)), n);
}

/// sigmoid(v) and 1 - sigmoid(v). e^-|v| gives both without a difference.
struct Sigmoids {
  F32x16 s, rest;
};
BB_INLINE Sigmoids sigmoids16(F32x16 v) {
  const F32x16 one = set1(1.0f), half = set1(0.5f);
  const F32x16 e = exp16(mul(abs(v), set1(-1.0f))), large = div(one, add(one, e)), small = mul(e, large);
  const F32x16 sign = min(max(mul(v, set1(0x1p126f)), set1(-1.0f)), one);
  const F32x16 up = fma(sign, half, half), down = fnma(sign, half, half);  // one of them is 1, or both 1/2
  return {fma(up, large, mul(down, small)), fma(up, small, mul(down, large))};
}

/// Calls op(dy, gate, up, by_gate, by_up) for sixteen elements at a time and stores the last two.
template <class Op>
inline void map_slopes(const float* dy, const float* gate, const float* up, int count, float* dgate, float* dup,
                       Op op) {
  F32x16 a, b;
  int i = 0;
  for (; i + 16 <= count; i += 16) {
    op(load(dy + i), load(gate + i), load(up + i), a, b);
    store(dgate + i, a);
    store(dup + i, b);
  }
  if (const int n = count - i; n > 0) {
    op(load_n(dy + i, n), load_n(gate + i, n), load_n(up + i, n), a, b);
    store_n(dgate + i, a, n);
    store_n(dup + i, b, n);
  }
}

/// d x·sigmoid(v) = s·(1 + x·(1 - s)·dv) with s = sigmoid(v), v as in gated_mul.
template <bool GELU>
inline void gated_mul_dx(const float* dy, const float* gate, const float* up, int count, float* dgate, float* dup) {
  map_slopes(dy, gate, up, count, dgate, dup, [](F32x16 d, F32x16 g, F32x16 u, F32x16& by_gate, F32x16& by_up) {
    F32x16 v = g, steep = g;  // v and x·dv
    if constexpr (GELU) {
      const F32x16 x = min(max(g, set1(-1e4f)), set1(1e4f)), square = mul(x, x);
      v = mul(x, fma(square, set1(kGeluCube), set1(kGelu)));
      steep = mul(x, fma(square, set1(3 * kGeluCube), set1(kGelu)));
    }
    const Sigmoids of = sigmoids16(v);
    by_gate = mul(mul(d, u), mul(of.s, fma(steep, of.rest, set1(1.0f))));
    by_up = mul(d, mul(g, of.s));
  });
}

inline void sigmoid_mul_dx(const float* dy, const float* gate, const float* up, int count, float* dgate, float* dup) {
  map_slopes(dy, gate, up, count, dgate, dup, [](F32x16 d, F32x16 g, F32x16 u, F32x16& by_gate, F32x16& by_up) {
    const Sigmoids of = sigmoids16(g);
    by_gate = mul(mul(d, u), mul(of.s, of.rest));
    by_up = mul(d, of.s);
  });
}

/// 1 where x <= limit, 0 beyond: neighbouring numbers differ by far more than 1e-30.
BB_INLINE F32x16 within16(F32x16 x, F32x16 limit) {
  const F32x16 room = fnma(x, set1(1.0f), limit);
  return max(min(fma(room, set1(1e30f), set1(1.0f)), set1(1.0f)), zero());
}

inline void clamped_silu_mul_dx(const float* dy, const float* gate, const float* up, float limit, float slope,
                                int count, float* dgate, float* dup) {
  const F32x16 most = set1(limit), least = set1(-limit), steep = set1(slope), one = set1(1.0f);
  map_slopes(dy, gate, up, count, dgate, dup,
             [=](F32x16 d, F32x16 gate_value, F32x16 up_value, F32x16& by_gate, F32x16& by_up) {
               const F32x16 g = min(gate_value, most), u = add(max(min(up_value, most), least), one);
               const F32x16 x = max(mul(g, steep), set1(-1e4f));  // sigmoid is zero long before
               const Sigmoids of = sigmoids16(x);
               by_gate = mul(mul(mul(d, u), mul(of.s, fma(x, of.rest, one))), within16(gate_value, most));
               by_up = mul(mul(d, mul(g, of.s)), within16(abs(up_value), most));
             });
}

inline void soft_cap_dx(float* d, const float* y, float scale, int count) {
  map_rows(d, y, count, d, [s = set1(scale)](F32x16 slope, F32x16 value) {
    const F32x16 t = mul(value, s);
    return mul(slope, fnma(t, t, set1(1.0f)));
  });
}

inline void convolve_slope(const float* const* x, const float* w, size_t w_stride, int kernel, int count,
                           const float* dy, float* d) {
  for (int i = 0; i < count; i += 16) {
    const int n = count - i < 16 ? count - i : 16;
    F32x16 sum = zero();
    for (int j = 0; j < kernel; ++j) sum = fma(load_n(w + size_t(j) * w_stride + i, n), load_n(x[j] + i, n), sum);
    const Sigmoids of = sigmoids16(sum);
    store_n(d + i, mul(load_n(dy + i, n), mul(of.s, fma(sum, of.rest, set1(1.0f)))), n);
  }
}

inline void delta_step(const DeltaStep& d) {
  const F32x16 decay = set1(d.decay), beta = set1(d.beta);
  for (int c = 0; c < d.cols; c += 16) {
    F32x16 known = zero();
    for (int i = 0; i < d.key_dim; ++i) known = fma(set1(d.k[i]), load(d.from + size_t(i) * size_t(d.cols) + c), known);
    const F32x16 missing = fnma(decay, known, load(d.v + c)), learnt = mul(beta, missing);
    store(d.missing + c, missing);
    for (int i = 0; i < d.key_dim; ++i) {
      const size_t at = size_t(i) * size_t(d.cols) + c;
      store(d.to + at, fma(set1(d.k[i]), learnt, mul(decay, load(d.from + at))));
    }
  }
}

/// With S the state that was found, T the one that was made and learnt = beta·missing: dT += q·doutᵀ, dlearnt = dTᵀk,
/// dv = beta·dlearnt, dS' = dT - k·dvᵀ, dS = decay·dS'; dq = T·dout, dk = dT·learnt - decay·S·dv.
inline DeltaGates delta_step_dx(const DeltaStepDx& d) {
  const F32x16 decay = set1(d.decay), beta = set1(d.beta);
  F32x16 by_beta = zero(), by_decay = zero(), meet = zero();
  for (int c = 0; c < d.cols; c += 16) {
    const F32x16 dout = load(d.dout + c), missing = load(d.missing + c);
    F32x16 dlearnt = zero();
    for (int i = 0; i < d.key_dim; ++i) {
      float* const at = d.dstate + size_t(i) * size_t(d.cols) + c;
      const F32x16 t = fma(set1(d.q[i]), dout, load(at));
      store(at, t);
      dlearnt = fma(set1(d.k[i]), t, dlearnt);
    }
    by_beta = fma(dlearnt, missing, by_beta);
    meet = fma(mul(beta, missing), dout, meet);
    store(d.dv + c, mul(beta, dlearnt));
  }
  const float met = reduce_add(meet);
  for (int i = 0; i < d.key_dim; ++i) {
    const F32x16 key = set1(d.k[i]);
    F32x16 by_q = zero(), by_k = zero();
    for (int c = 0; c < d.cols; c += 16) {
      float* const at = d.dstate + size_t(i) * size_t(d.cols) + c;
      const F32x16 s = load(d.from + size_t(i) * size_t(d.cols) + c), t = load(at), dv = load(d.dv + c);
      by_q = fma(s, load(d.dout + c), by_q);
      by_k = fma(t, mul(beta, load(d.missing + c)), by_k);
      by_k = fnma(mul(decay, s), dv, by_k);
      const F32x16 found = fnma(key, dv, t);
      by_decay = fma(found, s, by_decay);
      store(at, mul(decay, found));
    }
    d.dq[i] = d.decay * reduce_add(by_q) + d.k[i] * met;
    d.dk[i] = reduce_add(by_k);
  }
  return {reduce_add(by_decay), reduce_add(by_beta)};
}

inline void softmax_dx(float* s, float* dp, const float* lse, const float* mean, float scale, int count) {
  const F32x16 f = set1(scale);
  const auto probability = [&](F32x16 score, F32x16 l) { return exp16(fma(score, f, mul(l, set1(-1.0f)))); };
  const auto slope = [&](F32x16 p, F32x16 d, F32x16 m) { return mul(mul(p, f), fma(m, set1(-1.0f), d)); };
  int i = 0;
  for (; i + 16 <= count; i += 16) {
    const F32x16 p = probability(load(s + i), load(lse + i));
    store(dp + i, slope(p, load(dp + i), load(mean + i)));
    store(s + i, p);
  }
  if (i < count) {
    const int n = count - i;
    const F32x16 p = probability(load_n(s + i, n), load_n(lse + i, n));
    store_n(dp + i, slope(p, load_n(dp + i, n), load_n(mean + i, n)), n);
    store_n(s + i, p, n);
  }
}

/// Counters of Philox 4x32-10 (base/rng.h) side by side, in loops that the compiler turns into vectors.
inline constexpr int kCounters = 64;
struct Words {
  uint32_t of[4][kCounters];
};

[[gnu::noinline]] inline void philox(uint64_t key, uint64_t counter, uint64_t counter_high, Words& words) {
  uint32_t *const w0 = words.of[0], *const w1 = words.of[1], *const w2 = words.of[2], *const w3 = words.of[3];
  for (int i = 0; i < kCounters; ++i) {
    w0[i] = uint32_t(counter + uint64_t(i));
    w1[i] = uint32_t((counter + uint64_t(i)) >> 32);
    w2[i] = uint32_t(counter_high);
    w3[i] = uint32_t(counter_high >> 32);
  }
  uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
  for (int round = 0; round < 10; ++round) {
#pragma GCC ivdep
    for (int i = 0; i < kCounters; ++i) {
      const uint64_t p0 = uint64_t{0xD2511F53u} * w0[i], p1 = uint64_t{0xCD9E8D57u} * w2[i];
      w0[i] = uint32_t(p1 >> 32) ^ w1[i] ^ k0;
      w1[i] = uint32_t(p1);
      w2[i] = uint32_t(p0 >> 32) ^ w3[i] ^ k1;
      w3[i] = uint32_t(p0);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

inline void dropout(const DropoutMask& mask, const float* x, uint64_t first, uint64_t last, float* y) {
  constexpr uint64_t kElements = uint64_t{8} * kCounters;
  for (uint64_t at = first; at < last; at += kElements) {
    Words words;
    philox(mask.key, at / 8, mask.counter_high, words);
    for (uint64_t e = 0; e < kElements && at + e < last; e += 16) {
      const uint32_t* word = words.of[e % 128 / 32] + e / 128 * 16;
      const uint32_t shift = e % 32 == 0 ? 0 : 16;
      float factor[16];
      for (int i = 0; i < 16; ++i) factor[i] = (word[i] >> shift & 0xffffu) >= mask.threshold ? mask.scale : 0.0f;
      const uint64_t left = last - at - e;
      if (left >= 16) {
        store(y + at + e, mul(load(x + at + e), load(factor)));
      } else {
        store_n(y + at + e, mul(load_n(x + at + e, int(left)), load(factor)), int(left));
      }
    }
  }
}
