// Fast mode: activations rounded to int8, one scale for kQuantGroup of them. A few values are many times larger than
// their neighbours, and would coarsen all of them; so the scale is that of the largest value but kOutliers, and these
// get a second digit. Included inside an instruction set's own namespace after its int header.
#pragma once

inline constexpr int kLargestOutlier = 127 * 128;

/// Even values first, then odd ones.
template <int COUNT>
inline void halves_apart(int8_t* values) {
  int8_t t[COUNT];
  for (int i = 0; i < COUNT / 2; ++i) {
    t[i] = values[2 * i];
    t[COUNT / 2 + i] = values[2 * i + 1];
  }
  __builtin_memcpy(values, t, COUNT);
}

/// The magnitudes of a, each with its place in the group in the last six bits, so that no two are equal.
inline F16 numbered(F16 a, int first) {
  alignas(64) static constexpr int32_t kLanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return as_float(bit_or(bit_and(as_int(abs(a)), int_set1(~63)), add(load_int(kLanes), int_set1(first))));
}
inline uint32_t bits_of(float a) {
  uint32_t u;
  __builtin_memcpy(&u, &a, 4);
  return u;
}
inline float without_number(float a) {
  const uint32_t u = bits_of(a) & ~63u;
  __builtin_memcpy(&a, &u, 4);
  return a;
}

/// Puts the digits of the value at `place` of its group, rounded to `value`, where kernels look for them; `slot` is the
/// outlier's number.
inline void place_outlier(float value, int place, int slot, QuantLayout layout, int8_t* values, const QuantRow& out,
                          int group) {
  const bool fits = value >= -float(kLargestOutlier) && value <= float(kLargestOutlier);  // NaN does not
  const int whole = fits ? int(value) : 0, low = ((whole + 64) & 127) - 64, high = (whole - low) / 128;
  values[place] = int8_t(low);
  const int unit = place / layout.unit, in_unit = place % layout.unit;
  const int at = layout.nibbles ? in_unit / 2 + in_unit % 2 * (layout.unit / 2) : in_unit;
  const int units = kQuantGroup / layout.unit;
  for (int u = 0; u < units; ++u) out.outliers[(group * units + u) * kOutliers + slot] = {};
  out.outliers[(group * units + unit) * kOutliers + slot] = {uint32_t(uint8_t(high)) << (8 * (at % 4)),
                                                             uint32_t(at / 4)};
  if (out.high != nullptr) out.high[group * kQuantGroup + unit * layout.unit + at] = int8_t(high);
}

inline void quantize_row(const float* x, int count, QuantLayout layout, const QuantRow& out) {
  int8_t* values = out.values;
  for (int g = 0; g * kQuantGroup < count; ++g, values += kQuantGroup) {
    const float* p = x + g * kQuantGroup;
    const int n = count - g * kQuantGroup;
    alignas(64) float padded[kQuantGroup];
    if (n < kQuantGroup) {
      __builtin_memset(padded, 0, sizeof padded);
      __builtin_memcpy(padded, p, size_t(n) * 4);
      p = padded;
    }
    F16 v[4], key[4];
    for (int i = 0; i < 4; ++i) {
      v[i] = load(p + 16 * i);
      key[i] = numbered(v[i], 16 * i);
    }
    float largest[kOutliers];
    const auto most = [&] { return reduce_max(max(max(key[0], key[1]), max(key[2], key[3]))); };
    for (float& found : largest) {
      found = most();
      for (F16& k : key) k = zero_where_equal(k, set1(found));
    }
    const float common = without_number(most()) / 127.0f, apart = without_number(largest[0]) / float(kLargestOutlier);
    float scale = common > apart ? common : apart;
    if (scale < 0x1p-100f) scale = 0;
    const F16 inverse = set1(scale > 0 ? 1.0f / scale : 0.0f);
    out.scales[g] = scale;
    alignas(64) float rounded[kQuantGroup];
    for (int i = 0; i < 4; ++i) {
      v[i] = round(mul(v[i], inverse));
      store(rounded + 16 * i, v[i]);
      store_rounded(values + 16 * i, v[i]);
    }
    // Sums of whole numbers below 2^24: exact in any order.
    const float half[2] = {reduce_add(add(v[0], v[1])), reduce_add(add(v[2], v[3]))};
    if (layout.unit == 64) {
      out.sums[g] = scale * (half[0] + half[1]);
    } else {
      out.sums[2 * g] = scale * half[0];
      out.sums[2 * g + 1] = scale * half[1];
    }
    if (out.high != nullptr) __builtin_memset(out.high + g * kQuantGroup, 0, kQuantGroup);
    for (int i = 0; i < kOutliers; ++i) {
      const int place = int(bits_of(largest[i]) & 63u);
      place_outlier(rounded[place], place, i, layout, values, out, g);
    }
    if (layout.nibbles && layout.unit == 64) {
      halves_apart<64>(values);
    } else if (layout.nibbles) {
      halves_apart<32>(values);
      halves_apart<32>(values + 32);
    }
  }
}
