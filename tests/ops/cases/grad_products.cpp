// Products of gradients with weights and with low-rank factors, the loss of the head, and lengths of rows for DoRA.
#include <algorithm>
#include <cmath>

#include "tests/ops/cases/common.h"

namespace bumblebee::op_cases {
namespace {

struct DxTerm {
  Format format;
  int out = 0;
};

class MatmulDxCase final : public OpCase {
 public:
  MatmulDxCase(const std::string& variant, int rows, int in, const std::vector<DxTerm>& terms)
      : OpCase("matmul_dx", variant), rows_(rows), in_(in) {
    Random random(seed_of(name()));
    for (const DxTerm& term : terms) {
      dy_.push_back(random_rows(random, rows, term.out));
      weights_.push_back(
          random_weight(random, term.out, in, term.format, 1 / std::sqrt(double(term.out)), odd_bytes()));
    }
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = rows_});
    std::vector<Tensor> dy;
    std::vector<Weight> weights;
    for (size_t t = 0; t < dy_.size(); ++t) {
      dy.push_back(backend.upload(dy_[t].values, rows_, dy_[t].cols));
      weights.push_back(backend.pack(weights_[t]));
    }
    std::vector<const Weight*> pointers;
    for (const Weight& w : weights) pointers.push_back(&w);
    return {read_output(backend, "dx", backend.stream().grad_ops()->matmul_dx(dy, pointers))};
  }

  /// As matmul, summed over all outputs.
  std::vector<std::vector<double>> bounds(const Precision& precision,
                                          const std::vector<Output>& reference) const override {
    int outs = 0;
    for (const HostMatrix& dy : dy_) outs += dy.cols;
    std::vector<double> bound(reference[0].values.size());
    for (size_t t = 0; t < dy_.size(); ++t) {
      const WideWeight w = widen(weights_[t]);
      for (size_t i = 0; i < bound.size(); ++i) {
        const size_t r = i / size_t(in_), k = i % size_t(in_);
        for (size_t n = 0; n < size_t(w.out); ++n) {
          const double dy = std::abs(double(dy_[t].row(int(r))[n])), at = w.magnitude[n * size_t(in_) + k];
          bound[i] += sum_error(outs, 8) * dy * at;
          if (precision.fast) bound[i] += kBothBf16 * dy * std::abs(w.value[n * size_t(in_) + k]) + 0x1p-126;
        }
      }
    }
    for (size_t i = 0; i < bound.size(); ++i) bound[i] += kRoundF32 * std::abs(double(reference[0].values[i]));
    return {bound};
  }
  std::vector<Format> formats() const override {
    std::vector<Format> formats;
    for (const HostWeight& w : weights_) formats.push_back(w.format);
    return formats;
  }

 private:
  int rows_, in_;
  std::vector<HostMatrix> dy_;
  std::vector<HostWeight> weights_;
};

class GemmCase final : public OpCase {
 public:
  using Op = GradOps::Op;
  GemmCase(const std::string& variant, int m, int n, int depth, Op op_a, Op op_b, float alpha, float beta)
      : OpCase("gemm", variant), m_(m), n_(n), depth_(depth), op_a_(op_a), op_b_(op_b), alpha_(alpha), beta_(beta) {
    Random random(seed_of(name()));
    a_ = op_a == Op::plain ? random_rows(random, m, depth) : random_rows(random, depth, m);
    b_ = op_b == Op::plain ? random_rows(random, depth, n) : random_rows(random, n, depth);
    c_ = random_rows(random, m, n);
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = 1});
    const auto upload = [&](const HostMatrix& m) { return backend.upload(m.values, m.rows, m.cols); };
    Tensor c = beta_ == 0 ? Tensor() : upload(c_);
    const Tensor seen = c;
    backend.stream().grad_ops()->gemm(alpha_, upload(a_), op_a_, upload(b_), op_b_, beta_, c);
    std::vector<Output> outputs = {read_output(backend, "c", c)};
    if (seen) outputs.push_back(read_output(backend, "the other handle on c", seen));
    return outputs;
  }

  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>&) const override {
    std::vector<double> bound;
    for (int r = 0; r < m_; ++r) {
      for (int col = 0; col < n_; ++col) {
        double size = 0;
        for (int i = 0; i < depth_; ++i) {
          size += std::abs(double(op_a_ == Op::plain ? a_.row(r)[i] : a_.row(i)[r]) *
                           double(op_b_ == Op::plain ? b_.row(i)[col] : b_.row(col)[i]));
        }
        bound.push_back(sum_error(depth_ + 1, 4) *
                        (std::abs(double(alpha_)) * size + std::abs(double(beta_) * double(c_.row(r)[col]))));
      }
    }
    if (beta_ == 0) return {bound};
    return {bound, bound};
  }

 private:
  int m_, n_, depth_;
  Op op_a_, op_b_;
  float alpha_, beta_;
  HostMatrix a_, b_, c_;
};

