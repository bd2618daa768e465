// Codes of more than four bits where no instruction takes them whole: their two halves, summed apart.
#pragma once

struct WideDot {
  struct Sum {
    Dot::Sum low, high;
  };
  static constexpr int kSteps = Dot::kSteps;
  static Sum zero() { return {Dot::zero(), Dot::zero()}; }
  template <class D = Dot>  // a sum of 16 bits has no such start
  static Sum from(I32x16 start) {
    return {D::from(start), D::zero()};
  }
  static Sum step(Sum s, I32x16 codes, I32x16 x) {
    return {Dot::step(s.low, low_nibbles(codes), x), Dot::step(s.high, high_nibbles(codes), x)};
  }
  static I32x16 total(Sum s) { return add(Dot::total(s.low), times16(Dot::total(s.high))); }
};
