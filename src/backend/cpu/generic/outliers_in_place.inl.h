// High bytes of outliers for few rows, where any byte may meet any code: in the positions of their low bytes, a row of
// bytes that are zero but for outliers. Costs as many products as low bytes do. Included after quant_layout.inl.h.
#pragma once

/// Bytes that the high bytes of a stripe take of kLanes blocks.
template <int BLOCK>
inline constexpr size_t kHighStripe = size_t(kLanes) * BLOCK;

/// Before the first group of a part of a row.
inline void clear_high(int /*stripes*/, QuantLayout /*layout*/, int8_t* /*row*/) {}

/// The high bytes of the values at `positions` of group g.
inline void store_high(const int8_t (&high)[kOutliers], const int (&positions)[kOutliers], int g, QuantLayout layout,
                       int8_t* row) {
  alignas(64) int8_t group[kQuantGroup] = {};
  for (int i = 0; i < kOutliers; ++i) group[positions[i]] = high[i];
  store_group(group, g, layout, {0}, row);
}
