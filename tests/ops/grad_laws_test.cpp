// What must hold between derivatives of one backend, whatever their values: a run of training can be resumed bit for
// bit on any number of threads, and what is written in place is not remembered as it was.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "tests/ops/cases/common.h"
#include "tests/support/backends.h"

namespace bumblebee {
namespace {

using namespace op_cases;
using namespace testing_support;

class GradLaws : public testing::TestWithParam<Target> {};
INSTANTIATE_TEST_SUITE_P(All, GradLaws, testing::ValuesIn(training(targets_of_one_thread())),
                         [](const auto& p) { return p.param.name(); });

TEST_P(GradLaws, ThreadsDoNotChangeABit) {
  std::vector<std::unique_ptr<Backend>> backends;
  for (const int threads : {1, 2, 3}) {
    Target target = GetParam();
    target.options.threads = threads;
    backends.push_back(target.create());
  }
  for (const char* operation : {"attend_packed",  "attend_packed_dqkv",
                                "conv_packed",    "conv_packed_dx",
                                "delta_packed",   "delta_packed_dx",
                                "split_dx",       "matmul_dx",
                                "route_dx",       "spread_rows",
                                "spread_rows_dx", "matmul_experts_dx",
                                "sum_experts_dx", "gate_rows_dx",
                                "gemm",           "rms_norm_dx",
                                "norm_rope_dx",   "glu_dx",
                                "head_loss",      "axpy",
                                "dropout",        "multiply_columns",
                                "column_dots",    "row_lengths",
                                "add_row",        "clear",
                                "axpby",          "scale",
                                "divide",         "adam",
                                "adafactor",      "orthogonalize",
                                "sum_squares",    "read_all",
                                "write_all"}) {
    const Cases cases = cases_of(operation);
    for (const auto& op_case : cases) {
      const std::vector<Output> alone = op_case->run(*backends[0]);
      for (size_t b = 0; b < backends.size(); ++b) {
        const std::vector<Output> got = op_case->run(*backends[b]);
        for (size_t i = 0; i < got.size(); ++i)
          ASSERT_EQ(got[i].values, alone[i].values)
              << op_case->name() << ", " << got[i].what << ", " << b + 1 << " threads";
      }
    }
  }
}

/// Products remember what they rounded of their input; a change in place must undo that.
TEST_P(GradLaws, AProductSeesWhatWasWrittenInPlace) {
  const auto backend = GetParam().create();
  Random random(41);
  constexpr int kRows = 6, kCols = 64;
  bind_plain(*backend, {.rows = kRows});
  const Weight weight =
      backend->pack(random_weight(random, 20, kCols, Format::affine(4, 32, DType::f16, DType::f16), 0.1));
  const NormParams norm{backend->upload(random.normals(kCols, 1), 1, kCols), 1e-6f};
  const HostMatrix m = random_rows(random, kRows, kCols), other = random_rows(random, kRows, kCols);
  const HostMatrix square = random_rows(random, kCols, kCols);
  const auto upload = [&](const HostMatrix& h) { return backend->upload(h.values, h.rows, h.cols); };
  const auto product = [&](const Tensor& x) {
    const MatmulTerm term{&weight, nullptr};
    Tensor y;
    backend->stream().ops().matmul(x, {&term, 1}, {&y, 1});
    return read_output(*backend, "y", y);
  };
  product(upload(m));  // from now on norms round their result for products
  const std::function<void(Tensor&)> changes[] = {
      [&](Tensor& x) { backend->stream().grad_ops()->axpy(0.5f, upload(other), x); },
      [&](Tensor& x) { backend->stream().grad_ops()->multiply_columns(x, upload(other).slice_rows(0, 1)); },
      [&](Tensor& x) { backend->stream().grad_ops()->add_row(x, upload(other).slice_rows(0, 1)); },
      [&](Tensor& x) {
        backend->stream().grad_ops()->clear({&x, 1});
      },
      [&](Tensor& x) {
        const AxpbyTerm term = {.y = x, .x = upload(other), .b = 0.5f};
        backend->stream().grad_ops()->axpby({&term, 1});
      },
      [&](Tensor& x) {
        const ScaleTerm term = {.y = x, .factor = 0.5f, .divisor = 1};
        backend->stream().grad_ops()->scale({&term, 1});
      },
      [&](Tensor& x) {
        backend->stream().grad_ops()->write_all(other.values, {&x, 1});
      },
      [&](Tensor& x) {
        backend->stream().grad_ops()->gemm(1, upload(other), GradOps::Op::plain, upload(square), GradOps::Op::plain, 1,
                                           x);
      }};
  for (const auto& change : changes) {
    Tensor x = backend->stream().ops().rms_norm(upload(m), norm);
    const std::vector<float> before = product(x).values;
    change(x);
    const Output now = read_output(*backend, "x", x);
    const std::vector<float> got = product(x).values;
    EXPECT_NE(got, before);
    EXPECT_EQ(got, product(backend->upload(now.values, kRows, kCols)).values);
  }
}

/// NaN and infinity must reach the loss and the gradient: a trainer stops there.
TEST_P(GradLaws, ABrokenRowShowsInItsLossAlone) {
  const auto backend = GetParam().create();
  Random random(42);
  const Weight head = backend->pack(random_weight(random, 50, 64, Format::affine(4, 32, DType::f16, DType::f16), 0.1));
  HostMatrix h = random_rows(random, 5, 64);
  const std::vector<int32_t> targets = {1, 2, 3, 4, 5};
  const std::vector<float> weights(5, 1.0f);
  std::vector<float> clean(5), losses(5);
  bind_plain(*backend, {.rows = 5});
  Tensor dh;
  backend->stream().grad_ops()->head_loss(backend->upload(h.values, 5, 64), head, {}, {}, targets, weights, clean, &dh);
  const std::vector<float> clean_dh = read_output(*backend, "dh", dh).values;
  for (const float bad : {float(NAN), float(INFINITY)}) {
    h.values[64 + 3] = bad;  // row 1
    const double total = backend->stream().grad_ops()->head_loss(backend->upload(h.values, 5, 64), head, {}, {},
                                                                 targets, weights, losses, &dh);
    EXPECT_TRUE(std::isnan(total));
    const std::vector<float> got = read_output(*backend, "dh", dh).values;
    for (size_t r = 0; r < 5; ++r) {
      EXPECT_EQ(std::isnan(losses[r]), r == 1);
      if (r == 1) {
        EXPECT_TRUE(std::isnan(got[64]));
      } else {
        EXPECT_EQ(losses[r], clean[r]);
        EXPECT_TRUE(std::equal(got.begin() + int64_t(r) * 64, got.begin() + int64_t(r + 1) * 64,
                               clean_dh.begin() + int64_t(r) * 64));
      }
    }
  }
}

}  // namespace
}  // namespace bumblebee
