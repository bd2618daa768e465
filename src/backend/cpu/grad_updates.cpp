// Steps of optimizers. Parameters are many and small, so that threads divide the elements of all of them, or whole
// parameters where one has sums. These are the only kernels that are not in isa/: every operator rounds to f32 in the
// order of mlx.optimizers (no fused multiply-add), which is the same for every instruction set.
#include <algorithm>
#include <cmath>

#include "backend/cpu/grad_ops.h"

namespace bumblebee::cpu {
namespace {

constexpr int64_t kSerialElements = 1 << 14;  // elements below which waking other threads does not pay
constexpr int64_t kGrain = 64;

int64_t count(const Tensor& t) { return int64_t{t.rows()} * t.cols(); }
bool same_shape(const Tensor& a, const Tensor& b) { return a.rows() == b.rows() && a.cols() == b.cols(); }

/// Calls body(i, first, last) for ranges of the elements of tensor_of(i), i < terms, from all threads.
template <class TensorOf, class Body>
void for_elements(ThreadPool& threads, size_t terms, const TensorOf& tensor_of, const Body& body) {
  int64_t total = 0;
  for (size_t i = 0; i < terms; ++i) total += count(tensor_of(i));
  const auto part = [&](int64_t first, int64_t last, int) {
    int64_t begin = 0;
    for (size_t i = 0; i < terms && begin < last; ++i) {
      const int64_t end = begin + count(tensor_of(i));
      if (first < end) body(i, std::max(first, begin) - begin, std::min(last, end) - begin);
      begin = end;
    }
  };
  if (total < kSerialElements) {
    part(0, total, 0);
  } else {
    threads.for_ranges(total, kGrain, part);
  }
}

void adam_range(const AdamTerm& t, int64_t first, int64_t last) {
  const AdamStep s = t.step;
  const float* __restrict g = data(t.g);
  float* __restrict w = data(t.w);
  float* __restrict m = data(t.m);
  float* __restrict v = data(t.v);
  for (int64_t i = first; i < last; ++i) {
    m[i] = s.b1 * m[i] + s.rest1 * g[i];
    v[i] = s.b2 * v[i] + s.rest2 * (g[i] * g[i]);
    w[i] = w[i] * s.keep - s.c1 * m[i] / (std::sqrt(v[i]) * s.c2 + s.eps);
  }
}

void adafactor_vector(const AdafactorTerm& t) {
  const float *g = data(t.g), eps = t.eps, beta = t.beta;
  float *moments = data(t.cols), *update = data(t.update);
  for (int64_t i = 0; i < count(t.g); ++i) {
    moments[i] = beta * moments[i] + (1 - beta) * (g[i] * g[i] + eps);
    update[i] = g[i] / std::sqrt(moments[i]);
  }
}

/// Room of one thread; made before threads begin, which must not fail.
struct FactorRoom {
  explicit FactorRoom(size_t cols) : col_sum(cols), by_col(cols) {}
  std::vector<double> col_sum;
  std::vector<float> by_col;
};

/// Sums by rows and by columns run over columns and rows in order.
void adafactor_matrix(const AdafactorTerm& t, FactorRoom& room) {
  const int rows = t.g.rows(), cols = t.g.cols();
  const float eps = t.eps, beta = t.beta;
  double* col_sum = room.col_sum.data();
  float *row_moments = data(t.rows), *col_moments = data(t.cols), *by_col = room.by_col.data();
  std::fill_n(col_sum, cols, 0.0);
  double mean = 0;
  for (int r = 0; r < rows; ++r) {
    const float* g = row(t.g, r);
    double row_sum = 0;
    for (int c = 0; c < cols; ++c) {
      const double square = double(g[c] * g[c] + eps);
      row_sum += square;
      col_sum[c] += square;
    }
    row_moments[r] = beta * row_moments[r] + (1 - beta) * float(row_sum / double(cols));
    mean += double(row_moments[r]) / double(rows);
  }
  for (int c = 0; c < cols; ++c) {
    col_moments[c] = beta * col_moments[c] + (1 - beta) * float(col_sum[c] / double(rows));
    by_col[c] = 1 / std::sqrt(col_moments[c]);
  }
  for (int r = 0; r < rows; ++r) {
    const float by_row = 1 / std::sqrt(row_moments[r] / float(mean)), *g = row(t.g, r);
    float* update = row(t.update, r);
    for (int c = 0; c < cols; ++c) update[c] = by_row * by_col[c] * g[c];
  }
}

void transpose(const float* from, size_t rows, size_t cols, float* to) {
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < cols; ++c) to[c * rows + r] = from[r * cols + c];
  }
}

