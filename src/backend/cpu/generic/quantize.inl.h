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

/// What the rounding of sixteen groups needs, a lane of arrays each.
struct GroupScales {
  float scale[16], inverse[16];
  float half[2][16];  // sums of the rounded values of a group's halves
  int position[kOutliers][16];
  int8_t low[kOutliers][16], high[kOutliers][16];
};

/// Of sixteen groups that follow each other at once: the values of each are lanes, so that its largest are found
/// without a step from lane to lane, each of which would wait for the one before.
[[gnu::noinline]] inline void scale_groups(const float* x, GroupScales& out) {
  alignas(64) float values[kQuantGroup][16];
  F32x16 largest[kOutliers + 1] = {zero(), zero(), zero()};
  static_assert(kOutliers == 2);
  for (int q = 0; q < kQuantGroup; q += 16) {
    I32x16 t[16];
    for (int g = 0; g < 16; ++g) t[g] = as_int(load(x + g * kQuantGroup + q));
    transpose(t);
    for (int i = 0; i < 16; ++i) {
      const F32x16 v = as_float(t[i]);
      store(values[q + i], v);
      const F32x16 key = as_float(bit_or(bit_and(as_int(abs(v)), int_set1(~63)), int_set1(q + i)));
      const F32x16 second = min(largest[0], key), third = min(largest[1], second);
      largest[0] = max(largest[0], key);
      largest[1] = max(largest[1], second);
      largest[2] = max(largest[2], third);
    }
  }
  const auto cleared = [](F32x16 key) { return as_float(bit_and(as_int(key), int_set1(~63))); };
  const F32x16 common = div(cleared(largest[2]), set1(127.0f)),
               apart = div(cleared(largest[0]), set1(float(kLargestOutlier)));
  alignas(64) float keys[kOutliers][16];
  store(out.scale, max(common, apart));
  for (int i = 0; i < kOutliers; ++i) store(keys[i], largest[i]);
  for (int g = 0; g < 16; ++g) {
    if (out.scale[g] < 0x1p-100f) out.scale[g] = 0;
    out.inverse[g] = out.scale[g] > 0 ? 1.0f / out.scale[g] : 0.0f;
  }
  // Sums of whole numbers below 2^24: exact in any order.
  const F32x16 inverse = load(out.inverse);
  for (int h = 0; h < 2; ++h) {
    F32x16 sum = zero();
    for (int i = 0; i < kQuantGroup / 2; ++i)
      sum = add(sum, round(mul(load(values[h * kQuantGroup / 2 + i]), inverse)));
    store(out.half[h], sum);
  }
  for (int i = 0; i < kOutliers; ++i) {
    alignas(64) float found[16];
    for (int g = 0; g < 16; ++g) {
      out.position[i][g] = int(bits_of(keys[i][g]) & 63u);
      found[g] = values[out.position[i][g]][g];
    }
    store(found, round(mul(load(found), inverse)));
    for (int g = 0; g < 16; ++g) {
      const OutlierBytes bytes(found[g]);
      out.low[i][g] = bytes.low;
      out.high[i][g] = bytes.high;
    }
  }
}

/// The same of one group.
inline void scale_group(const float* x, GroupScales& out) {
  F32x16 v[4], key[4];
  for (int i = 0; i < 4; ++i) {
    v[i] = load(x + 16 * i);
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
  out.scale[0] = scale;
  out.inverse[0] = scale > 0 ? 1.0f / scale : 0.0f;
  alignas(64) float rounded[kQuantGroup];
  for (int i = 0; i < 4; ++i) {
    v[i] = round(mul(v[i], set1(out.inverse[0])));
    store(rounded + 16 * i, v[i]);
  }
  out.half[0][0] = reduce_add(add(v[0], v[1]));
  out.half[1][0] = reduce_add(add(v[2], v[3]));
  for (int i = 0; i < kOutliers; ++i) {
    out.position[i][0] = int(bits_of(largest[i]) & 63u);
    const OutlierBytes bytes(rounded[out.position[i][0]]);
    out.low[i][0] = bytes.low;
    out.high[i][0] = bytes.high;
  }
}

/// The low bytes of a group whose scales are those of lane `lane`.
inline void round_group(const float* x, const GroupScales& of, int lane, int8_t (&values)[kQuantGroup]) {
  const F32x16 inverse = set1(of.inverse[lane]);
  for (int i = 0; i < 4; ++i) store_int8(values + 16 * i, round(mul(load(x + 16 * i), inverse)));
  for (int i = 0; i < kOutliers; ++i) values[of.position[i][lane]] = of.low[i][lane];
}

/// Stores group g.
inline void store_quantized(const int8_t (&values)[kQuantGroup], const GroupScales& of, int lane, int g,
                            QuantLayout layout, BlockOrder order, const QuantRow& out) {
  const int blocks = kQuantGroup / layout.block;
  const float scale = of.scale[lane];
  for (int u = 0; u < blocks; ++u) {
    const int at = order.at(g * blocks + u);
    out.scales[at] = scale;
    out.sums[at] = scale * (blocks == 1 ? of.half[0][lane] + of.half[1][lane] : of.half[u][lane]);
  }
  int positions[kOutliers];
  int8_t high[kOutliers];
  for (int i = 0; i < kOutliers; ++i) {
    positions[i] = of.position[i][lane];
    high[i] = of.high[i][lane];
  }
  store_group(values, g, layout, order, out.values);
  if (!out.by_lane) {
    store_high(high, positions, g, layout, out.high);
  } else {
    store_panel_high(high, positions, g, layout, order, out);
  }
}

inline void quantize_row(const float* x, int first, int last, int count, QuantLayout layout, const QuantRow& out) {
  const int blocks = kQuantGroup / layout.block, padded = padded_blocks(count, layout);
  const BlockOrder order = {out.by_lane ? padded / kLanes : 0};
  if (!out.by_lane) {
    const int stripe = first / (kLanes * layout.block), end = padded_blocks(last, layout) / kLanes;
    clear_high(end - stripe, layout,
               out.high + size_t(stripe) * (layout.block == 32 ? kHighStripe<32> : kHighStripe<64>));
  }
  GroupScales scales;
  int g = first / kQuantGroup;
  for (; (g + 16) * kQuantGroup <= last; g += 16) {
    alignas(64) int8_t values[16][kQuantGroup];  // read again only when all are there: bytes that were just written
    scale_groups(x + g * kQuantGroup, scales);   // are not, together with their neighbours, for some cycles
    for (int i = 0; i < 16; ++i) round_group(x + (g + i) * kQuantGroup, scales, i, values[i]);
    for (int i = 0; i < 16; ++i) store_quantized(values[i], scales, i, g + i, layout, order, out);
  }
  for (; g * kQuantGroup < last; ++g) {
    const float* p = x + g * kQuantGroup;
    const int n = last - g * kQuantGroup;
    alignas(64) float tail[kQuantGroup];
    if (n < kQuantGroup) {
      __builtin_memset(tail, 0, sizeof tail);
      __builtin_memcpy(tail, p, size_t(n) * 4);
      p = tail;
    }
    alignas(64) int8_t values[kQuantGroup];
    scale_group(p, scales);
    round_group(p, scales, 0, values);
    store_quantized(values, scales, 0, g, layout, order, out);
  }
  for (int u = g * blocks; last == count && u < padded; ++u) {
    out.scales[order.at(u)] = 0;
    out.sums[order.at(u)] = 0;
  }
}
