// The specification itself, on numbers that can be checked by hand, for float, double and complex.
#include "backend/ref/math.h"

#include <gtest/gtest.h>

#include <array>
#include <numbers>

namespace bumblebee {
namespace {

TEST(RefMath, DotSumsFloatsInDouble) {
  const std::array<float, 4> a = {1e8f, 1, -1e8f, 1}, b = {1, 1, 1, 1};
  EXPECT_EQ((ref::dot<float, float>(a, b)), 2.0f);  // in f32 the first 1 would be lost
}

TEST(RefMath, RmsNorm) {
  const std::array<double, 2> x = {3, 4}, w = {1, 2};
  std::array<double, 2> y{};
  ref::rms_norm<double>(x, w, 0.0, y);
  const double rms = std::sqrt(12.5);
  EXPECT_DOUBLE_EQ(y[0], 3 / rms);
  EXPECT_DOUBLE_EQ(y[1], 8 / rms);
  const std::array<double, 2> zero = {0, 0};
  ref::rms_norm<double>(zero, w, 1e-6, y);
  EXPECT_EQ(y[0], 0.0);
}

TEST(RefMath, RopeTurnsPairsHalfAHeadApart) {
  const std::array<float, 2> inv_freq = {std::numbers::pi_v<float> / 2, 0};
  std::array<double, 6> head = {1, 2, 3, 4, 5, 6};
  ref::rope<double>(head, 1, inv_freq, 1);
  EXPECT_NEAR(head[0], -3, 1e-6);  // (1, 3) by 90 degrees
  EXPECT_NEAR(head[2], 1, 1e-6);
  EXPECT_EQ(head[1], 2);  // (2, 4) by nothing
  EXPECT_EQ(head[3], 4);
  EXPECT_EQ(head[4], 5);  // outside the rotated part
  EXPECT_EQ(head[5], 6);
  ref::rope<double>(head, 0, inv_freq, 2);
  EXPECT_EQ(head[1], 4);  // the magnitude alone
  EXPECT_EQ(head[4], 5);
}

TEST(RefMath, AttendWeighsByTheExponentialOfTheScore) {
  const std::array<double, 2> q = {1, 0};
  const std::array<std::array<double, 2>, 2> keys = {{{std::log(3.0), 9}, {0, -9}}}, values = {{{4, 0}, {0, 8}}};
  std::array<double, 2> out{};
  const auto row = [](const auto& m) { return [&m](int j) { return std::span<const double>(m[size_t(j)]); }; };
  ref::attend<double>(q, 2, 1.0, row(keys), row(values), out);
  EXPECT_DOUBLE_EQ(out[0], 3);  // weights 3/4 and 1/4
  EXPECT_DOUBLE_EQ(out[1], 2);
  ref::attend<double>(q, 1, 1.0, row(keys), row(values), out);
  EXPECT_EQ(out[0], 4);
  const std::array<double, 2> huge = {1e6, 0};
  ref::attend<double>(huge, 2, 1.0, row(keys), row(values), out);
  EXPECT_EQ(out[0], 4);
  EXPECT_EQ(out[1], 0);
}

TEST(RefMath, Silu) {
  EXPECT_EQ(ref::silu(0.0), 0.0);
  EXPECT_DOUBLE_EQ(ref::silu(std::log(3.0)), 0.75 * std::log(3.0));
  EXPECT_EQ(ref::silu(-1e4), 0.0);
  EXPECT_EQ(ref::silu(1e4f), 1e4f);
}

/// The derivative by complex step against a central difference: proof that the definitions are analytic in every type
/// they claim.
TEST(RefMath, ComplexStepGivesDerivatives) {
  using C = std::complex<double>;
  constexpr double kStep = 1e-20, kCentral = 1e-6;
  for (const double x : {-3.0, -0.1, 0.0, 0.7, 5.0}) {
    const double exact = ref::silu(C(x, kStep)).imag() / kStep;
    EXPECT_NEAR(exact, (ref::silu(x + kCentral) - ref::silu(x - kCentral)) / (2 * kCentral), 1e-8);
  }
  const std::array<double, 3> base = {0.5, -1, 2};
  const auto norm = [&](auto first) {
    using T = decltype(first);
    std::array<T, 3> x = {first, T(base[1]), T(base[2])}, w = {T(1), T(2), T(3)}, y{};
    ref::rms_norm<T>(x, w, 1e-5, y);
    return y[1];
  };
  EXPECT_NEAR(norm(C(base[0], kStep)).imag() / kStep,
              (norm(base[0] + kCentral) - norm(base[0] - kCentral)) / (2 * kCentral), 1e-8);
}

}  // namespace
}  // namespace bumblebee