/// Newton-Schulz on matrices up to a size; room of one thread.
class Orthogonalizer {
 public:
  Orthogonalizer(size_t elements, size_t shorter, size_t longer)
      : x_(elements), other_(elements), square_(shorter * shorter), poly_(shorter * shorter), sums_(longer) {}

  void run(const Tensor& t, int steps) {
    const bool tall = t.rows() > t.cols();
    const size_t n = size_t(std::min(t.rows(), t.cols())), m = size_t(std::max(t.rows(), t.cols())), size = n * m;
    if (tall) {
      transpose(data(t), m, n, x_.data());
    } else {
      std::copy_n(data(t), size, x_.begin());
    }
    double squares = 0;
    for (size_t i = 0; i < size; ++i) squares += double(x_[i]) * double(x_[i]);
    const float length = float(std::sqrt(squares)) + 1e-7f;
    for (size_t i = 0; i < size; ++i) x_[i] /= length;
    for (int step = 0; step < steps; ++step) {
      transpose(x_.data(), n, m, other_.data());
      product(1, x_, other_, 0, {}, n, m, n, square_);
      product(2.0315f, square_, square_, -4.7750f, square_, n, n, n, poly_);
      product(1, poly_, x_, 3.4445f, x_, n, n, m, other_);
      std::swap(x_, other_);
    }
    if (tall) {
      transpose(x_.data(), n, m, data(t));
    } else {
      std::copy_n(x_.begin(), size, data(t));
    }
  }

 private:
  /// y = p·a·b + q·c for a [n, k], b [k, m], c and y [n, m]. Each sum runs over k in order; lanes run along m.
  void product(float p, std::span<const float> a, std::span<const float> b, float q, std::span<const float> c, size_t n,
               size_t k, size_t m, std::span<float> y) {
    for (size_t i = 0; i < n; ++i) {
      std::fill_n(sums_.begin(), m, 0.0);
      for (size_t l = 0; l < k; ++l) {
        const double factor = double(a[i * k + l]);
        const float* from = b.data() + l * m;
        for (size_t j = 0; j < m; ++j) sums_[j] += factor * double(from[j]);
      }
      for (size_t j = 0; j < m; ++j)
        y[i * m + j] = float(double(p) * sums_[j] + (q != 0 ? double(q) * double(c[i * m + j]) : 0));
    }
  }

  std::vector<float> x_, other_, square_, poly_;
  std::vector<double> sums_;
};

}  // namespace

void CpuGradOps::clear(std::span<const Tensor> list) {
  for (const Tensor& y : list) ops_.forget_quantized(y);
  for_elements(
      threads_, list.size(), [&](size_t i) -> const Tensor& { return list[i]; },
      [&](size_t i, int64_t first, int64_t last) { std::fill(data(list[i]) + first, data(list[i]) + last, 0.0f); });
}

void CpuGradOps::axpby(std::span<const AxpbyTerm> terms) {
  for (const AxpbyTerm& t : terms) {
    BB_CHECK(same_shape(t.x, t.y));
    ops_.forget_quantized(t.y);
  }
  for_elements(
      threads_, terms.size(), [&](size_t i) -> const Tensor& { return terms[i].y; },
      [&](size_t term, int64_t first, int64_t last) {
        const float a = terms[term].a, b = terms[term].b, *x = data(terms[term].x);
        float* y = data(terms[term].y);
        for (int64_t i = first; i < last; ++i) y[i] = a * y[i] + b * x[i];
      });
}

void CpuGradOps::scale(std::span<const ScaleTerm> terms) {
  for (const ScaleTerm& t : terms) ops_.forget_quantized(t.y);
  for_elements(
      threads_, terms.size(), [&](size_t i) -> const Tensor& { return terms[i].y; },
      [&](size_t term, int64_t first, int64_t last) {
        const float factor = terms[term].factor, divisor = terms[term].divisor;
        float* y = data(terms[term].y);
        for (int64_t i = first; i < last; ++i) y[i] = factor * (y[i] / divisor);
      });
}

