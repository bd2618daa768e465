// Derivatives of recurrent layers over whole segments: kernels and widths, chunks and their borders, states that forget
// and that remember; and of columns dealt out.
#include <algorithm>
#include <cmath>

#include "tests/ops/cases/common.h"

namespace bumblebee::op_cases {
namespace {

constexpr double kTinySlope = 0x1p-110;

int sum_of(const std::vector<int>& lengths) {
  int rows = 0;
  for (const int length : lengths) rows += length;
  return rows;
}

void bind_lengths(Backend& backend, const std::vector<int>& lengths) {
  Batch batch;
  for (const int length : lengths)
    batch.append(std::vector<int32_t>(size_t(length), 0), 0, std::vector<int32_t>{0}, Batch::Want::none);
  backend.stream().bind(batch, nullptr);
}

Tensor uploaded(Backend& backend, const HostMatrix& m) { return backend.upload(m.values, m.rows, m.cols); }

class SplitDxCase final : public OpCase {
 public:
  SplitDxCase(const std::string& variant, int rows, SplitParams split, int without)
      : OpCase("split_dx", variant), split_(std::move(split)), without_(without) {
    Random random(seed_of(name()));
    std::vector<int> cols;
    for (const SplitParams::Piece& piece : split_.pieces) {
      cols.resize(std::max(cols.size(), size_t(piece.to) + 1));
      cols[size_t(piece.to)] += piece.cols * split_.groups;
    }
    for (const int count : cols) dy_.push_back(random_rows(random, rows, count));
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = dy_[0].rows});
    std::vector<Tensor> dy;
    for (size_t i = 0; i < dy_.size(); ++i) dy.push_back(int(i) == without_ ? Tensor() : uploaded(backend, dy_[i]));
    return {read_output(backend, "dx", backend.stream().grad_ops()->split_dx(dy, split_))};
  }

  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>& reference) const override {
    return {std::vector<double>(reference[0].values.size(), 0)};
  }

 private:
  SplitParams split_;
  int without_;  // output that no gradient comes to; -1: none
  std::vector<HostMatrix> dy_;
};

class ConvDxCase final : public OpCase {
 public:
  ConvDxCase(const std::string& variant, int kernel, int cols, std::vector<int> lengths, bool silu)
      : OpCase("conv_packed_dx", variant), kernel_(kernel), lengths_(std::move(lengths)), silu_(silu) {
    Random random(seed_of(name()));
    x_ = random_rows(random, sum_of(lengths_), cols);
    dy_ = random_rows(random, sum_of(lengths_), cols);
    w_ = random.normals(size_t(kernel) * size_t(cols), 0.5);
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_lengths(backend, lengths_);
    const ConvParams conv{backend.upload(w_, kernel_, x_.cols), silu_};
    GradOps& grad = *backend.stream().grad_ops();
    return {read_output(backend, "dx", grad.conv_packed_dx(uploaded(backend, dy_), uploaded(backend, x_), conv))};
  }

  /// The argument z of silu is a sum of `kernel` products; its slope moves by at most half of what z does, and is good
  /// to 24 roundings of its parts (see glu_dx). Then a sum of `kernel` products.
  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>&) const override {
    const size_t cols = size_t(x_.cols);
    std::vector<double> bound(x_.values.size(), kTinySlope);
    int first = 0;
    for (const int length : lengths_) {
      for (int i = 0; i < length; ++i) {
        for (size_t c = 0; c < cols; ++c) {
          double z = 0, size = 0;
          const auto each = [&](const auto& body) {
            for (int j = 0; j < kernel_; ++j) {
              const int from = i - (kernel_ - 1) + j;
              if (from >= 0) body(double(w_[size_t(j) * cols + c]), first + from);
            }
          };
          each([&](double w, int from) {
            z += w * double(x_.row(from)[c]);
            size += std::abs(w * double(x_.row(from)[c]));
          });
          const double s = 1 / (1 + std::exp(-z)), rest = 1 / (1 + std::exp(z)), dy = double(dy_.row(first + i)[c]);
          const double slope = silu_ ? std::abs(dy * s * (1 + z * rest)) : std::abs(dy);
          const double error = !silu_ ? 0
                                      : std::abs(dy) * (0.5 * sum_error(kernel_, 1) * size +
                                                        26 * kRoundF32 * s * (1 + std::abs(z) * rest) + 0x1p-126);
          each([&](double w, int from) {
            bound[size_t(from) * cols + c] += std::abs(w) * (error + (sum_error(kernel_, 2)) * slope);
          });
        }
      }
      first += length;
    }
    return {bound};
  }

 private:
  int kernel_;
  std::vector<int> lengths_;
  bool silu_;
  HostMatrix x_, dy_;
  std::vector<float> w_;
};

