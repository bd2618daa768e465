// High bytes of outliers for few rows, with AVX2: one shuffle of a group's 32 bytes of codes of four bits picks those
// that its outliers meet, to places that no other group has, so that eight groups cost two products. Codes that are
// bytes meet high bytes in the positions of low ones. Included after quant_layout.inl.h.
#pragma once

/// Bytes that the high bytes of a stripe take of kLanes blocks: as many as its low ones, of which groups of codes of
/// four bits use less.
template <int BLOCK>
inline constexpr size_t kHighStripe = size_t(kLanes) * BLOCK;

/// Eight groups. A group's outliers have two bytes, in the half of the register that their codes lie in. `pick` is the
/// byte of that half, or none; `low` the high byte where the code is the byte's low half, `high` where it is the high
/// one.
struct OutlierGroups {
  static constexpr int kGroups = 8;
  static constexpr uint8_t kNone = 0x80;
  uint8_t pick[kGroups][32];
  int8_t low[32], high[32];
};
static_assert(2 * sizeof(OutlierGroups) <= kHighStripe<64> && sizeof(OutlierGroups) <= kHighStripe<32>);
static_assert(kOutliers * OutlierGroups::kGroups == 16);

/// Where the eight groups that group g is one of have their bytes in a row.
inline size_t outlier_groups_at(int g, int block) {
  const int in_stripe = kLanes * block / kQuantGroup;  // groups: sixteen or eight
  return size_t(g / in_stripe) * size_t(kLanes) * size_t(block) +
         size_t(g % in_stripe / OutlierGroups::kGroups) * sizeof(OutlierGroups);
}

/// Before the first group of a part of a row: groups past its end have no outliers.
inline void clear_high(int stripes, QuantLayout layout, int8_t* row) {
  if (!layout.nibbles) return;
  const int groups = stripes * kLanes * layout.block / kQuantGroup;
  for (int g = 0; g < groups; g += OutlierGroups::kGroups) {
    auto* const to = reinterpret_cast<OutlierGroups*>(row + outlier_groups_at(g, layout.block));
    __builtin_memset(to->pick, OutlierGroups::kNone, sizeof to->pick);
    __builtin_memset(to->low, 0, sizeof to->low);
    __builtin_memset(to->high, 0, sizeof to->high);
  }
}

/// The high bytes of the values at `positions` of group g.
inline void store_high(const int8_t (&high)[kOutliers], const int (&positions)[kOutliers], int g, QuantLayout layout,
                       int8_t* row) {
  if (!layout.nibbles) {
    alignas(64) int8_t group[kQuantGroup] = {};
    for (int i = 0; i < kOutliers; ++i) group[positions[i]] = high[i];
    return store_group(group, g, layout, {0}, row);
  }
  constexpr int kEach = OutlierGroups::kGroups;
  auto* const to = reinterpret_cast<OutlierGroups*>(row + outlier_groups_at(g, layout.block));
  for (int i = 0; i < kOutliers; ++i) {
    const int byte = positions[i] / 2, half = byte / 16 * 16, at = kOutliers * (g % kEach) + i;
    to->pick[g % kEach][half + at] = uint8_t(byte % 16);
    to->low[half + at] = positions[i] % 2 == 0 ? high[i] : int8_t(0);
    to->high[half + at] = positions[i] % 2 == 1 ? high[i] : int8_t(0);
  }
}
