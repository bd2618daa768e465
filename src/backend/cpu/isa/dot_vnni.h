// Sums of four products of an unsigned and a signed byte per lane, in one instruction for every width of codes.
#pragma once

struct Dot {
  using Sum = I16;
  static constexpr int kBits = 8;  // widest codes
  static constexpr int kSteps = 1 << 16;  // steps before total()
  static Sum zero() { return int_zero(); }
  static Sum from(I16 start) { return start; }
  static Sum step(Sum s, I16 codes, I16 x) {
    asm("vpdpbusd %2, %1, %0" : "+v"(s) : "v"(codes), "v"(x));
    return s;
  }
  static I16 total(Sum s) { return s; }
};
using WideDot = Dot;
inline constexpr int kNarrowBits = Dot::kBits;  // of bytes that rows of codes are multiplied as; others are split