struct DeltaDxSpec {
  int key_heads = 1, value_heads = 2, key_dim = 16, value_dim = 16;
  std::vector<int> lengths = {1};
  double memory = 0;  // of the states: what is added to `a`; large forgets all, small nothing
};

class DeltaDxCase final : public OpCase {
 public:
  DeltaDxCase(const std::string& variant, DeltaDxSpec spec) : OpCase("delta_packed_dx", variant), s_(std::move(spec)) {
    Random random(seed_of(name()));
    const int rows = sum_of(s_.lengths);
    qkv_ = random_rows(random, rows, 2 * s_.key_heads * s_.key_dim + s_.value_heads * s_.value_dim);
    a_ = {rows, s_.value_heads, random.normals(size_t(rows) * size_t(s_.value_heads), 1)};
    for (float& v : a_.values) v += float(s_.memory);
    b_ = {rows, s_.value_heads, random.normals(size_t(rows) * size_t(s_.value_heads), 2)};
    dout_ = random_rows(random, rows, s_.value_heads * s_.value_dim);
    a_log_ = random.normals(size_t(s_.value_heads), 1);
    dt_bias_ = random.normals(size_t(s_.value_heads), 1);
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_lengths(backend, s_.lengths);
    const DeltaParams delta{.key_heads = s_.key_heads,
                            .value_heads = s_.value_heads,
                            .key_dim = s_.key_dim,
                            .value_dim = s_.value_dim,
                            .a_log = backend.upload(a_log_, 1, s_.value_heads),
                            .dt_bias = backend.upload(dt_bias_, 1, s_.value_heads)};
    Tensor dqkv, da, db;
    backend.stream().grad_ops()->delta_packed_dx(uploaded(backend, dout_), uploaded(backend, qkv_),
                                                 uploaded(backend, a_), uploaded(backend, b_), delta, dqkv, da, db);
    return {read_output(backend, "dqkv", dqkv), read_output(backend, "da", da), read_output(backend, "db", db)};
  }

