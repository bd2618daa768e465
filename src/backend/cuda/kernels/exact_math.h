// exp and log in f64 with less than 0.51 units in the last place of error, so that sums of them have the bits of the
// host's library in all but one of very many cases. Written for device and host, so that a test can compare.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define BB_HOST_DEVICE __host__ __device__
#else
#define BB_HOST_DEVICE
#endif

namespace bumblebee::cuda {

/// An unevaluated sum of two doubles.
struct Twofold {
  double high = 0, low = 0;
};
BB_HOST_DEVICE inline Twofold add(Twofold a, double b) {
  const double sum = a.high + b, part = sum - a.high;
  const double error = (a.high - (sum - part)) + (b - part) + a.low;
  const double high = sum + error;
  return {high, error - (high - sum)};
}
BB_HOST_DEVICE inline Twofold multiply(Twofold a, Twofold b) {
  const double product = a.high * b.high;
  const double error = fma(a.high, b.high, -product) + (a.high * b.low + a.low * b.high);
  const double high = product + error;
  return {high, error - (high - product)};
}
/// a / b of two doubles.
BB_HOST_DEVICE inline Twofold divide(double a, double b) {
  const double high = a / b;
  return {high, fma(-high, b, a) / b};
}

/// 2^(i/128) as high·(1 + low).
struct ExpTable {
  double high[128], low[128];
};

inline void fill(ExpTable& table) {
  Twofold root{exp2(1.0 / 128), 0};
  for (int round = 0; round < 2; ++round) {  // Newton's step for root^128 = 2
    Twofold power = root;
    for (int i = 0; i < 7; ++i) power = multiply(power, power);
    root = add(root, -root.high * ((power.high - 2) + power.low) / 256);
  }
  Twofold power{1, 0};
  for (int i = 0; i < 128; ++i) {
    table.high[i] = power.high;
    table.low[i] = power.low / power.high;
    power = multiply(power, root);
  }
}

/// exp(x) for x <= 0; 0 below -708, where exp is next to nothing. 2^(n/128)·(1 + p(r)) with |r| <= ln 2 / 256; table,
/// coefficients and order of the operations are those that the C libraries of today share, fused as they fuse them.
BB_HOST_DEVICE inline double exact_exp(double x, const ExpTable& table) {
  if (!(x > -708)) return x != x ? x : 0;
  constexpr double kPerLn2 = 0x1.71547652b82fep7;                               // 128 / ln 2
  constexpr double kHigh = 0x1.62e42fefa0000p-8, kLow = 0x1.cf79abc9e3b39p-47;  // ln 2 / 128
  constexpr double kShift = 0x1.8p52;
  const double n = fma(x, kPerLn2, kShift) - kShift;
  const double r = fma(n, -kLow, fma(n, -kHigh, x));
  const int64_t whole = int64_t(n);
  const int64_t i = whole & 127;
  const double square = r * r;
  const double low = fma(r, 0x1.555555555543cp-3, 0x1.ffffffffffdbdp-2);
  const double high = fma(r, 0x1.1111167a4d017p-7, 0x1.55555cf172b91p-5);
  const double tail = fma(square * square, high, fma(low, square, r + table.low[i]));
  uint64_t bits;
  memcpy(&bits, &table.high[i], sizeof(bits));
  bits += uint64_t((whole - i) / 128) << 52;
  double scale;
  memcpy(&scale, &bits, sizeof(scale));
  return fma(scale, tail, scale);
}

/// log(x) for normal x >= 1: 2·atanh((m - 1) / (m + 1)) + e·ln 2 with m in [sqrt(1/2), sqrt(2)).
BB_HOST_DEVICE inline double exact_log(double x) {
  if (!(x >= 1) || x > 1e300) return log(x);
  uint64_t bits;
  memcpy(&bits, &x, sizeof(bits));
  int exponent = int(bits >> 52) - 1023;
  bits = (bits & 0xfffffffffffffull) | 0x3ff0000000000000ull;
  double m;
  memcpy(&m, &bits, sizeof(m));
  if (m > 1.4142135623730951) m /= 2, ++exponent;
  // m - 1 and m + 1 are not always doubles: m + 1 may lose a bit, which the quotient gets back.
  const double below = m - 1, above = m + 1, lost = m - (above - 1);
  Twofold s = divide(below, above);
  s.low -= s.high * lost / above;
  const Twofold square = multiply(s, s);
  Twofold sum{0, 0};
  for (int n = 49; n >= 3; n -= 2) {
    const Twofold coefficient = divide(1.0, double(n));
    sum = add(sum, coefficient.high);
    sum.low += coefficient.low;
    sum = multiply(sum, square);
  }
  sum = multiply(sum, s);
  Twofold result = multiply({0x1.62e42fefa39efp-1, 0x1.abc9e3b39803fp-56}, {double(exponent), 0});
  result = add(result, 2 * s.high);
  result = add(result, 2 * sum.high);
  result = add(result, 2 * s.low + 2 * sum.low);
  return result.high + result.low;
}

}  // namespace bumblebee::cuda
