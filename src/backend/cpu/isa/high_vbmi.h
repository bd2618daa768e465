// High digits of outliers for few rows, with VBMI: one instruction picks any bytes of a line of codes, so the codes
// that outliers meet are gathered, those of a round in one register, and cost two products a round. Included after
// places.inl.h.
#pragma once

/// A round of kLanes units in high digits: four bytes a unit, of which kOutliers are used. `place` is the byte of the
/// unit's line whose codes the outlier meets; `low` its digit where the code is the byte's low half, or all of it;
/// `high` where it is the high half.
struct HighRound {
  uint8_t place[4 * kLanes];
  int8_t low[4 * kLanes], high[4 * kLanes];
};
static_assert(kOutliers <= 4);

/// Bytes of high digits of a round of kLanes units.
template <int UNIT>
inline constexpr size_t kHighRound = sizeof(HighRound);

/// Before the first group of a row: units without an outlier, and those past the end, meet zeros.
inline void clear_high(int rounds, int8_t* row) { __builtin_memset(row, 0, size_t(rounds) * sizeof(HighRound)); }

/// The high digits of the values at `places` of group g.
inline void place_high(const int8_t (&high)[kOutliers], const int (&places)[kOutliers], int g, QuantLayout layout,
                       int8_t* row) {
  for (int i = 0; i < kOutliers; ++i) {
    const int input = g * kQuantGroup + places[i], unit = input / layout.unit;
    auto* round = reinterpret_cast<HighRound*>(row) + unit / kLanes;
    const int at = unit % kLanes * 4 + i;
    round->place[at] = uint8_t(layout.nibbles ? input % kLine / 2 : input % 64);
    (layout.nibbles && input % 2 == 1 ? round->high : round->low)[at] = high[i];
  }
}