  /// Each column of a state, and of the gradient of a state, is followed with a bound on the length of its error, as
  /// for delta_rule: on the way back too a row multiplies by decay·(I - beta·k·kᵀ), which lengthens nothing, and adds
  /// what it rounds itself. What is read off adds up what both bring.
  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>&) const override {
    std::vector<std::vector<double>> bounds = {std::vector<double>(qkv_.values.size(), kTinySlope),
                                               std::vector<double>(a_.values.size(), kTinySlope),
                                               std::vector<double>(b_.values.size(), kTinySlope)};
    std::vector<double> sizes(qkv_.values.size());  // of gradients of keys and queries of length one
    int first = 0;
    for (const int length : s_.lengths) {
      for (int h = 0; h < s_.value_heads; ++h) head_bounds(first, length, h, bounds, sizes);
      first += length;
    }
    for (int r = 0; r < qkv_.rows; ++r) {
      for (int c = 0; c < 2 * s_.key_heads * s_.key_dim; c += s_.key_dim) unit_bounds(r, c, sizes, bounds[0]);
    }
    return bounds;
  }

 private:
  struct Row {
    std::vector<double> q, k, v;  // q and k of length one, q over the root of key_dim as well
    double decay = 0, beta = 0;
    std::vector<double> state, error;  // as the row finds it: [key_dim, value_dim], and of each column
  };
  size_t dk() const { return size_t(s_.key_dim); }
  size_t dv() const { return size_t(s_.value_dim); }
  size_t key_column(int h) const { return size_t(h * s_.key_heads / s_.value_heads) * dk(); }
  size_t keys() const { return size_t(s_.key_heads) * dk(); }

  std::vector<double> unit(const float* x, double scale) const {
    double squares = 1e-6;
    for (size_t i = 0; i < dk(); ++i) squares += double(x[i]) * double(x[i]);
    std::vector<double> y;
    for (size_t i = 0; i < dk(); ++i) y.push_back(scale * double(x[i]) / std::sqrt(squares));
    return y;
  }

  /// What rounding adds relatively: sums over key_dim, keys of length one, decay and beta.
  double sum() const { return sum_error(s_.key_dim, 2); }
  double turned() const { return sum_error(s_.key_dim) / 2 + 4 * kRoundF32; }
  static constexpr double kGate = 2 * kRoundF32;

  /// What the state does not know of column j, and the error of that.
  std::pair<double, double> missing(const Row& row, size_t j) const {
    double known = 0, size = 0;
    for (size_t n = 0; n < dk(); ++n) {
      known += row.k[n] * row.state[n * dv() + j];
      size += std::abs(row.k[n] * row.state[n * dv() + j]);
    }
    const double v = row.v[j];
    return {v - row.decay * known, row.decay * (row.error[j] + (sum() + turned()) * size + kGate * std::abs(known)) +
                                       2 * kRoundF32 * (std::abs(v) + row.decay * std::abs(known))};
  }

  std::vector<Row> forward(int first, int length, int h) const {
    std::vector<Row> rows;
    std::vector<double> state(dk() * dv()), error(dv());
    for (int r = first; r < first + length; ++r) {
      const float* const in = qkv_.row(r);
      Row row;
      row.q = unit(in + key_column(h), 1 / std::sqrt(double(s_.key_dim)));
      row.k = unit(in + keys() + key_column(h), 1);
      for (size_t j = 0; j < dv(); ++j) row.v.push_back(double(in[2 * keys() + size_t(h) * dv() + j]));
      const double open = double(a_.row(r)[h]) + double(dt_bias_[size_t(h)]);
      row.decay = std::exp(-std::exp(double(a_log_[size_t(h)])) *
                           (std::max(open, 0.0) + std::log1p(std::exp(-std::abs(open)))));
      row.beta = 1 / (1 + std::exp(-double(b_.row(r)[h])));
      row.state = state;
      row.error = error;
      for (size_t j = 0; j < dv(); ++j) {
        const auto [m, m_error] = missing(row, j);
        const double learnt = row.beta * m;
        double length_of = 0;
        for (size_t n = 0; n < dk(); ++n) length_of += state[n * dv() + j] * state[n * dv() + j];
        length_of = std::sqrt(length_of);
        // I - beta·k·kᵀ takes the state's own error; the rest of m's is new.
        error[j] = row.decay * error[j] + (kGate + 2 * kRoundF32) * row.decay * length_of +
                   row.beta * (m_error - row.decay * row.error[j]) +
                   (kGate + turned() + 3 * kRoundF32) * std::abs(learnt);
        for (size_t n = 0; n < dk(); ++n) {
          double& s = state[n * dv() + j];
          s = row.decay * s + row.k[n] * learnt;
        }
      }
      rows.push_back(std::move(row));
    }
    return rows;
  }

  void head_bounds(int first, int length, int h, std::vector<std::vector<double>>& bounds,
                   std::vector<double>& sizes) const {
    constexpr double u = kRoundF32;
    const std::vector<Row> rows = forward(first, length, h);
    const double across = sum_error(int64_t(2 * dv()), 6), rate = std::exp(double(a_log_[size_t(h)]));
    std::vector<double> slope(dk() * dv()), error(dv());  // of the state that a row leaves
    for (int i = length - 1; i >= 0; --i) {
      const Row& row = rows[size_t(i)];
      const size_t r = size_t(first + i);
      const float* const dout = dout_.row(int(r)) + size_t(h) * dv();
      double* const by_qkv = bounds[0].data() + r * size_t(qkv_.cols);
      double by_beta = 0, by_decay = 0, beta_size = 0, decay_size = 0, beta_slope = 0, decay_slope = 0;
      std::vector<double> dq(dk()), key(dk()), q_slope(dk()), k_slope(dk());  // errors, values
      for (size_t j = 0; j < dv(); ++j) {
        const double o = double(dout[j]);
        const auto [m, m_error] = missing(row, j);
        const double learnt = row.beta * m, learnt_error = row.beta * m_error + (kGate + u) * std::abs(learnt);
        double dlearnt = 0, dlearnt_size = 0, long_t = 0, long_s = 0, long_found = 0;
        for (size_t n = 0; n < dk(); ++n) {
          double& t = slope[n * dv() + j];
          t += row.q[n] * o;
          dlearnt += row.k[n] * t;
          dlearnt_size += std::abs(row.k[n] * t);
          long_t += t * t;
          long_s += row.state[n * dv() + j] * row.state[n * dv() + j];
        }
        long_t = std::sqrt(long_t);
        long_s = std::sqrt(long_s);
        const double at_t = error[j] + (turned() + 2 * u) * std::abs(o) + u * long_t;
        const double v = row.beta * dlearnt, dlearnt_error = at_t + (sum() + turned()) * dlearnt_size;
        const double v_error = row.beta * dlearnt_error + (kGate + u) * std::abs(v);
        by_qkv[2 * keys() + size_t(h) * dv() + j] += 1.01 * v_error;
        beta_slope += dlearnt * m;
        beta_size += std::abs(dlearnt * m);
        by_beta += dlearnt_error * std::abs(m) + std::abs(dlearnt) * m_error;
        for (size_t n = 0; n < dk(); ++n) {
          double& t = slope[n * dv() + j];
          const double s = row.state[n * dv() + j];
          dq[n] += std::abs(o) * (row.decay * (row.error[j] + (across + kGate) * std::abs(s)) +
                                  std::abs(row.k[n]) * (learnt_error + (across + turned() + 4 * u) * std::abs(learnt)));
          key[n] += at_t * std::abs(learnt) + std::abs(t) * learnt_error +
                    row.decay * (row.error[j] * std::abs(v) + std::abs(s) * (v_error + kGate * std::abs(v))) +
                    across * (std::abs(t * learnt) + row.decay * std::abs(s * v));
          q_slope[n] += (row.decay * s + row.k[n] * learnt) * o;
          k_slope[n] += t * learnt - row.decay * s * v;
          t -= row.k[n] * v;
          long_found += t * t;
          decay_slope += t * s;
          decay_size += std::abs(t * s);
          t *= row.decay;
        }
        long_found = std::sqrt(long_found);
        const double at_found = at_t + row.beta * (sum() + turned()) * dlearnt_size +
                                (kGate + turned() + 3 * u) * std::abs(v) + u * long_found;
        by_decay += at_found * long_s + long_found * row.error[j];
        error[j] = row.decay * at_found + (kGate + 2 * u) * row.decay * long_found;
      }
      for (size_t n = 0; n < dk(); ++n) {
        const size_t query = r * size_t(qkv_.cols) + key_column(h) + n;
        bounds[0][query] += 1.01 * dq[n];
        bounds[0][query + keys()] += 1.01 * key[n];
        sizes[query] += std::abs(q_slope[n]);
        sizes[query + keys()] += std::abs(k_slope[n]);
      }
      const double open = 1 / (1 + std::exp(-double(a_.row(int(r))[h]) - double(dt_bias_[size_t(h)])));
      const double by_a = row.decay * rate * open, by_b = row.beta * (1 - row.beta);
      const size_t at = r * size_t(s_.value_heads) + size_t(h);
      bounds[1][at] +=
          1.01 * by_a *
          (by_decay + sum_error(int64_t(dk() * dv()), 2) * decay_size + (kGate + 4 * u) * std::abs(decay_slope));
      bounds[2][at] += 1.01 * by_b * (by_beta + sum_error(int64_t(dv()), 2) * beta_size + 4 * u * std::abs(beta_slope));
    }
  }

  /// From the gradient d of x/|x| (or over the root of key_dim as well) to that of x: (d - x·(x·d)/|x|²)/|x|. What is
  /// there are the errors of d, whose sizes are given.
  void unit_bounds(int r, int c, const std::vector<double>& sizes, std::vector<double>& bound) const {
    const float* const x = qkv_.row(r) + c;
    double* const own = bound.data() + size_t(r) * size_t(qkv_.cols) + size_t(c);
    const double* const size = sizes.data() + size_t(r) * size_t(qkv_.cols) + size_t(c);
    double squares = 1e-6, errors = 0, along = 0;
    for (size_t n = 0; n < dk(); ++n) {
      squares += double(x[n]) * double(x[n]);
      errors += std::abs(double(x[n])) * own[n];
      along += std::abs(double(x[n])) * size[n];
    }
    const double scale = (size_t(c) < keys() ? 1 / std::sqrt(double(s_.key_dim)) : 1) / std::sqrt(squares);
    const double turn = 2 * sum_error(s_.key_dim, 4) + 8 * kRoundF32;
    for (size_t n = 0; n < dk(); ++n) {
      own[n] = 1.01 * scale * (own[n] + turn * size[n] + std::abs(double(x[n])) / squares * (errors + turn * along)) +
               kTinySlope;
    }
  }

  DeltaDxSpec s_;
  HostMatrix qkv_, a_, b_, dout_;
  std::vector<float> a_log_, dt_bias_;
};

}  // namespace

