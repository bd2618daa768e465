// Fast mode: activations rounded to int8, one scale for kQuantGroup of them. A few values are many times larger than
// their neighbours, and would coarsen all of them; so the scale is that of the largest value but kOutliers, and these
// get a second byte. Included inside an instruction set's own namespace after its int header.
#pragma once

inline constexpr int kLargestOutlier = 127 * 128;

/// The magnitudes of a, each with its position in the group in the last six bits, so that no two are equal.
inline F32x16 pack_index_in_low_bits(F32x16 a, int first) {
  alignas(64) static constexpr int32_t kIndices[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return as_float(bit_or(bit_and(as_int(abs(a)), int_set1(~63)), add(load_int(kIndices), int_set1(first))));
}
inline uint32_t bits_of(float a) {
  uint32_t u;
  __builtin_memcpy(&u, &a, 4);
  return u;
}
inline float clear_low_bits(float a) {
  const uint32_t u = bits_of(a) & ~63u;
  __builtin_memcpy(&a, &u, 4);
  return a;
}

struct OutlierBytes {
  int8_t low, high;
  explicit OutlierBytes(float value) {
    const bool fits = value >= -float(kLargestOutlier) && value <= float(kLargestOutlier);  // NaN does not
    const int whole = fits ? int(value) : 0;
    low = int8_t(((whole + 64) & 127) - 64);
    high = int8_t((whole - low) / 128);
  }
};

inline void quantize_row(const float* x, int count, QuantLayout layout, const QuantRow& out) {
  alignas(64) int8_t values[kQuantGroup];
  const int blocks = kQuantGroup / layout.block, padded = padded_blocks(count, layout);
  const bool direct = !out.by_lane;
  const BlockOrder order = {direct ? 0 : padded / kLanes};
  if (direct) clear_high(padded / kLanes, out.high);
  for (int g = 0; g * kQuantGroup < count; ++g) {
    const float* p = x + g * kQuantGroup;
    const int n = count - g * kQuantGroup;
    alignas(64) float tail[kQuantGroup];
    if (n < kQuantGroup) {
      __builtin_memset(tail, 0, sizeof tail);
      __builtin_memcpy(tail, p, size_t(n) * 4);
      p = tail;
    }
    F32x16 v[4], key[4];
    for (int i = 0; i < 4; ++i) {
      v[i] = load(p + 16 * i);
      key[i] = pack_index_in_low_bits(v[i], 16 * i);
    }
    float largest[kOutliers];
    const auto current_max = [&] { return reduce_max(max(max(key[0], key[1]), max(key[2], key[3]))); };
    for (float& found : largest) {
      found = current_max();
      for (F32x16& k : key) k = zero_where_equal(k, set1(found));
    }
    const float common = clear_low_bits(current_max()) / 127.0f,
                apart = clear_low_bits(largest[0]) / float(kLargestOutlier);
    float scale = common > apart ? common : apart;
    if (scale < 0x1p-100f) scale = 0;
    const F32x16 inverse = set1(scale > 0 ? 1.0f / scale : 0.0f);
    alignas(64) float rounded[kQuantGroup];
    for (int i = 0; i < 4; ++i) {
      v[i] = round(mul(v[i], inverse));
      store(rounded + 16 * i, v[i]);
      store_int8(values + 16 * i, v[i]);
    }
    // Sums of whole numbers below 2^24: exact in any order.
    const float half[2] = {reduce_add(add(v[0], v[1])), reduce_add(add(v[2], v[3]))};
    for (int u = 0; u < blocks; ++u) {
      const int at = order.at(g * blocks + u);
      out.scales[at] = scale;
      out.sums[at] = scale * (blocks == 1 ? half[0] + half[1] : half[u]);
    }
    int positions[kOutliers];
    int8_t high[kOutliers];
    for (int i = 0; i < kOutliers; ++i) {
      positions[i] = int(bits_of(largest[i]) & 63u);
      const OutlierBytes bytes(rounded[positions[i]]);
      values[positions[i]] = bytes.low;
      high[i] = bytes.high;
    }
    store_group(values, g, layout, order, out.values);
    if (direct) {
      store_high(high, positions, g, layout, out.high);
    } else {
      store_panel_high(high, positions, g, layout, order, out);
    }
  }
  for (int u = (count + kQuantGroup - 1) / kQuantGroup * blocks; u < padded; ++u) {
    out.scales[order.at(u)] = 0;
    out.sums[order.at(u)] = 0;
  }
}