class HeadLossCase final : public OpCase {
 public:
  HeadLossCase(const std::string& variant, int rows, int in, int vocab, const Format& format, bool bias, bool sure,
               const LogitParams& logits)
      : OpCase("head_loss", variant), logits_(logits) {
    Random random(seed_of(name()));
    h_ = random_rows(random, rows, in);
    head_ = random_weight(random, vocab, in, format, 1 / std::sqrt(double(in)), odd_bytes());
    if (bias) bias_ = random.normals(size_t(vocab), 1);
    const WideWeight w = widen(head_);
    for (int r = 0; r < rows; ++r) {
      targets_.push_back(r % 3 == 1 ? -1 : random.integer(0, vocab - 1));
      weights_.push_back(r % 5 == 4 ? 0.0f : float(random.uniform(0.1, 2)));
      if (!sure || targets_.back() < 0) continue;
      // h along the target's row: a loss near zero, where differences would cancel.
      for (int k = 0; k < in; ++k)
        h_.values[size_t(r) * size_t(in) + size_t(k)] =
            float(12 * w.value[size_t(targets_.back()) * size_t(in) + size_t(k)]);
    }
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = h_.rows});
    const Weight head = backend.pack(head_);
    const Tensor h = backend.upload(h_.values, h_.rows, h_.cols);
    const Tensor bias = bias_.empty() ? Tensor() : backend.upload(bias_, 1, head_.out);
    std::vector<float> losses(targets_.size(), -1.0f), again = losses;
    Tensor dh;
    const double total =
        backend.stream().grad_ops()->head_loss(h, head, bias, logits_, targets_, weights_, losses, &dh);
    const double same =
        backend.stream().grad_ops()->head_loss(h, head, bias, logits_, targets_, weights_, again, nullptr);
    return {{"losses", h_.rows, 1, losses},
            read_output(backend, "dh", dh),
            {"total", 1, 1, {float(total)}},
            {"without a gradient", 1, 1, {float(same)}}};
  }

  /// An error e in every logit moves a log-sum and the target's logit by e each, and every probability by 2e of it. The
  /// exponentials and their sum are off by a few roundings more. Then the gradient's product. A factor is one rounding,
  /// a cap nine and slopes of at most one, which are off as those of attention are.
  std::vector<std::vector<double>> bounds(const Precision& precision,
                                          const std::vector<Output>& reference) const override {
    const WideWeight w = widen(head_);
    const size_t in = size_t(w.in), vocab = size_t(w.out);
    std::vector<double> losses(targets_.size()), dh(reference[1].values.size());
    double total = 0;
    for (size_t r = 0; r < targets_.size(); ++r) {
      if (targets_[r] < 0) continue;
      std::vector<double> z(vocab), slope(vocab, 1), slope_error(vocab);
      double e = 0, highest = -INFINITY, sum = 0;
      for (size_t n = 0; n < vocab; ++n) {
        const double bias = bias_.empty() ? 0 : double(bias_[n]);
        z[n] = bias;
        for (size_t k = 0; k < in; ++k) z[n] += double(h_.row(int(r))[k]) * w.value[n * in + k];
        double error = product_bound(h_.row(int(r)), w, int(n), head_.format, precision, z[n], bias);
        if (logits_.factor != 1 || logits_.cap > 0) {
          z[n] *= double(logits_.factor);
          error = error * double(logits_.factor) + kRoundF32 * std::abs(z[n]);
        }
        if (logits_.cap > 0) {
          const double cap = double(logits_.cap), t = std::tanh(z[n] / cap);
          z[n] = cap * t;
          error += 9 * kRoundF32 * std::abs(z[n]);
          slope[n] = 1 - t * t;
          slope_error[n] = 2 * std::abs(t) * (error / cap + 2 * kRoundF32 * std::abs(t)) + 3 * kRoundF32;
        }
        e = std::max(e, error);
        highest = std::max(highest, z[n]);
      }
      for (const double v : z) sum += std::exp(v - highest);
      double lowest = highest;
      for (const double v : z) lowest = std::min(lowest, v);
      const double relative = std::expm1(2 * e) + sum_error(int64_t(vocab), 12) + 4 * kRoundF32 * (highest - lowest);
      const double p_target = std::exp(z[size_t(targets_[r])] - highest) / sum;
      // log(1 + others/target): what others have is off by a part of itself.
      losses[r] = std::min(2 * e + relative, relative * (1 - p_target) / p_target * 1.01) +
                  2 * kRoundF32 * double(reference[0].values[r]) + 0x1p-126;
      total += double(weights_[r]) * losses[r];
      for (size_t k = 0; k < in; ++k) {
        double bound = 0;
        for (size_t n = 0; n < vocab; ++n) {
          const double p = std::exp(z[n] - highest) / sum;
          const double g = int32_t(n) == targets_[r] ? 1 - p_target : p;
          bound +=
              g * ((slope[n] * (relative + sum_error(int64_t(vocab), 14)) + slope_error[n]) * w.magnitude[n * in + k] +
                   (precision.fast ? kBothBf16 * slope[n] * std::abs(w.value[n * in + k]) : 0));
        }
        dh[r * in + k] = double(weights_[r]) * double(logits_.factor) * bound * 1.01 + 0x1p-120;
      }
    }
    total += kRoundF32 * std::abs(double(reference[2].values[0]));
    return {losses, dh, {total}, {total}};
  }

 private:
  HostMatrix h_;
  HostWeight head_;
  std::vector<float> bias_;
  std::vector<int32_t> targets_;
  std::vector<float> weights_;
  LogitParams logits_;
};