void add_split_dx(Cases& cases) {
  const auto add = [&](const std::string& variant, int rows, const SplitParams& split, int without = -1) {
    cases.push_back(std::make_unique<SplitDxCase>(variant, rows, split, without));
  };
  add("one", 1, {1, {{3, 0}}});
  add("halves", 3, {4, {{16, 0}, {16, 1}}});
  add("interleaved", 5, {3, {{8, 0}, {8, 0}, {17, 0}, {17, 1}}});
  add("without_one", 2, {2, {{1, 2}, {5, 0}, {3, 1}}}, 1);
  add("many_rows", 40, {16, {{16, 0}, {16, 0}, {32, 0}, {32, 1}}});
}

void add_conv_packed_dx(Cases& cases) {
  const auto add = [&](const std::string& variant, int kernel, int cols, const std::vector<int>& lengths,
                       bool silu = true) {
    cases.push_back(std::make_unique<ConvDxCase>(variant, kernel, cols, lengths, silu));
  };
  add("first_row", 4, 1, {1});
  for (const int cols : {15, 16, 17, 100}) add("cols" + std::to_string(cols), 4, cols, {6, 3});
  for (const int kernel : {2, 3, 5, 16}) add("kernel" + std::to_string(kernel), kernel, 24, {7, 1, 16, 2, 40});
  add("plain", 3, 33, {7, 1, 20}, false);
  add("many_rows", 4, 1024, {40, 30});
}

