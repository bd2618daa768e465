// Derivatives of what goes along sequences: attention, convolutions, the delta rule; and of columns dealt out.
#include <gtest/gtest.h>

#include <cmath>

#include "backend/ref/delta_math.h"
#include "backend/ref/math.h"
#include "tests/ops/gradients.h"

namespace bumblebee::gradients {
namespace {

TEST_F(Gradients, OfPackedAttention) {
  const std::vector<int> lengths = {4, 1, 5};
  struct Scores {
    float cap;
    bool sinks;
  };
  for (const auto& [cap, has_sinks] : {Scores{0, false}, {1.5f, false}, {0, true}, {2, true}}) {
    for (const auto& [window, kv_heads] : {std::pair(0, 1), {0, 2}, {0, 4}, {2, 1}, {2, 2}, {2, 4}}) {
      SCOPED_TRACE(cat("window ", window, ", ", kv_heads, " key heads, cap ", cap, ", sinks ", has_sinks));
      const HostMatrix sinks = normal(1, 4, 2);
      AttentionParams a = {.heads = 4, .kv_heads = kv_heads, .head_dim = 3, .scale = 0.6f, .window = window};
      a.soft_cap = cap;
      if (has_sinks) a.sinks = upload(sinks);
      const HostMatrix q = normal(10, 12), k = normal(10, 3 * kv_heads), v = normal(10, 3 * kv_heads),
                       dout = normal(10, 12);
      bind_segments(*ref_, lengths);
      Tensor lse, dq, dk, dv;
      const Tensor out = grad_.attend_packed(upload(q), upload(k), upload(v), a, lse);
      grad_.attend_packed_dqkv(upload(dout), upload(q), upload(k), upload(v), out, lse, a, dq, dk, dv);

      Matrix x = complex_of(q), keys = complex_of(k), values = complex_of(v);
      const auto forward = [&] {
        Matrix y(10, std::vector<C>(12));
        for (int first = 0, s = 0; s < 3; first += lengths[size_t(s++)]) {
          for (int i = 0; i < lengths[size_t(s)]; ++i) {
            const int seen = window > 0 ? std::min(window, i + 1) : i + 1;
            for (size_t h = 0; h < 4; ++h) {
              const size_t group = h * size_t(kv_heads) / 4, row = size_t(first + i);
              const auto head = [&](const Matrix& m) {
                return [&m, group, from = row + 1 - size_t(seen)](int j) {
                  return std::span<const C>(m[from + size_t(j)]).subspan(3 * group, 3);
                };
              };
              ref::attend<C>(std::span<const C>(x[row]).subspan(3 * h, 3), seen, double(a.scale), head(keys),
                             head(values), std::span(y[row]).subspan(3 * h, 3), double(a.soft_cap),
                             a.sinks ? double(sinks.values[h]) : -INFINITY);
            }
          }
        }
        return y;
      };
      const Output got = read("out", out), sums = read("lse", lse);
      const Matrix want = forward();
      for (size_t i = 0; i < got.values.size(); ++i)
        EXPECT_NEAR(double(got.values[i]), want[i / 12][i % 12].real(), 2 * kRoundF32 * std::abs(want[i / 12][i % 12]));
      EXPECT_EQ(sums.cols, 4);
      const auto loss = [&] { return weighted(dout, forward()); };
      expect_gradient(x, loss, read("dq", dq));
      expect_gradient(keys, loss, read("dk", dk));
      expect_gradient(values, loss, read("dv", dv));
    }
  }
}

TEST_F(Gradients, LogSumOfExponentialsIsThatOfTheSeenKeys) {
  bind_segments(*ref_, {3});
  const HostMatrix q = {3, 1, {1, 2, 3}}, k = {3, 1, {0.5f, -1, 0.25f}};
  Tensor lse;
  AttentionParams a = {.heads = 1, .kv_heads = 1, .head_dim = 1, .scale = 2};
  grad_.attend_packed(upload(q), upload(k), upload(k), a, lse);
  EXPECT_NEAR(read("lse", lse).values[1], std::log(std::exp(2.0) + std::exp(-4.0)), 1e-6);
  a.sinks = upload({1, 1, {1.5f}});
  grad_.attend_packed(upload(q), upload(k), upload(k), a, lse);
  EXPECT_NEAR(read("lse", lse).values[1], std::log(std::exp(2.0) + std::exp(-4.0) + std::exp(1.5)), 1e-6);
}

TEST_F(Gradients, OfConvolutions) {
  const std::vector<int> lengths = {1, 5, 2};
  for (const auto& [kernel, silu] : {std::pair(2, true), {4, true}, {3, false}}) {
    const HostMatrix x = normal(8, 3, 2), w = normal(kernel, 3), dy = normal(8, 3);
    const ConvParams conv{upload(w), silu};
    bind_segments(*ref_, lengths);
    Matrix wide = complex_of(x);
    const Matrix weight = complex_of(w);
    const auto forward = [&] {
      Matrix y(8, std::vector<C>(3));
      for (size_t first = 0, s = 0; s < 3; first += size_t(lengths[s++])) {
        for (size_t i = 0; i < size_t(lengths[s]); ++i) {
          for (size_t c = 0; c < 3; ++c) {
            std::vector<C> in, factors;
            for (size_t j = 0; j < size_t(kernel); ++j) {
              const bool there = i + j + 1 >= size_t(kernel);
              in.push_back(there ? wide[first + i + j + 1 - size_t(kernel)][c] : C());
              factors.push_back(weight[j][c]);
            }
            y[first + i][c] = ref::convolve<C>(in, factors, silu);
          }
        }
      }
      return y;
    };
    const Output got = read("y", grad_.conv_packed(upload(x), conv));
    const Matrix want = forward();
    for (size_t i = 0; i < 24; ++i)
      EXPECT_NEAR(double(got.values[i]), want[i / 3][i % 3].real(), 2 * kRoundF32 * std::abs(want[i / 3][i % 3]));
    expect_gradient(
        wide, [&] { return weighted(dy, forward()); }, read("dx", grad_.conv_packed_dx(upload(dy), upload(x), conv)));
  }
}

TEST_F(Gradients, OfTheDeltaRule) {
  const std::vector<int> lengths = {4, 1, 6};
  constexpr size_t kRows = 11, kKeyDim = 3, kValueDim = 2;
  for (const auto& [key_heads, value_heads] : {std::pair(1, 1), {2, 4}}) {
    const size_t keys = size_t(key_heads) * kKeyDim, values = size_t(value_heads);
    const HostMatrix qkv = normal(kRows, int(2 * keys + values * kValueDim)), a = normal(kRows, value_heads, 2),
                     b = normal(kRows, value_heads, 2), a_log = normal(1, value_heads),
                     dt_bias = normal(1, value_heads), dout = normal(kRows, value_heads * int(kValueDim));
    const DeltaParams delta{.key_heads = key_heads,
                            .value_heads = value_heads,
                            .key_dim = int(kKeyDim),
                            .value_dim = int(kValueDim),
                            .a_log = upload(a_log),
                            .dt_bias = upload(dt_bias)};
    bind_segments(*ref_, lengths);
    Matrix x = complex_of(qkv), decays = complex_of(a), betas = complex_of(b);
    const Matrix log = complex_of(a_log), bias = complex_of(dt_bias);
    const auto forward = [&] {
      Matrix y(kRows, std::vector<C>(values * kValueDim));
      for (size_t first = 0, s = 0; s < 3; first += size_t(lengths[s++])) {
        for (size_t h = 0; h < values; ++h) {
          const size_t key = h * size_t(key_heads) / values * kKeyDim;
          std::vector<C> state(kKeyDim * kValueDim);
          for (size_t r = first; r < first + size_t(lengths[s]); ++r) {
            const std::span<const C> in(x[r]);
            ref::delta_rule<C>(in.subspan(key, kKeyDim), in.subspan(keys + key, kKeyDim),
                               in.subspan(2 * keys + h * kValueDim, kValueDim),
                               ref::delta_decay<C>(decays[r][h], log[0][h], bias[0][h]), ref::sigmoid(betas[r][h]),
                               state, std::span(y[r]).subspan(h * kValueDim, kValueDim));
          }
        }
      }
      return y;
    };
    const Output got = read("y", grad_.delta_packed(upload(qkv), upload(a), upload(b), delta));
    const Matrix want = forward();
    for (size_t r = 0; r < kRows; ++r) {
      for (size_t c = 0; c < want[r].size(); ++c)
        EXPECT_NEAR(double(got.values[r * want[r].size() + c]), want[r][c].real(),
                    2 * kRoundF32 * std::abs(want[r][c]));
    }
    Tensor dqkv, da, db;
    grad_.delta_packed_dx(upload(dout), upload(qkv), upload(a), upload(b), delta, dqkv, da, db);
    const auto loss = [&] { return weighted(dout, forward()); };
    expect_gradient(x, loss, read("dqkv", dqkv));
    expect_gradient(decays, loss, read("da", da));
    expect_gradient(betas, loss, read("db", db));
  }
}

/// A split is linear: its gradient is its transpose. Σ dy·split(x) = Σ dx·x for all x.
TEST_F(Gradients, OfSplits) {
  const SplitParams split{2, {{2, 0}, {1, 1}, {3, 0}, {2, 2}}};
  const HostMatrix x = normal(3, 16);
  std::vector<Tensor> y(3), dy(3);
  ref_->stream().ops().split(upload(x), split, y);
  for (const size_t without : {3u, 1u}) {  // 3: none
    double sum = 0, back = 0;
    for (size_t i = 0; i < 3; ++i) {
      const HostMatrix c = normal(3, y[i].cols());
      dy[i] = i == without ? Tensor() : upload(c);
      const Output part = read("y", y[i]);
      for (size_t k = 0; i != without && k < c.values.size(); ++k) sum += double(c.values[k]) * double(part.values[k]);
    }
    const Output dx = read("dx", grad_.split_dx(dy, split));
    ASSERT_EQ(dx.cols, 16);
    for (size_t k = 0; k < x.values.size(); ++k) back += double(dx.values[k]) * double(x.values[k]);
    EXPECT_NEAR(sum, back, 1e-12 * 100);
  }
}

}  // namespace
}  // namespace bumblebee::gradients
