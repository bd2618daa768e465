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

/// Where block u of a row is: its index among blocks, in order or by lane.
struct BlockOrder {
  int stripes;  // 0: in order
  int at(int u) const { return stripes == 0 ? u : u % kLanes * stripes + u / kLanes; }
};

/// The values of group g to their positions in a row.
inline void store_group(const int8_t* values, int g, QuantLayout layout, BlockOrder order, int8_t* row) {
  const int blocks = kQuantGroup / layout.block;
  if (layout.nibbles && order.stripes == 0) {
    int8_t* even = row + g / 2 * kNibbleChunk + g % 2 * (kQuantGroup / 2);
    return split_pairs(values, kQuantGroup / 2, even, even + kNibbleChunk / 2);
  }
  for (int u = 0; u < blocks; ++u, values += layout.block) {
    int8_t* to = row + order.at(g * blocks + u) * layout.block;
    if (!layout.nibbles) {
      __builtin_memcpy(to, values, size_t(layout.block));
    } else if (layout.block == 64) {
      split_pairs(values, 32, to, to + 32);
    } else {
      split_pairs(values, 16, to, to + 16);
    }
  }
}
