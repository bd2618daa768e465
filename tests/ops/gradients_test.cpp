// Derivatives that work row by row, products, experts, and the helpers of a tape.
#include <gtest/gtest.h>

#include "backend/dropout.h"
#include "backend/ref/expert_math.h"
#include "backend/ref/math.h"
#include "tests/ops/gradients.h"

namespace bumblebee::gradients {
namespace {

TEST_F(Gradients, OfNorms) {
  for (const int width : {7, 14}) {
    const HostMatrix x = normal(3, 14), dy = normal(3, 14), w = normal(1, width);
    const NormParams norm{upload(w), 1e-3f};
    Matrix wide = complex_of(x);
    const Matrix weight = complex_of(w);
    const auto loss = [&] {
      Matrix y(3, std::vector<C>(14));
      for (size_t r = 0; r < 3; ++r) {
        for (size_t first = 0; first < 14; first += size_t(width))
          ref::rms_norm<C>(std::span<const C>(wide[r]).subspan(first, size_t(width)), weight[0], double(norm.eps),
                           std::span(y[r]).subspan(first, size_t(width)));
      }
      return weighted(dy, y);
    };
    expect_gradient(wide, loss, read("dx", grad_.rms_norm_dx(upload(dy), upload(x), norm)));
  }
}

TEST_F(Gradients, OfNormsAndRotationPerHead) {
  constexpr int kDim = 6;
  for (const int kind : {0, 1, 2, 3}) {
    const bool norms = kind % 2 == 1, interleaved = kind >= 2;
    for (const int half : {3, 2}) {
      Batch batch;
      batch.append(std::vector<int32_t>{0, 0, 0}, 0, std::vector<int32_t>{0}, Batch::Want::none);
      batch.positions = {0, 5, 1000};
      ref_->stream().bind(batch, nullptr);
      const RopeParams rope = {.dims = 2 * half,
                               .inv_freq = half == 3 ? std::vector<float>{1, 0.3f, 0.01f} : std::vector<float>{1, 0.1f},
                               .attention_factor = 1.2f,
                               .interleaved = interleaved};
      const HostMatrix q = normal(3, 2 * kDim), k = normal(3, kDim), dq = normal(3, 2 * kDim), dk = normal(3, kDim),
                       q_weight = normal(1, kDim), k_weight = normal(1, kDim);
      const NormParams q_norm{upload(q_weight), 1e-3f}, k_norm{upload(k_weight), 1e-5f};
      Tensor got_q = upload(dq), got_k = upload(dk);
      const Tensor kept = got_q;
      grad_.norm_rope_dx(got_q, got_k, norms ? upload(q) : Tensor(), norms ? upload(k) : Tensor(), kDim,
                         norms ? &q_norm : nullptr, norms ? &k_norm : nullptr, rope);
      EXPECT_EQ(read("kept", kept).values, dq.values);
      const auto check = [&](const HostMatrix& m, const HostMatrix& c, const HostMatrix& weight, double eps,
                             const Tensor& got) {
        Matrix x = complex_of(m);
        const Matrix w = complex_of(weight);
        const auto loss = [&] {
          Matrix y = x;
          for (size_t r = 0; r < 3; ++r) {
            for (size_t first = 0; first < y[r].size(); first += kDim) {
              const auto head = std::span(y[r]).subspan(first, kDim);
              if (norms) ref::rms_norm<C>(std::span<const C>(x[r]).subspan(first, kDim), w[0], eps, head);
              ref::rope<C>(head, batch.positions[r], rope.inv_freq, rope.attention_factor, rope.interleaved);
            }
          }
          return weighted(c, y);
        };
        expect_gradient(x, loss, read("dx", got));
      };
      check(q, dq, q_weight, double(q_norm.eps), got_q);
      check(k, dk, k_weight, double(k_norm.eps), got_k);
    }
  }
}

TEST_F(Gradients, OfGatedUnits) {
  HostMatrix gate = normal(2, 9, 3), up = normal(2, 9), dy = normal(2, 9);
  gate.values[4] = 0;
  gate.values[5] = 40;
  gate.values[6] = -40;
  up.values[2] = 7.5f;  // beyond the limit of clamped_silu, on both sides
  up.values[3] = -8;
  for (const Activation activation :
       {Activation::silu, Activation::gelu, Activation::sigmoid, Activation::clamped_silu, Activation::identity}) {
    SCOPED_TRACE(int(activation));
    Tensor dgate, dup;
    grad_.glu_dx(activation, upload(dy), upload(gate), upload(up), dgate, dup);
    Matrix g = complex_of(gate), u = complex_of(up);
    const auto loss = [&] {
      Matrix y = u;
      for (size_t r = 0; r < 2; ++r) {
        for (size_t c = 0; c < 9; ++c) {
          switch (activation) {
            case Activation::silu: y[r][c] *= ref::silu(g[r][c]); break;
            case Activation::gelu: y[r][c] *= ref::gelu(g[r][c]); break;
            case Activation::sigmoid: y[r][c] *= ref::sigmoid(g[r][c]); break;
            case Activation::identity: y[r][c] *= g[r][c]; break;
            case Activation::clamped_silu: y[r][c] = ref::clamped_glu(g[r][c], u[r][c]); break;
          }
        }
      }
      return weighted(dy, y);
    };
    expect_gradient(g, loss, read("dgate", dgate));
    expect_gradient(u, loss, read("dup", dup));
  }
}

TEST_F(Gradients, OfTheHeadsLoss) {
  for (const auto& [biased, logits] : {std::pair(false, LogitParams()),
                                       {true, LogitParams()},
                                       {true, LogitParams{.factor = 0.25f}},
                                       {false, LogitParams{.cap = 2}},
                                       {true, LogitParams{.factor = 3, .cap = 1.5f}}}) {
    const HostMatrix h = normal(5, 64), bias = normal(1, 11);
    const HostWeight host = random_weight(random_, 11, 64, Format::affine(4, 32, DType::f16, DType::f16), 0.2);
    const std::vector<int32_t> targets = {3, -1, 10, 0, 5};
    const std::vector<float> weights = {0.5f, 7, -1, 0, 2};
    std::vector<float> losses(5, -1.0f);
    Tensor dh;
    const Weight head = ref_->pack(host);
    const double total =
        grad_.head_loss(upload(h), head, biased ? upload(bias) : Tensor(), logits, targets, weights, losses, &dh);

    const WideWeight w = widen(host);
    Matrix x = complex_of(h);
    const auto loss = [&] {
      C sum = 0;
      for (size_t r = 0; r < 5; ++r) {
        if (targets[r] < 0) continue;
        C exponentials = 0, hit = 0;
        for (size_t n = 0; n < 11; ++n) {
          C z = biased ? double(bias.values[n]) : 0;
          for (size_t k = 0; k < 64; ++k) z += x[r][k] * w.value[n * 64 + k];
          z *= double(logits.factor);
          if (logits.cap > 0) z = ref::soft_cap(z, double(logits.cap));
          exponentials += std::exp(z);
          if (int32_t(n) == targets[r]) hit = z;
        }
        EXPECT_NEAR(double(losses[r]), (std::log(exponentials) - hit).real(), 1e-6);
        sum += double(weights[r]) * (std::log(exponentials) - hit);
      }
      return sum;
    };
    EXPECT_NEAR(total, loss().real(), 1e-12 * 10);
    EXPECT_EQ(losses[1], 0.0f);
    expect_gradient(x, loss, read("dh", dh));
    EXPECT_EQ(
        grad_.head_loss(upload(h), head, biased ? upload(bias) : Tensor(), logits, targets, weights, losses, nullptr),
        total);
  }
}

TEST_F(Gradients, OfProductsThatShareAnInput) {
  const HostWeight first = random_weight(random_, 5, 64, Format::affine(3, 32, DType::bf16, DType::bf16), 0.2),
                   second = random_weight(random_, 3, 64, Format::dense(DType::bf16), 0.2);
  const HostMatrix x = normal(2, 64), dy1 = normal(2, 5), dy2 = normal(2, 3);
  const Weight w1 = ref_->pack(first), w2 = ref_->pack(second);
  const Tensor dy[] = {upload(dy1), upload(dy2)};
  const Weight* const weights[] = {&w1, &w2};
  Matrix wide = complex_of(x);
  const auto loss = [&] {
    C sum = 0;
    for (const auto& [host, c] : {std::pair(&first, &dy1), std::pair(&second, &dy2)}) {
      const WideWeight w = widen(*host);
      for (size_t r = 0; r < 2; ++r) {
        for (size_t i = 0; i < size_t(w.out) * 64; ++i)
          sum += double(c->row(int(r))[i / 64]) * w.value[i] * wide[r][i % 64];
      }
    }
    return sum;
  };
  expect_gradient(wide, loss, read("dx", grad_.matmul_dx(dy, weights)));
}

TEST_F(Gradients, GemmTransposesScalesAndAccumulates) {
  const HostMatrix a = {2, 3, {1, 2, 3, 4, 5, 6}}, b = {3, 2, {1, 0, 2, 1, 0, 1}}, a_t = {3, 2, {1, 4, 2, 5, 3, 6}},
                   b_t = {2, 3, {1, 2, 0, 0, 1, 1}};
  using Op = GradOps::Op;
  for (const Op op_a : {Op::plain, Op::transposed}) {
    for (const Op op_b : {Op::plain, Op::transposed}) {
      Tensor c;
      grad_.gemm(2, upload(op_a == Op::plain ? a : a_t), op_a, upload(op_b == Op::plain ? b : b_t), op_b, 0, c);
      EXPECT_EQ(read("c", c).values, (std::vector<float>{10, 10, 28, 22}));
      grad_.gemm(-1, upload(op_a == Op::plain ? a : a_t), op_a, upload(op_b == Op::plain ? b : b_t), op_b, 0.5f, c);
      EXPECT_EQ(read("c", c).values, (std::vector<float>{0, 0, 0, 0}));
    }
  }
}

TEST_F(Gradients, OfFactorsByColumn) {
  const HostMatrix x = normal(4, 6), f = normal(1, 6), c = normal(4, 6);
  Tensor y = upload(x);
  grad_.multiply_columns(y, upload(f));
  const Output got = read("y", y);
  for (size_t i = 0; i < 24; ++i) EXPECT_EQ(got.values[i], x.values[i] * f.values[i % 6]);
  Matrix factor = complex_of(f);
  const auto loss = [&] {
    C sum = 0;
    for (size_t i = 0; i < 24; ++i) sum += double(c.values[i]) * double(x.values[i]) * factor[0][i % 6];
    return sum;
  };
  expect_gradient(factor, loss, read("df", grad_.column_dots(upload(c), upload(x))));
}

TEST_F(Gradients, RowLengthsAreThoseOfTheSum) {
  const HostWeight host = random_weight(random_, 9, 32, Format::affine(4, 32, DType::bf16, DType::bf16), 0.2);
  const HostMatrix a = normal(3, 32), b = normal(9, 3);
  const WideWeight w = widen(host);
  const Output got = read("lengths", grad_.row_lengths(ref_->pack(host), upload(a), upload(b), 0.5f));
  ASSERT_EQ(got.cols, 9);
  for (size_t n = 0; n < 9; ++n) {
    double squares = 0;
    for (size_t k = 0; k < 32; ++k) {
      double value = w.value[n * 32 + k];
      for (size_t i = 0; i < 3; ++i) value += 0.5 * double(b.values[n * 3 + i]) * double(a.values[i * 32 + k]);
      squares += value * value;
    }
    EXPECT_NEAR(got.values[n], std::sqrt(squares), 2 * kRoundF32 * std::sqrt(squares));
  }
}

TEST_F(Gradients, DropoutKeepsTheExpectationAndItsMask) {
  constexpr int kRows = 40, kCols = 333;
  const HostMatrix ones = {kRows, kCols, std::vector<float>(size_t(kRows) * kCols, 1.0f)};
  const DropoutKey key = {.seed = 7, .step = 3, .site = 11};
  const auto mask = [&](float p, const DropoutKey& k) { return read("y", grad_.dropout(upload(ones), p, k)).values; };
  const std::vector<float> y = mask(0.25f, key);
  double dropped = 0;
  for (const float v : y) {
    EXPECT_TRUE(v == 0 || v == dropout_scale(dropout_threshold(0.25f))) << v;
    dropped += v == 0;
  }
  const double n = double(y.size());
  EXPECT_NEAR(dropped / n, 0.25, 5 * std::sqrt(0.25 * 0.75 / n));  // five standard deviations
  EXPECT_EQ(mask(0.25f, key), y);
  EXPECT_EQ(mask(0, key), ones.values);
  for (const DropoutKey& other : {DropoutKey{8, 3, 11}, DropoutKey{7, 4, 11}, DropoutKey{7, 3, 12}}) {
    const std::vector<float> z = mask(0.25f, other);
    double same = 0;
    for (size_t i = 0; i < z.size(); ++i) same += (z[i] == 0) == (y[i] == 0);
    EXPECT_NEAR(same / n, 0.625, 5 * std::sqrt(0.625 * 0.375 / n));  // as independent masks agree
  }
}

TEST_F(Gradients, OfWeightsOfExperts) {
  using enum RouterParams::Score;
  const HostMatrix bias = normal(1, 6, 0.3), scale = normal(1, 6);
  for (const RouterParams& router : std::vector<RouterParams>{
           {.experts = 6, .top_k = 3, .bias = {}},
           {.experts = 6, .top_k = 3, .bias = {}, .normalise = false, .scale = 2.5f},
           {.experts = 6, .top_k = 2, .bias = {}, .groups = 3, .top_groups = 2},
           {.experts = 6, .top_k = 3, .bias = {}, .expert_scale = upload(scale)},
           {.score = sigmoid, .experts = 6, .top_k = 3, .bias = upload(bias)},
           {.score = sigmoid, .experts = 6, .top_k = 3, .bias = upload(bias), .beside_sum = 0.5},
           {.score = sigmoid, .experts = 6, .top_k = 2, .bias = {}, .normalise = false, .scale = 0.5f}}) {
    const HostMatrix logits = normal(4, 6), dweights = normal(4, router.top_k);
    bind_plain(*ref_, {.rows = 4});
    const Routing routing = ref_->stream().ops().route(upload(logits), router);
    Matrix z = complex_of(logits);
    const std::vector<double> added(bias.values.begin(), bias.values.end()),
        scales(scale.values.begin(), scale.values.end());
    const auto loss = [&] {
      C sum = 0;
      for (size_t r = 0; r < 4; ++r) {
        const auto choice = ref::route<C>(
            std::span<const C>(z[r]), router, router.bias ? std::span<const double>(added) : std::span<const double>(),
            router.expert_scale ? std::span<const double>(scales) : std::span<const double>());
        for (size_t j = 0; j < choice.weights.size(); ++j) sum += double(dweights.row(int(r))[j]) * choice.weights[j];
      }
      return sum;
    };
    expect_gradient(z, loss, read("dlogits", grad_.route_dx(upload(dweights), upload(logits), routing, router)));
  }
}

/// Two of four experts for each of five rows.
class ExpertGradients : public Gradients {
 protected:
  static constexpr int kRows = 5, kTopK = 2, kExperts = 4, kAll = kRows * kTopK;
  ExpertGradients() {
    bind_plain(*ref_, {.rows = kRows});
    routing_ =
        ref_->stream().ops().route(upload(normal(kRows, kExperts)), {.experts = kExperts, .top_k = kTopK, .bias = {}});
    for (const auto& [tensor, to] : {std::pair(&routing_.experts, &expert_), std::pair(&routing_.order, &order_)}) {
      to->resize(kAll);
      ref_->read_bytes(*tensor, std::as_writable_bytes(std::span(*to)));
    }
  }
  Routing routing_;
  std::vector<int32_t> expert_, order_;  // [rows, top_k]
};

TEST_F(ExpertGradients, OfSums) {
  const HostMatrix y = normal(kAll, 7), dsum = normal(kRows, 7),
                   weights = {kRows, kTopK, read("w", routing_.weights).values};
  Tensor dy, dweights;
  // As they were read, so that both sides multiply by the same numbers.
  routing_.weights = upload(weights);
  grad_.sum_experts_dx(upload(dsum), upload(y), routing_, dy, dweights);
  Matrix values = complex_of(y), w = complex_of(weights);
  const auto loss = [&] {
    C sum = 0;
    for (size_t i = 0; i < kAll; ++i) {
      for (size_t c = 0; c < 7; ++c)
        sum += double(dsum.row(int(i) / kTopK)[c]) * w[i / kTopK][i % kTopK] * values[size_t(order_[i])][c];
    }
    return sum;
  };
  expect_gradient(values, loss, read("dy", dy));
  expect_gradient(w, loss, read("dweights", dweights));
}

TEST_F(ExpertGradients, OfProducts) {
  const HostMatrix x = normal(kRows, 64), dy1 = normal(kAll, 5), dy2 = normal(kAll, 3);
  std::vector<HostWeight> first, second;
  std::vector<Weight> packed1, packed2;
  for (int e = 0; e < kExperts; ++e) {
    first.push_back(random_weight(random_, 5, 64, Format::affine(3, 32, DType::bf16, DType::bf16), 0.2));
    second.push_back(random_weight(random_, 3, 64, Format::dense(DType::bf16), 0.2));
    packed1.push_back(ref_->pack(first.back()));
    packed2.push_back(ref_->pack(second.back()));
  }
  const Weight stack1 = ref_->stack(packed1), stack2 = ref_->stack(packed2);
  const Weight* const stacks[] = {&stack1, &stack2};
  const Tensor dy[] = {upload(dy1), upload(dy2)};
  Matrix wide = complex_of(x);
  const auto loss = [&] {
    C sum = 0;
    for (const auto& [hosts, c] : {std::pair(&first, &dy1), std::pair(&second, &dy2)}) {
      for (size_t i = 0; i < kAll; ++i) {
        const WideWeight w = widen((*hosts)[size_t(expert_[i])]);
        for (size_t n = 0; n < size_t(w.out) * 64; ++n)
          sum += double(c->row(order_[i])[n / 64]) * w.value[n] * wide[i / kTopK][n % 64];
      }
    }
    return sum;
  };
  // By assignment first, then summed over those of a row: the gradient with respect to what was spread.
  const Tensor by_assignment = grad_.matmul_experts_dx(dy, stacks, routing_);
  EXPECT_EQ(by_assignment.rows(), kAll);
  expect_gradient(wide, loss, read("dx", grad_.spread_rows_dx(by_assignment, routing_)));
}

TEST_F(ExpertGradients, SpreadRowsAreThoseOfTheirAssignments) {
  const HostMatrix x = normal(kRows, 3);
  const Output y = read("y", grad_.spread_rows(upload(x), routing_));
  ASSERT_EQ(y.rows, kAll);
  for (size_t i = 0; i < kAll; ++i) {
    for (size_t c = 0; c < 3; ++c) EXPECT_EQ(y.values[size_t(order_[i]) * 3 + c], x.row(int(i) / kTopK)[c]);
  }
}

TEST_F(Gradients, OfGatedRows) {
  HostMatrix y = normal(4, 6), gate = normal(4, 1, 3), dout = normal(4, 6);
  gate.values[1] = 0;
  gate.values[2] = -40;
  Tensor dy, dgate;
  grad_.gate_rows_dx(upload(dout), upload(y), upload(gate), dy, dgate);
  Matrix values = complex_of(y), g = complex_of(gate);
  const auto loss = [&] {
    Matrix out = values;
    for (size_t r = 0; r < 4; ++r) {
      for (C& v : out[r]) v *= ref::sigmoid(g[r][0]);
    }
    return weighted(dout, out);
  };
  expect_gradient(values, loss, read("dy", dy));
  expect_gradient(g, loss, read("dgate", dgate));
}

}  // namespace
}  // namespace bumblebee::gradients