void add_delta_packed_dx(Cases& cases) {
  const auto add = [&](const std::string& variant, const DeltaDxSpec& spec) {
    cases.push_back(std::make_unique<DeltaDxCase>(variant, spec));
  };
  add("first_row", {});
  for (const auto& [keys, values] : {std::pair(1, 1), {2, 2}, {2, 6}, {4, 8}})
    add("heads" + std::to_string(keys) + "_" + std::to_string(values),
        {.key_heads = keys, .value_heads = values, .lengths = {3, 5}});
  for (const int dim : {1, 8, 17, 64}) add("keys" + std::to_string(dim), {.key_dim = dim, .lengths = {5, 9}});
  for (const int dim : {1, 15, 17, 33, 64}) add("values" + std::to_string(dim), {.value_dim = dim, .lengths = {5, 9}});
  add("segments", {.key_heads = 2, .value_heads = 4, .lengths = {7, 1, 33, 64, 65, 2}});
  add("forgets", {.lengths = {40, 3}, .memory = 6});
  add("remembers", {.value_heads = 1, .key_dim = 8, .value_dim = 8, .lengths = {150}, .memory = -8});
  add("chunks", {.value_heads = 1, .key_dim = 16, .value_dim = 16, .lengths = {129, 70}, .memory = -3});
  add("many_rows", {.key_heads = 1, .value_heads = 2, .key_dim = 32, .value_dim = 48, .lengths = {80, 20}});
}

}  // namespace bumblebee::op_cases
