// Everything that is neither a matrix product nor attention: norms, activations, rotation, conversions. Included inside
// an instruction set's own namespace after its simd header.
#pragma once

/// e^x for x <= 88: two-part argument reduction and a degree-7 polynomial, within 2 units in the last place; very
/// negative x gives 0.
inline F32x16 exp16(F32x16 x) {
  const F32x16 n = round(mul(max(x, set1(-103.0f)), set1(1.44269504f)));
  const F32x16 clamped = max(x, set1(-103.0f));
  F32x16 r = fnma(n, set1(0.693359375f), clamped);
  r = fnma(n, set1(-2.12194440e-4f), r);
  F32x16 p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = fma(mul(p, r), r, add(r, set1(1.0f)));
  // 2^n in two steps, so that the exponent of each is in range down to the smallest subnormal.
  const F32x16 half = round(mul(n, set1(0.5f)));
  return scale2(scale2(p, half), fnma(half, set1(1.0f), n));
}

/// Applies `op` to sixteen lanes at a time of up to three inputs; the tail goes through partial loads.
template <class Op>
inline void map_rows(const float* a, const float* b, int count, float* y, Op op) {
  int i = 0;
  for (; i + 16 <= count; i += 16) store(y + i, op(load(a + i), load(b + i)));
  if (i < count) store_n(y + i, op(load_n(a + i, count - i), load_n(b + i, count - i)), count - i);
}

inline void rms_norm(const float* x, const float* w, float eps, int count, float* y) {
  F32x16 squares = zero();
  int i = 0;
  for (; i + 16 <= count; i += 16) {
    const F32x16 v = load(x + i);
    squares = fma(v, v, squares);
  }
  if (i < count) {
    const F32x16 v = load_n(x + i, count - i);
    squares = fma(v, v, squares);
  }
  const float inverse = 1.0f / __builtin_sqrtf(reduce_add(squares) / float(count) + eps);
  map_rows(x, w, count, y, [f = set1(inverse)](F32x16 a, F32x16 b) { return mul(mul(a, f), b); });
}

inline void add_rows(float* x, const float* delta, int count) {
  map_rows(x, delta, count, x, [](F32x16 a, F32x16 b) { return add(a, b); });
}

inline void add_scaled(float* x, const float* delta, float factor, int count) {
  map_rows(x, delta, count, x, [f = set1(factor)](F32x16 a, F32x16 b) { return fma(f, b, a); });
}

inline void scale_row(float* x, float factor, int count) {
  map_rows(x, x, count, x, [f = set1(factor)](F32x16 a, F32x16) { return mul(a, f); });
}

inline void multiply(float* x, const float* factors, int count) {
  map_rows(x, factors, count, x, [](F32x16 a, F32x16 b) { return mul(a, b); });
}

inline constexpr float kGelu = 1.59576912f, kGeluCube = 0.0713548163f;  // 2·sqrt(2/π), and that times 0.044715

/// x·sigmoid(v). e^-|v| never overflows: that is x/(1 + e) for v >= 0 and x·e/(1 + e) below; x has the sign of v.
BB_INLINE F32x16 gated16(F32x16 x, F32x16 v) {
  const F32x16 e = exp16(mul(abs(v), set1(-1.0f)));
  const F32x16 d = div(set1(1.0f), add(set1(1.0f), e));
  const F32x16 positive = mul(max(x, zero()), d), negative = mul(mul(min(x, zero()), e), d);
  return add(positive, negative);
}

BB_INLINE F32x16 silu16(F32x16 x) { return gated16(x, x); }

inline void silu_mul(const float* gate, const float* up, int count, float* y) {
  map_rows(gate, up, count, y, [](F32x16 g, F32x16 u) { return mul(silu16(g), u); });
}

/// As silu, of 2·sqrt(2/π)·(x + 0.044715x³) in place of x.
inline void gelu_mul(const float* gate, const float* up, int count, float* y) {
  map_rows(gate, up, count, y,
           [](F32x16 g, F32x16 u) { return mul(gated16(g, mul(g, fma(mul(g, g), set1(kGeluCube), set1(kGelu)))), u); });
}

/// Below zero, sigmoid is e^g/(1 + e^g), above it 1/(1 + e^-g): whichever exponential is at most one.
inline void sigmoid_mul(const float* gate, const float* up, int count, float* y) {
  map_rows(gate, up, count, y, [](F32x16 g, F32x16 u) {
    const F32x16 e = exp16(mul(abs(g), set1(-1.0f)));
    const F32x16 above = exp16(min(g, zero()));  // 1 where g >= 0
    return mul(div(above, add(set1(1.0f), e)), u);
  });
}

/// tanh within five units in the last place: a quotient of polynomials in x², which are 1 beyond the bounds to the last
/// bit or nearly.
inline F32x16 tanh16(F32x16 x) {
  // A NaN stays one: of two operands, one of which is that, every set gives the second or the NaN.
  const F32x16 c = min(set1(7.90531111f), max(set1(-7.90531111f), x)), z = mul(c, c);
  F32x16 p = fma(z, set1(-2.76076847742355e-16f), set1(2.00018790482477e-13f));
  p = fma(p, z, set1(-8.60467152213735e-11f));
  p = fma(p, z, set1(5.12229709037114e-08f));
  p = fma(p, z, set1(1.48572235717979e-05f));
  p = fma(p, z, set1(6.37261928875436e-04f));
  p = fma(p, z, set1(4.89352455891786e-03f));
  F32x16 q = fma(z, set1(1.19825839466702e-06f), set1(1.18534705686654e-04f));
  q = fma(q, z, set1(2.26843463243900e-03f));
  q = fma(q, z, set1(4.89352518554385e-03f));
  return div(mul(p, c), q);
}

inline void soft_cap(float* x, float scale, float cap, int count) {
  map_rows(x, x, count, x, [s = set1(scale), c = set1(cap)](F32x16 v, F32x16) { return mul(tanh16(mul(v, s)), c); });
}

inline void rotate(float* head, const float* cos, const float* sin, int half) {
  int i = 0;
  for (; i + 16 <= half; i += 16) {
    const F32x16 a = load(head + i), b = load(head + half + i), c = load(cos + i), s = load(sin + i);
    store(head + i, fnma(b, s, mul(a, c)));
    store(head + half + i, fma(a, s, mul(b, c)));
  }
  if (i < half) {
    const int n = half - i;
    const F32x16 a = load_n(head + i, n), b = load_n(head + half + i, n), c = load_n(cos + i, n),
                 s = load_n(sin + i, n);
    store_n(head + i, fnma(b, s, mul(a, c)), n);
    store_n(head + half + i, fma(a, s, mul(b, c)), n);
  }
}

inline void store_elements(const float* x, int count, Element element, void* out) {
  auto* at = static_cast<uint8_t*>(out);
  int i = 0;
  for (; i + 16 <= count; i += 16) {
    if (element == Element::f32) {
      store(reinterpret_cast<float*>(at) + i, load(x + i));
    } else if (element == Element::f16) {
      store_f16(at + 2 * i, load(x + i));
    } else {
      store_bf16(at + 2 * i, load(x + i));
    }
  }
  for (; i < count; ++i) {
    if (element == Element::f32) {
      reinterpret_cast<float*>(at)[i] = x[i];
    } else if (element == Element::f16) {
      reinterpret_cast<uint16_t*>(at)[i] = narrow_f16(x[i]);
    } else {
      narrow_bf16(x + i, 1, reinterpret_cast<uint16_t*>(at) + i);
    }
  }
}

inline void round_bf16(const float* x, int count, uint16_t* out) { store_elements(x, count, Element::bf16, out); }