class RowLengthsCase final : public OpCase {
 public:
  RowLengthsCase(const std::string& variant, int out, int in, int rank, const Format& format)
      : OpCase("row_lengths", variant) {
    Random random(seed_of(name()));
    weight_ = random_weight(random, out, in, format, 0.1, odd_bytes());
    a_ = {rank, in, random.normals(size_t(rank) * size_t(in), 0.1)};
    b_ = {out, rank, random.normals(size_t(out) * size_t(rank), 0.1)};
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = 1});
    const Tensor a = backend.upload(a_.values, a_.rows, a_.cols), b = backend.upload(b_.values, b_.rows, b_.cols);
    return {
        read_output(backend, "lengths", backend.stream().grad_ops()->row_lengths(backend.pack(weight_), a, b, 0.7f))};
  }

  /// Errors of elements add up to a length no longer than theirs; the root halves that of the sum of squares.
  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>& reference) const override {
    const WideWeight w = widen(weight_);
    std::vector<double> bound;
    for (size_t n = 0; n < size_t(w.out); ++n) {
      double squares = 0;
      for (size_t k = 0; k < size_t(w.in); ++k) {
        double size = w.magnitude[n * size_t(w.in) + k];
        for (int i = 0; i < a_.rows; ++i) size += 0.7 * std::abs(double(b_.row(int(n))[i]) * double(a_.row(i)[k]));
        const double error = sum_error(a_.rows + 1, 6) * size;
        squares += error * error;
      }
      bound.push_back(std::sqrt(squares) + (sum_error(w.in) / 2 + 4 * kRoundF32) * double(reference[0].values[n]));
    }
    return {bound};
  }

 private:
  HostWeight weight_;
  HostMatrix a_, b_;
};

}  // namespace

