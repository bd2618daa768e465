// Fast mode: activations rounded to int8 in groups of 32, integer sums inside a group. With x ≈ s·v, a group of a row
// gives Σ (q·scale + bias)·x ≈ s·(scale·Σ q·v + bias·Σ v). Included inside an instruction set's own namespace; the simd
// header defines
//   Codes32 load_codes32<BITS>(p), DotLanes dot_add(acc, codes, v, factor): acc + factor·(lanes whose sum is Σ q·v over
//   32 elements).
#pragma once

inline void quantize_row(const float* x, int count, int8_t* values, float* scales, float* sums) {
  for (int g = 0; g * kQuantGroup < count; ++g) {
    const float* p = x + g * kQuantGroup;
    const int n = count - g * kQuantGroup < kQuantGroup ? count - g * kQuantGroup : kQuantGroup;
    float highest = 0;
    for (int i = 0; i < n; ++i) highest = __builtin_fabsf(p[i]) > highest ? __builtin_fabsf(p[i]) : highest;
    const float scale = highest / 127.0f, inverse = highest > 0 ? 127.0f / highest : 0.0f;
    int sum = 0;
    for (int i = 0; i < n; ++i) {
      const int v = int(__builtin_rintf(p[i] * inverse));
      values[g * kQuantGroup + i] = int8_t(v);
      sum += v;
    }
    for (int i = n; i < kQuantGroup; ++i) values[g * kQuantGroup + i] = 0;
    scales[g] = scale;
    sums[g] = scale * float(sum);
  }
}

/// Scales and biases of one block of a row, repeated for every group of x.
struct Int8Block {
  float scale[kBlock / kQuantGroup], bias[kBlock / kQuantGroup];
};

inline void load_int8_block(const WeightRows& w, int n, int k0, int k1, Int8Block& s) {
  ScaleBlock stored;
  load_scale_block(w, n, k0, k1, stored);
  const int shift = w.group == 32 ? 0 : w.group == 64 ? 1 : 2;
  for (int g = 0; g < (k1 - k0) / kQuantGroup; ++g) {
    s.scale[g] = stored.scale[g >> shift];
    s.bias[g] = stored.bias[g >> shift];
  }
}

/// factor[g] = scale[g]·x_scale[g]; returns Σ bias[g]·x_sum[g].
inline float int8_factors(const Int8Block& s, const float* scales, const float* sums, int groups, float* factor) {
  F16 offset = zero();
  int g = 0;
  for (; g + 16 <= groups; g += 16) {
    store(factor + g, mul(load(s.scale + g), load(scales + g)));
    offset = fma(load(s.bias + g), load(sums + g), offset);
  }
  if (g < groups) {
    const int n = groups - g;
    store_n(factor + g, mul(load_n(s.scale + g, n), load_n(scales + g, n)), n);
    offset = fma(load_n(s.bias + g, n), load_n(sums + g, n), offset);
  }
  return reduce_add(offset);
}

template <int BITS, int ROWS>
inline void int8_matvec_rows(const WeightRows& w, int first, int last, const QuantRows& x, float* y, size_t y_stride) {
  Int8Block s;
  float factor[ROWS][kBlock / kQuantGroup];
  for (int n = first; n < last; ++n) {
    const uint8_t* codes = w.codes + size_t(n) * w.row_bytes;
    float sum[ROWS] = {};
    for (int k0 = 0; k0 < w.in; k0 += kBlock) {
      const int k1 = block_end(w.in, k0), groups = (k1 - k0) / kQuantGroup;
      load_int8_block(w, n, k0, k1, s);
      DotLanes even[ROWS], odd[ROWS];
      for (int r = 0; r < ROWS; ++r) {
        const size_t at = size_t(r) * x.group_stride + size_t(k0 / kQuantGroup);
        sum[r] += int8_factors(s, x.scales + at, x.sums + at, groups, factor[r]);
        even[r] = odd[r] = dot_zero();
      }
      const uint8_t* p = codes + size_t(k0) * BITS / 8;
      const int8_t* v = x.values + k0;
      int g = 0;
      for (; g + 2 <= groups; g += 2, p += 8 * BITS, v += 2 * kQuantGroup) {
        const Codes32 a = load_codes32<BITS>(p), b = load_codes32<BITS>(p + 4 * BITS);
        for (int r = 0; r < ROWS; ++r) {
          even[r] = dot_add(even[r], a, v + size_t(r) * x.stride, factor[r][g]);
          odd[r] = dot_add(odd[r], b, v + size_t(r) * x.stride + kQuantGroup, factor[r][g + 1]);
        }
      }
      for (int r = 0; r < ROWS && g < groups; ++r)
        even[r] = dot_add(even[r], load_codes32<BITS>(p), v + size_t(r) * x.stride, factor[r][g]);
      for (int r = 0; r < ROWS; ++r) sum[r] += dot_reduce(even[r]) + dot_reduce(odd[r]);
    }
    for (int r = 0; r < ROWS; ++r) y[size_t(r) * y_stride + size_t(n)] = sum[r];
  }
}

template <int BITS>
inline void int8_matvec_bits(const WeightRows& w, int first, int last, const QuantRows& x, int rows, float* y,
                             size_t y_stride) {
  // A few weight rows at a time stay in the first-level cache while all rows of x pass over them.
  constexpr int kSlab = 16;
  for (int n = first; n < last; n += kSlab) {
    const int end = last - n < kSlab ? last : n + kSlab;
    int r = 0;
    for (; r + 4 <= rows; r += 4) {
      const QuantRows part = {x.values + size_t(r) * x.stride, x.scales + size_t(r) * x.group_stride,
                              x.sums + size_t(r) * x.group_stride, x.stride, x.group_stride};
      int8_matvec_rows<BITS, 4>(w, n, end, part, y + size_t(r) * y_stride, y_stride);
    }
    for (; r < rows; ++r) {
      const QuantRows part = {x.values + size_t(r) * x.stride, x.scales + size_t(r) * x.group_stride,
                              x.sums + size_t(r) * x.group_stride, x.stride, x.group_stride};
      int8_matvec_rows<BITS, 1>(w, n, end, part, y + size_t(r) * y_stride, y_stride);
    }
  }
}

inline void int8_matvec(const WeightRows& w, int first, int last, const QuantRows& x, int rows, float* y,
                        size_t y_stride) {
  switch (w.bits) {
    case 2: return int8_matvec_bits<2>(w, first, last, x, rows, y, y_stride);
    case 3: return int8_matvec_bits<3>(w, first, last, x, rows, y, y_stride);
    case 4: return int8_matvec_bits<4>(w, first, last, x, rows, y, y_stride);
    case 5: return int8_matvec_bits<5>(w, first, last, x, rows, y, y_stride);
    case 6: return int8_matvec_bits<6>(w, first, last, x, rows, y, y_stride);
    default: return int8_matvec_bits<8>(w, first, last, x, rows, y, y_stride);
  }
}
