// High bytes of outliers for few rows, with VBMI: one instruction picks any bytes of two chunks of codes, so the codes
// that outliers meet are gathered, those of a stripe in one register, and cost two products a stripe. Included after
// quant_layout.inl.h.
#pragma once

/// A stripe of kLanes blocks in high bytes: four bytes a block, of which kOutliers are used. `position` is the byte of
/// the block's two chunks whose codes the outlier meets; `low` its high byte where the code is the byte's low half, or
/// all of it; `high` where it is the high half.
struct OutlierStripe {
  uint8_t position[4 * kLanes];
  int8_t low[4 * kLanes], high[4 * kLanes];
};
static_assert(kOutliers <= 4);

/// Bytes that the high bytes of a stripe take of kLanes blocks.
template <int BLOCK>
inline constexpr size_t kHighStripe = sizeof(OutlierStripe);

/// Before the first group of a part of a row: blocks without an outlier, and those past the end, meet zeros.
inline void clear_high(int stripes, QuantLayout /*layout*/, int8_t* row) {
  __builtin_memset(row, 0, size_t(stripes) * sizeof(OutlierStripe));
}

/// The high bytes of the values at `positions` of group g.
inline void store_high(const int8_t (&high)[kOutliers], const int (&positions)[kOutliers], int g, QuantLayout layout,
                       int8_t* row) {
  for (int i = 0; i < kOutliers; ++i) {
    const int input = g * kQuantGroup + positions[i], block = input / layout.block;
    auto* stripe = reinterpret_cast<OutlierStripe*>(row) + block / kLanes;
    const int at = block % kLanes * 4 + i;
    stripe->position[at] = uint8_t(layout.nibbles ? input % (2 * kNibbleChunk) / 2 : input % 128);
    (layout.nibbles && input % 2 == 1 ? stripe->high : stripe->low)[at] = high[i];
  }
}
