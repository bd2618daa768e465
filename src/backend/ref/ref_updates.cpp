// Steps of optimizers: loops around update_math.h. Tensors hold doubles, which are read and written as the f32 that
// they stand for.
#include "backend/ref/math.h"
#include "backend/ref/ref_grad_ops.h"
#include "backend/ref/ref_tensor.h"
#include "backend/ref/update_math.h"

namespace bumblebee::ref {
namespace {

size_t count(const Tensor& t) { return size_t(t.rows()) * size_t(t.cols()); }

std::span<double> all(const Tensor& t) {
  return count(t) == 0 ? std::span<double>() : std::span(row(t, 0).data(), count(t));
}

std::vector<float> floats(const Tensor& t) {
  std::vector<float> values;
  for (const double v : all(t)) values.push_back(float(v));
  return values;
}

void put(std::span<const float> values, const Tensor& t) { std::copy(values.begin(), values.end(), all(t).begin()); }

}  // namespace

void RefGradOps::add_row(Tensor& y, const Tensor& delta) {
  BB_CHECK(delta.cols() == y.cols());
  for (int r = 0; r < y.rows(); ++r) add<double>(row(y, r), row(delta, 0));
}

void RefGradOps::clear(std::span<const Tensor> list) {
  for (const Tensor& y : list) std::fill(all(y).begin(), all(y).end(), 0.0);
}

void RefGradOps::axpby(std::span<const AxpbyTerm> terms) {
  for (const AxpbyTerm& t : terms) {
    BB_CHECK(t.x.rows() == t.y.rows() && t.x.cols() == t.y.cols());
    for (size_t i = 0; i < count(t.y); ++i) {
      double& y = all(t.y)[i];
      y = double(ref::axpby(t.a, float(y), t.b, float(all(t.x)[i])));
    }
  }
}

void RefGradOps::scale(std::span<const ScaleTerm> terms) {
  for (const ScaleTerm& t : terms) {
    for (double& y : all(t.y)) y = double(t.factor * (float(y) / t.divisor));
  }
}

void RefGradOps::divide(std::span<const Tensor> y, std::span<const Tensor> x) {
  BB_CHECK(y.size() == x.size());
  for (size_t t = 0; t < y.size(); ++t) {
    BB_CHECK(x[t].rows() == y[t].rows() && x[t].cols() == y[t].cols());
    for (size_t i = 0; i < count(y[t]); ++i) all(y[t])[i] = double(float(all(y[t])[i]) / float(all(x[t])[i]));
  }
}

void RefGradOps::adam(std::span<const AdamTerm> terms) {
  for (const AdamTerm& t : terms) {
    for (size_t i = 0; i < count(t.w); ++i) {
      float w = float(all(t.w)[i]), m = float(all(t.m)[i]), v = float(all(t.v)[i]);
      ref::adam(t.step, float(all(t.g)[i]), w, m, v);
      all(t.w)[i] = double(w);
      all(t.m)[i] = double(m);
      all(t.v)[i] = double(v);
    }
  }
}

void RefGradOps::adafactor(std::span<AdafactorTerm> terms) {
  for (AdafactorTerm& t : terms) {
    const std::vector<float> g = floats(t.g);
    std::vector<float> cols = floats(t.cols), update(g.size());
    if (t.rows) {
      BB_CHECK(t.rows.cols() == t.g.rows() && t.cols.cols() == t.g.cols());
      std::vector<float> rows = floats(t.rows);
      adafactor_matrix(g, t.eps, t.beta, rows, cols, update);
      put(rows, t.rows);
    } else {
      BB_CHECK(cols.size() == g.size());
      adafactor_vector(g, t.eps, t.beta, cols, update);
    }
    put(cols, t.cols);
    t.update = make_tensor(t.g.rows(), t.g.cols());
    put(update, t.update);
  }
}

void RefGradOps::orthogonalize(std::span<const Tensor> list, int steps) {
  for (const Tensor& t : list) {
    const size_t rows = size_t(t.rows()), cols = size_t(t.cols());
    const bool tall = rows > cols;
    std::vector<float> x(rows * cols);
    const auto place = [&](size_t r, size_t c) { return tall ? c * rows + r : r * cols + c; };
    for (size_t r = 0; r < rows; ++r) {
      for (size_t c = 0; c < cols; ++c) x[place(r, c)] = float(row(t, int(r))[c]);
    }
    ref::orthogonalize(x, std::min(rows, cols), std::max(rows, cols), steps);
    for (size_t r = 0; r < rows; ++r) {
      for (size_t c = 0; c < cols; ++c) row(t, int(r))[c] = double(x[place(r, c)]);
    }
  }
}

void RefGradOps::sum_squares(std::span<const Tensor> list, std::span<double> sums) {
  BB_CHECK(list.size() == sums.size());
  for (size_t t = 0; t < list.size(); ++t) {
    sums[t] = 0;
    for (const double v : all(list[t])) sums[t] += double(float(v)) * double(float(v));
  }
}

void RefGradOps::read_all(std::span<const Tensor> list, std::span<float> flat) {
  size_t at = 0;
  for (const Tensor& t : list) {
    BB_CHECK(at + count(t) <= flat.size());
    for (const double v : all(t)) flat[at++] = float(v);
  }
  BB_CHECK(at == flat.size(), at, " of ", flat.size());
}

void RefGradOps::write_all(std::span<const float> flat, std::span<const Tensor> list) {
  size_t at = 0;
  for (const Tensor& t : list) {
    BB_CHECK(at + count(t) <= flat.size());
    put(flat.subspan(at, count(t)), t);
    at += count(t);
  }
  BB_CHECK(at == flat.size(), at, " of ", flat.size());
}

}  // namespace bumblebee::ref
