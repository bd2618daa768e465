// Fast mode: activations rounded to int8 in groups of 32, integer sums inside a group. With x ≈ s·v, a group of a row gives
// Σ (q·scale + bias)·x ≈ s·(scale·Σ q·v + bias·Σ v). Included inside an instruction set's own namespace; the simd header defines
//   I32 dot32(const Codes<BITS>&, const int8_t*): lanes whose sum is Σ q·v over 32 elements, as floats.
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

template <int BITS, int ROWS>
inline void int8_matvec_rows(const WeightRows& w, int first, int last, const QuantRows& x, float* y, size_t y_stride) {
  ScaleBlock s;
  for (int n = first; n < last; ++n) {
    const uint8_t* codes = w.codes + size_t(n) * w.row_bytes;
    float sum[ROWS] = {};
    for (int k0 = 0; k0 < w.in; k0 += kBlock) {
      const int k1 = block_end(w.in, k0);
      load_scale_block(w, n, k0, k1, s);
      DotLanes acc[ROWS];
      float offset[ROWS] = {};
      for (int r = 0; r < ROWS; ++r) acc[r] = dot_zero();
      for (int k = k0; k < k1; k += kQuantGroup) {
        const int g = (k - k0) / w.group;
        const Codes32 q = load_codes32<BITS>(codes + size_t(k) * BITS / 8);
        for (int r = 0; r < ROWS; ++r) {
          const size_t at = size_t(r) * x.group_stride + size_t(k / kQuantGroup);
          acc[r] = dot_add(acc[r], q, x.values + size_t(r) * x.stride + k, s.scale[g] * x.scales[at]);
          offset[r] += s.bias[g] * x.sums[at];
        }
      }
      for (int r = 0; r < ROWS; ++r) sum[r] += dot_reduce(acc[r]) + offset[r];
    }
    for (int r = 0; r < ROWS; ++r) y[size_t(r) * y_stride + size_t(n)] = sum[r];
  }
}

template <int BITS>
inline void int8_matvec_bits(const WeightRows& w, int first, int last, const QuantRows& x, int rows, float* y, size_t y_stride) {
  // A few weight rows at a time stay in the first-level cache while all rows of x pass over them.
  constexpr int kSlab = 16;
  for (int n = first; n < last; n += kSlab) {
    const int end = last - n < kSlab ? last : n + kSlab;
    int r = 0;
    for (; r + 4 <= rows; r += 4) {
      const QuantRows part = {x.values + size_t(r) * x.stride, x.scales + size_t(r) * x.group_stride, x.sums + size_t(r) * x.group_stride, x.stride, x.group_stride};
      int8_matvec_rows<BITS, 4>(w, n, end, part, y + size_t(r) * y_stride, y_stride);
    }
    for (; r < rows; ++r) {
      const QuantRows part = {x.values + size_t(r) * x.stride, x.scales + size_t(r) * x.group_stride, x.sums + size_t(r) * x.group_stride, x.stride, x.group_stride};
      int8_matvec_rows<BITS, 1>(w, n, end, part, y + size_t(r) * y_stride, y_stride);
    }
  }
}

inline void int8_matvec(const WeightRows& w, int first, int last, const QuantRows& x, int rows, float* y, size_t y_stride) {
  switch (w.bits) {
    case 2: return int8_matvec_bits<2>(w, first, last, x, rows, y, y_stride);
    case 3: return int8_matvec_bits<3>(w, first, last, x, rows, y, y_stride);
    case 4: return int8_matvec_bits<4>(w, first, last, x, rows, y, y_stride);
    case 5: return int8_matvec_bits<5>(w, first, last, x, rows, y, y_stride);
    case 6: return int8_matvec_bits<6>(w, first, last, x, rows, y, y_stride);
    default: return int8_matvec_bits<8>(w, first, last, x, rows, y, y_stride);
  }
}