void add_matmul_dx(Cases& cases) {
  const auto add = [&](const std::string& variant, int rows, int in, const std::vector<DxTerm>& terms) {
    cases.push_back(std::make_unique<MatmulDxCase>(variant, rows, in, terms));
  };
  for (const int rows : {1, 2, 3, 5, 6, 7, 12, 13, 33}) add("rows" + std::to_string(rows), rows, 128, {{kQ4, 37}});
  for (const int out : {1, 2, 3, 64, 255, 256, 257, 515}) add("out" + std::to_string(out), 3, 64, {{kQ4, out}});
  for (const int in : {64, 192, 320, 1088}) add("in" + std::to_string(in), 7, in, {{kQ4, 19}});
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    for (const int in : {1, 7, 15, 17, 33, 63, 100, 130})
      add(std::string(to_string(dtype)) + "_in" + std::to_string(in), 8, in, {{Format::dense(dtype), 9}});
  }
  for (const Format& format : every_format()) {
    for (const int rows : {3, 18}) add(label(format) + "_rows" + std::to_string(rows), rows, 256, {{format, 21}});
  }
  add("terms_qkv", 9, 128, {{kQ4, 64}, {kQ4, 17}, {kQ4, 17}});
  add("terms_mixed", 7, 128,
      {{kQ4, 33}, {Format::dense(DType::bf16), 5}, {Format::affine(3, 32, DType::f16, DType::f16), 12}});
  add("large", 50, 576, {{kQ4, 700}});
}

void add_gemm(Cases& cases) {
  using Op = GradOps::Op;
  const auto add = [&](int m, int n, int depth, float alpha, float beta) {
    for (const Op op_a : {Op::plain, Op::transposed}) {
      for (const Op op_b : {Op::plain, Op::transposed}) {
        const std::string variant = "m" + std::to_string(m) + "_n" + std::to_string(n) + "_k" + std::to_string(depth) +
                                    (op_a == Op::plain ? "_n" : "_t") + (op_b == Op::plain ? "n" : "t") +
                                    (alpha == 1 ? "" : "_alpha") +
                                    (beta == 0   ? ""
                                     : beta == 1 ? "_add"
                                                 : "_beta");
        cases.push_back(std::make_unique<GemmCase>(variant, m, n, depth, op_a, op_b, alpha, beta));
      }
    }
  };
  for (const auto& [alpha, beta] : {std::pair(1.0f, 0.0f), {1.0f, 1.0f}, {0.3f, 0.0f}, {-2.0f, 1.0f}, {0.7f, 0.4f}}) {
    add(37, 8, 96, alpha, beta);
    add(8, 96, 37, alpha, beta);
    add(37, 96, 5, alpha, beta);
  }
  add(1, 1, 1, 1, 0);
  add(3, 1, 200, 1, 1);
  add(1, 50, 3, 1, 0);
  add(40, 33, 130, 2, 0);
  add(130, 64, 300, 1, 1);
  add(64, 130, 1100, 1, 0);
}

void add_head_loss(Cases& cases) {
  const auto add = [&](const std::string& variant, int rows, int in, int vocab, const Format& format, bool bias,
                       bool sure, const LogitParams& logits = {}) {
    cases.push_back(std::make_unique<HeadLossCase>(variant, rows, in, vocab, format, bias, sure, logits));
  };
  for (const int rows : {1, 2, 3, 7, 20}) add("rows" + std::to_string(rows), rows, 64, 100, kQ4, false, false);
  for (const int vocab : {1, 2, 33, 257, 1001}) add("vocab" + std::to_string(vocab), 5, 64, vocab, kQ4, false, false);
  add("bias", 6, 64, 80, kQ4, true, false);
  add("sure", 6, 64, 80, kQ4, false, true);
  add("factor", 6, 64, 80, kQ4, true, false, {.factor = 0.125f});
  add("cap", 6, 64, 1001, kQ4, false, false, {.cap = 3});
  add("cap_factor", 6, 64, 80, kQ4, true, false, {.factor = 1.5f, .cap = 5});
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    add(std::string(to_string(dtype)), 6, 40, 90, Format::dense(dtype), false, false);
    add(std::string(to_string(dtype)) + "_sure", 6, 40, 90, Format::dense(dtype), false, true);
  }
  add("b8", 7, 128, 50, Format::affine(8, 32, DType::f16, DType::f16), false, false);
}

void add_row_lengths(Cases& cases) {
  for (const int rank : {1, 4, 8, 33})
    cases.push_back(std::make_unique<RowLengthsCase>("rank" + std::to_string(rank), 53, 64, rank, kQ4));
  for (const int out : {1, 48, 97})
    cases.push_back(std::make_unique<RowLengthsCase>("out" + std::to_string(out), out, 128, 5, kQ4));
  cases.push_back(std::make_unique<RowLengthsCase>("dense_odd", 11, 37, 3, Format::dense(DType::bf16)));
}

}  // namespace bumblebee::op_cases
