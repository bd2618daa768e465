// High digits of outliers for few rows, where any byte may meet any code: in the places of their low digits, a row of
// bytes that are zero but for outliers. Costs as many products as low digits do. Included after places.inl.h.
#pragma once

/// Bytes of high digits of a round of kLanes units.
template <int UNIT>
inline constexpr size_t kHighRound = size_t(kLanes) * UNIT;

/// Before the first group of a row.
inline void clear_high(int /*rounds*/, int8_t* /*row*/) {}

/// The high digits of the values at `places` of group g.
inline void place_high(const int8_t (&high)[kOutliers], const int (&places)[kOutliers], int g, QuantLayout layout,
                       int8_t* row) {
  alignas(64) int8_t group[kQuantGroup] = {};
  for (int i = 0; i < kOutliers; ++i) group[places[i]] = high[i];
  place_group(group, g, layout, {0}, row);
}