void CpuGradOps::divide(std::span<const Tensor> y, std::span<const Tensor> x) {
  BB_CHECK(y.size() == x.size());
  for (size_t t = 0; t < y.size(); ++t) {
    BB_CHECK(same_shape(x[t], y[t]));
    ops_.forget_quantized(y[t]);
  }
  for_elements(
      threads_, y.size(), [&](size_t i) -> const Tensor& { return y[i]; },
      [&](size_t t, int64_t first, int64_t last) {
        const float* by = data(x[t]);
        float* at = data(y[t]);
        for (int64_t i = first; i < last; ++i) at[i] /= by[i];
      });
}

void CpuGradOps::adam(std::span<const AdamTerm> terms) {
  for (const AdamTerm& t : terms) {
    BB_CHECK(same_shape(t.g, t.w) && same_shape(t.m, t.w) && same_shape(t.v, t.w));
    ops_.forget_quantized(t.w);
  }
  for_elements(
      threads_, terms.size(), [&](size_t i) -> const Tensor& { return terms[i].w; },
      [&](size_t i, int64_t first, int64_t last) { adam_range(terms[i], first, last); });
}

void CpuGradOps::adafactor(std::span<AdafactorTerm> terms) {
  size_t cols = 0;
  for (AdafactorTerm& t : terms) {
    BB_CHECK(t.rows ? t.rows.cols() == t.g.rows() && t.cols.cols() == t.g.cols() : same_shape(t.cols, t.g));
    t.update = ops_.memory_->make(t.g.rows(), t.g.cols());
    cols = std::max(cols, size_t(t.g.cols()));
  }
  std::vector<FactorRoom> rooms(size_t(threads_.threads()), FactorRoom(cols));
  threads_.for_each(int64_t(terms.size()), [&](int64_t i, int thread) {
    const AdafactorTerm& t = terms[size_t(i)];
    t.rows ? adafactor_matrix(t, rooms[size_t(thread)]) : adafactor_vector(t);
  });
}

void CpuGradOps::orthogonalize(std::span<const Tensor> list, int steps) {
  size_t elements = 0, shorter = 0, longer = 0;
  for (const Tensor& x : list) {
    ops_.forget_quantized(x);
    elements = std::max(elements, size_t(count(x)));
    shorter = std::max(shorter, size_t(std::min(x.rows(), x.cols())));
    longer = std::max(longer, size_t(std::max(x.rows(), x.cols())));
  }
  std::vector<Orthogonalizer> rooms(size_t(threads_.threads()), Orthogonalizer(elements, shorter, longer));
  threads_.for_each(int64_t(list.size()),
                    [&](int64_t i, int thread) { rooms[size_t(thread)].run(list[size_t(i)], steps); });
}

void CpuGradOps::sum_squares(std::span<const Tensor> list, std::span<double> sums) {
  BB_CHECK(list.size() == sums.size());
  threads_.for_each(int64_t(list.size()), [&](int64_t t, int) {
    const float* x = data(list[size_t(t)]);
    double sum = 0;
    for (int64_t i = 0; i < count(list[size_t(t)]); ++i) sum += double(x[i]) * double(x[i]);
    sums[size_t(t)] = sum;
  });
}

void CpuGradOps::read_all(std::span<const Tensor> list, std::span<float> flat) {
  size_t at = 0;
  for (const Tensor& x : list) {
    const size_t size = size_t(count(x));
    BB_CHECK(at + size <= flat.size());
    std::copy_n(data(x), size, flat.begin() + int64_t(at));
    at += size;
  }
  BB_CHECK(at == flat.size(), at, " of ", flat.size());
}

void CpuGradOps::write_all(std::span<const float> flat, std::span<const Tensor> list) {
  size_t at = 0;
  for (const Tensor& x : list) {
    const size_t size = size_t(count(x));
    BB_CHECK(at + size <= flat.size());
    ops_.forget_quantized(x);
    std::copy_n(flat.begin() + int64_t(at), size, data(x));
    at += size;
  }
  BB_CHECK(at == flat.size(), at, " of ", flat.size());
}

}  // namespace bumblebee::cpu
