// High bytes of outliers for panels whose tiles multiply all bytes of a block: in the places of low ones. Included
// after quant_layout.inl.h.
#pragma once

inline constexpr bool kDenseHigh = true;

inline void store_panel_high(const int8_t (&high)[kOutliers], const int (&positions)[kOutliers], int g,
                             QuantLayout layout, BlockOrder order, const QuantRow& out) {
  const int blocks = kQuantGroup / layout.block;
  bool small = layout.nibbles;
  for (const int8_t h : high) small = small && h >= -15 && h <= 15;
  for (int u = 0; u < blocks; ++u) {
    const int at = order.at(g * blocks + u);
    __builtin_memset(out.high + size_t(at) * size_t(layout.block), 0, size_t(layout.block));
    out.high_shifts[at] = uint8_t(small ? kFoldedShift : kHighShift);
  }
  for (int i = 0; i < kOutliers; ++i) {
    const int in_block = positions[i] % layout.block;
    const int at = layout.nibbles ? in_block / 2 + in_block % 2 * (layout.block / 2) : in_block;
    int8_t* const block = out.high + size_t(order.at(g * blocks + positions[i] / layout.block)) * size_t(layout.block);
    block[at] = int8_t(small ? 8 * high[i] : high[i]);
  }
}
