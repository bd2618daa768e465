// The integer dot product without vector instructions.
#pragma once

struct Codes32 {
  uint8_t q[32];
};
using DotLanes = float;

template <int BITS>
inline Codes32 load_codes32(const uint8_t* p) {
  Codes32 c;
  unpack16<BITS>(p, c.q);
  unpack16<BITS>(p + 2 * BITS, c.q + 16);
  return c;
}
inline DotLanes dot_zero() { return 0; }
inline DotLanes dot_add(DotLanes acc, const Codes32& c, const int8_t* x, float scale) {
  int sum = 0;
  for (int i = 0; i < 32; ++i) sum += int(c.q[i]) * int(x[i]);
  return acc + float(sum) * scale;
}
inline float dot_reduce(DotLanes acc) { return acc; }
