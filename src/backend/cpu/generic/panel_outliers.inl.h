// High bytes of outliers for panels that multiply a few steps of each block again. Included after quant_layout.inl.h.
#pragma once

inline constexpr bool kDenseHigh = false;

/// Puts the high byte of the value at `position` of group g where panels look for it; `slot` is the outlier's number.
inline void store_outlier(int8_t high, int position, int slot, int g, QuantLayout layout, BlockOrder order,
                          Outlier* outliers) {
  const int block = position / layout.block, in_block = position % layout.block, blocks = kQuantGroup / layout.block;
  const int at = layout.nibbles ? in_block / 2 + in_block % 2 * (layout.block / 2) : in_block;
  for (int u = 0; u < blocks; ++u) {
    Outlier& outlier = outliers[order.at(g * blocks + u) * kOutliers + slot];
    outlier = {};
    if (u == block) outlier = {uint32_t(uint8_t(high)) << (8 * (at % 4)), uint32_t(at / 4)};
  }
}

inline void store_panel_high(const int8_t (&high)[kOutliers], const int (&positions)[kOutliers], int g,
                             QuantLayout layout, BlockOrder order, const QuantRow& out) {
  for (int i = 0; i < kOutliers; ++i) store_outlier(high[i], positions[i], i, g, layout, order, out.outliers);
}
