// What the tests of derivatives share: the reference's against those of its own forward definitions
// (backend/ref/math.h), found by complex step. f(x + ih)/h has no cancellation, so what remains is one rounding when a
// result is read as f32.
#pragma once

#include <gtest/gtest.h>

#include <complex>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/ops/cases/common.h"
#include "tests/support/backends.h"

namespace bumblebee::gradients {

using namespace op_cases;
using namespace testing_support;
using C = std::complex<double>;
using Matrix = std::vector<std::vector<C>>;

inline constexpr double kStep = 1e-30;

inline Matrix complex_of(const HostMatrix& m) {
  Matrix wide(size_t(m.rows));
  for (int r = 0; r < m.rows; ++r) wide[size_t(r)].assign(m.row(r), m.row(r) + m.cols);
  return wide;
}

/// Σ c∘y
inline C weighted(const HostMatrix& c, const Matrix& y) {
  C sum = 0;
  for (int r = 0; r < c.rows; ++r) {
    for (int i = 0; i < c.cols; ++i) sum += double(c.row(r)[i]) * y[size_t(r)][size_t(i)];
  }
  return sum;
}

/// d loss / d x, element by element, against `got`. Reading rounds once; the sums in double are off by far less than
/// 1e-12 of the largest element.
inline void expect_gradient(Matrix& x, const std::function<C()>& loss, const Output& got) {
  ASSERT_EQ(got.rows, int(x.size()));
  ASSERT_EQ(got.cols, int(x[0].size()));
  std::vector<double> want;
  double largest = 0;
  for (auto& row : x) {
    for (C& element : row) {
      element += C(0, kStep);
      want.push_back(loss().imag() / kStep);
      element = element.real();
      largest = std::max(largest, std::abs(want.back()));
    }
  }
  ASSERT_GT(largest, 0);
  for (size_t i = 0; i < want.size(); ++i)
    EXPECT_NEAR(double(got.values[i]), want[i], kRoundF32 * std::abs(want[i]) + 1e-12 * largest)
        << got.what << " [" << i / size_t(got.cols) << ", " << i % size_t(got.cols) << "]";
}

class Gradients : public testing::Test {
 protected:
  Tensor upload(const HostMatrix& m) { return ref_->upload(m.values, m.rows, m.cols); }
  Output read(const std::string& what, const Tensor& t) { return read_output(*ref_, what, t); }
  HostMatrix normal(int rows, int cols, double deviation = 1) {
    return {rows, cols, random_.normals(size_t(rows) * size_t(cols), deviation)};
  }

  const std::unique_ptr<Backend> ref_ = create_reference();
  GradOps& grad_ = *ref_->stream().grad_ops();
  Random random_{31};
};

inline void bind_segments(Backend& backend, const std::vector<int>& lengths) {
  Batch batch;
  for (const int rows : lengths)
    batch.append(std::vector<int32_t>(size_t(rows), 0), 0, std::vector<int32_t>{0}, Batch::Want::none);
  backend.stream().bind(batch, nullptr);
}

}  // namespace bumblebee::gradients
