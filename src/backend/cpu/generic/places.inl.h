// Where rounded activations lie so that they meet codes as codes come out of their bytes. Included inside an
// instruction set's own namespace after scalars.inl.h.
#pragma once

/// `count` pairs of values: the first of each to `even`, the second to `odd`.
BB_INLINE void split_pairs(const int8_t* values, int count, int8_t* even, int8_t* odd) {
  for (int i = 0; i < count; ++i) {  // one conversion of words to bytes each
    uint16_t pair;
    __builtin_memcpy(&pair, values + 2 * i, 2);
    even[i] = int8_t(pair & 255);
    odd[i] = int8_t(pair >> 8);
  }
}

/// Where unit u of a row is: its index among units, in order or by lane.
struct UnitOrder {
  int rounds;  // 0: in order
  int at(int u) const { return rounds == 0 ? u : u % kLanes * rounds + u / kLanes; }
};

/// The values of group g to their places in a row.
inline void place_group(const int8_t* values, int g, QuantLayout layout, UnitOrder order, int8_t* row) {
  const int units = kQuantGroup / layout.unit;
  if (layout.nibbles && order.rounds == 0) {
    int8_t* even = row + g / 2 * kLine + g % 2 * (kQuantGroup / 2);
    return split_pairs(values, kQuantGroup / 2, even, even + kLine / 2);
  }
  for (int u = 0; u < units; ++u, values += layout.unit) {
    int8_t* to = row + order.at(g * units + u) * layout.unit;
    if (!layout.nibbles) {
      __builtin_memcpy(to, values, size_t(layout.unit));
    } else if (layout.unit == 64) {
      split_pairs(values, 32, to, to + 32);
    } else {
      split_pairs(values, 16, to, to + 16);
    }
  }
}
