// matmul and embed: everything that reads a stored weight, through every format, with weights at
// odd addresses.
#include <algorithm>
#include <cmath>

#include "tests/ops/cases/common.h"

namespace bumblebee::op_cases {
/// Error of x·Wᵀ for one row of x. In f32 the sum has `in` products; decoding a weight costs two more roundings, a
/// group's two sums two more and the bias one: 8 in all, rounded up. All scale with Σ|x|·(|scale|·code + |bias|). Fast,
/// affine: in each group of 64, x is rounded to a multiple of the third largest magnitude / 127 or of the largest /
/// 16256, whichever is larger, so that each entry moves by at most half of that and the product by that times Σ|w|; or
/// x and w are both rounded to f16 of a power of two (cards, many rows), where that is more.
/// Codes of mxfp4 are then whole numbers with a bias. Fast, dense bf16: x is rounded to bf16. Other dense types, mxfp8
/// and nvfp4 are as in exact.
double product_bound(const float* x, const WideWeight& w, int n, const Format& format, const Precision& precision,
                     double want, double bias) {
  const size_t in = size_t(w.in), row = size_t(n) * in;
  double magnitude = 0;
  for (size_t k = 0; k < in; ++k) magnitude += std::abs(double(x[k])) * w.magnitude[row + k];
  double bound = sum_error(w.in, 8) * (magnitude + std::abs(bias)) + kRoundF32 * std::abs(want);
  if (!precision.fast) return bound;
  if (format.codes != Format::Codes::uint && w.offset.empty()) return bound;
  for (size_t k = 0; k < in && !w.offset.empty(); ++k)
    bound += sum_error(w.in, 8) * std::abs(double(x[k])) * w.offset[row + k];
  if (format.kind == Format::Kind::dense)
    return format.scale == DType::bf16 ? bound + testing_support::kRoundBf16 * magnitude : bound;
  for (size_t first = 0; first < in; first += 64) {
    std::vector<double> magnitudes(3, 0.0);  // at least three, and then those of the group
    double moved = 0, size = 0;
    for (size_t k = first; k < std::min(in, first + 64); ++k) {
      magnitudes.push_back(std::abs(double(x[k])));
      moved += std::abs(w.value[row + k]);
      size += std::abs(double(x[k])) * std::abs(w.value[row + k]);
    }
    std::sort(magnitudes.rbegin(), magnitudes.rend());
    const double step = std::max(magnitudes[2] / 127, magnitudes[0] / 16256);
    bound += std::max((step / 2 + 4 * kRoundF32 * magnitudes[0]) * moved, 2 * 0x1p-11 * size);
  }
  return bound;
}

namespace {

struct TermSpec {
  Format format;
  int out = 0;
  bool bias = false;
  float factor = 0;  // of all scales; 0: none
};

class MatmulCase final : public OpCase {
 public:
  MatmulCase(const std::string& variant, int rows, int in, const std::vector<TermSpec>& terms)
      : OpCase("matmul", variant), terms_(terms) {
    Random random(seed_of(name()));
    x_ = random_rows(random, rows, in);
    for (const TermSpec& term : terms) {
      weights_.push_back(random_weight(random, term.out, in, term.format, 1 / std::sqrt(double(in)), odd_bytes()));
      weights_.back().name = name();
      if (term.factor != 0) weights_.back().factors = {term.factor};
      biases_.push_back(term.bias ? random.normals(size_t(term.out), 1) : std::vector<float>());
    }
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = x_.rows});
    std::vector<Weight> weights;
    std::vector<Tensor> biases;
    for (size_t i = 0; i < weights_.size(); ++i) {
      weights.push_back(backend.pack(weights_[i]));
      biases.push_back(biases_[i].empty() ? Tensor() : backend.upload(biases_[i], 1, int(biases_[i].size())));
    }
    std::vector<MatmulTerm> terms;
    for (size_t i = 0; i < weights.size(); ++i) terms.push_back({&weights[i], biases[i] ? &biases[i] : nullptr});
    const Tensor x = backend.upload(x_.values, x_.rows, x_.cols);
    std::vector<Tensor> y(terms.size());
    eagerly(backend, [&] { backend.stream().ops().matmul(x, terms, y); });
    std::vector<Output> outputs;
    for (size_t i = 0; i < y.size(); ++i) outputs.push_back(read_output(backend, "y" + std::to_string(i), y[i]));
    return outputs;
  }

  std::vector<std::vector<double>> bounds(const Precision& precision,
                                          const std::vector<Output>& reference) const override {
    std::vector<std::vector<double>> bounds;
    for (size_t t = 0; t < weights_.size(); ++t) {
      const WideWeight wide = widen(weights_[t]);
      std::vector<double> bound(reference[t].values.size());
      for (int r = 0; r < x_.rows; ++r) {
        for (int n = 0; n < wide.out; ++n) {
          const size_t i = size_t(r) * size_t(wide.out) + size_t(n);
          bound[i] = product_bound(x_.row(r), wide, n, weights_[t].format, precision, double(reference[t].values[i]),
                                   biases_[t].empty() ? 0 : double(biases_[t][size_t(n)]));
        }
      }
      bounds.push_back(std::move(bound));
    }
    return bounds;
  }

  std::vector<Format> formats() const override {
    std::vector<Format> formats;
    for (const TermSpec& term : terms_) formats.push_back(term.format);
    return formats;
  }

  Cost cost() const override {
    Cost cost{double(x_.values.size()) * 4, 0};
    for (const HostWeight& w : weights_) {
      cost.bytes += double(stored_bytes(w)) + 4.0 * x_.rows * w.out;
      cost.flops += 2.0 * x_.rows * w.out * w.in;
    }
    return cost;
  }

 private:
  HostMatrix x_;
  std::vector<TermSpec> terms_;
  std::vector<HostWeight> weights_;
  std::vector<std::vector<float>> biases_;
};

class EmbedCase final : public OpCase {
 public:
  EmbedCase(const std::string& variant, const std::vector<int32_t>& tokens, int vocab, int in, const Format& format)
      : OpCase("embed", variant), tokens_(tokens) {
    Random random(seed_of(name()));
    table_ = random_weight(random, vocab, in, format, 1, odd_bytes());
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = int(tokens_.size()), .tokens = tokens_});
    const Weight table = backend.pack(table_);
    Tensor y;
    eagerly(backend, [&] { y = backend.stream().ops().embed(table); });
    return {read_output(backend, "y", y)};
  }

  /// Dense rows are exact. scale·code + bias rounds the product (unless fused) and the sum; the reference rounds once
  /// when it is read.
  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>& reference) const override {
    const WideWeight wide = widen(table_);
    std::vector<double> bound(reference[0].values.size(), 0);
    if (table_.format.kind == Format::Kind::dense) return {bound};
    for (size_t i = 0; i < bound.size(); ++i) {
      const size_t column = i % size_t(wide.in), token = size_t(tokens_[i / size_t(wide.in)]);
      bound[i] = 3 * kRoundF32 * wide.magnitude[token * size_t(wide.in) + column];
    }
    return {bound};
  }
  std::vector<Format> formats() const override { return {table_.format}; }

 private:
  std::vector<int32_t> tokens_;
  HostWeight table_;
};

}  // namespace

void add_matmul(Cases& cases) {
  const auto add = [&](const std::string& variant, int rows, int in, const std::vector<TermSpec>& terms) {
    cases.push_back(std::make_unique<MatmulCase>(variant, rows, in, terms));
  };
  // Row counts around every tile height, over an odd number of outputs.
  for (const int rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 31, 32, 33})
    add("rows" + std::to_string(rows), rows, 128, {{kQ4, 37, false}});
  // Output counts around every block of rows of W.
  for (const int out : {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 65}) {
    add("out" + std::to_string(out) + "_row1", 1, 64, {{kQ4, out, false}});
    add("out" + std::to_string(out) + "_row5", 5, 64, {{kQ4, out, false}});
  }
  // Inputs: one group, odd numbers of groups, a long row, and rows whose codes are too many to be decoded at once.
  for (const int in : {64, 192, 320, 1088, 4160, 6144}) {
    add("in" + std::to_string(in) + "_row1", 1, in, {{kQ4, 19, false}});
    add("in" + std::to_string(in) + "_row6", 6, in, {{kQ4, 19, false}});
  }
  // Dense rows of any length: vector tails.
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    for (const int in : {1, 3, 7, 8, 15, 17, 33, 63, 100}) {
      add(std::string(to_string(dtype)) + "_in" + std::to_string(in), in % 2 == 0 ? 1 : 3, in,
          {{Format::dense(dtype), 9, in % 3 == 0}});
    }
  }
  for (const Format& format : every_format()) {
    for (const int rows : {1, 5, 18})
      add(label(format) + "_rows" + std::to_string(rows), rows, 256, {{format, 21, rows == 5}});
  }
  // More than a step of generation has: other kernels on cards. Tiles that are full, one row over and below; a group
  // that fills half a tile; long rows.
  for (const int rows : {34, 63, 64, 65, 127, 129, 300})
    add("many" + std::to_string(rows), rows, 128, {{kQ4, 133, true}});
  for (const Format& format : every_format()) add(label(format) + "_many40", 40, 256, {{format, 21, true}});
  for (const int bits : {3, 4, 8})
    add("many_in1056_b" + std::to_string(bits), 50, 1056,
        {{Format::affine(bits, 32, DType::bf16, DType::bf16), 37, false}});
  // Few and many rows of mxfp4, of rows of one block and of more than are decoded at once; a scale of the matrix.
  for (const int in : {32, 96, 544, 4160}) {
    for (const int rows : {1, 2, 8, 9, 40})
      add("mxfp4_in" + std::to_string(in) + "_rows" + std::to_string(rows), rows, in, {{Format::mxfp4(), 19, false}});
  }
  for (const int rows : {1, 20})
    add("nvfp4_global_rows" + std::to_string(rows), rows, 144, {{Format::nvfp4(), 19, true, 0.37f}});
  add("many_in12288", 33, 12288, {{kQ4, 5, false}});
  // Long rows of several at a time: other kernels on cards.
  for (const int rows : {5, 16, 24, 33, 64})
    add("in2560_rows" + std::to_string(rows), rows, 2560, {{kQ4, 70, true}, {kQ4, 33, false}});
  for (const int rows : {40, 64})
    add("in5120_f16_rows" + std::to_string(rows), rows, 5120,
        {{Format::affine(4, 64, DType::f16, DType::f16), 333, true},
         {Format::affine(4, 64, DType::f16, DType::f16), 64, false}});
  // Rows that a panel decodes in parts, of more outputs than a tile has.
  for (const int rows : {5, 9, 40})
    add("in4160_rows" + std::to_string(rows), rows, 4160, {{kQ4, 70, false}, {kQ4, 33, true}});
  add("many_terms", 70, 128,
      {{kQ4, 300, true},
       {kQ4, 17, false},
       {Format::affine(4, 32, DType::bf16, DType::bf16), 260, false},
       {Format::dense(DType::bf16), 5, true},
       {Format::affine(4, 128, DType::f16, DType::f16), 129, true},
       {Format::affine(8, 64, DType::f32, DType::f32), 9, false}});
  // Several terms share x: the three of attention and mixed formats; bias on some.
  add("terms_qkv", 3, 128, {{kQ4, 64, true}, {kQ4, 17, true}, {kQ4, 17, false}});
  add("terms_mixed", 2, 128,
      {{kQ4, 33, false},
       {Format::dense(DType::bf16), 5, true},
       {Format::affine(3, 32, DType::f16, DType::f16), 12, false},
       {Format::affine(8, 128, DType::f32, DType::f32), 1, true}});
  add("terms_floats", 2, 128,
      {{Format::mxfp4(), 33, false},
       {Format::affine(4, 32, DType::bf16, DType::bf16), 12, false},
       {Format::mxfp8(), 5, true},
       {Format::nvfp4(), 9, false}});
  add("terms_mixed_rows", 19, 128,
      {{Format::affine(6, 64, DType::bf16, DType::bf16), 33, true}, {Format::dense(DType::f16), 40, false}});
}

void add_embed(Cases& cases) {
  const std::vector<int32_t> tokens = {0, 16, 3, 3, 7, 16, 1};
  cases.push_back(std::make_unique<EmbedCase>("one", std::vector<int32_t>{16}, 17, 64, kQ4));
  for (const Format& format : every_format())
    cases.push_back(std::make_unique<EmbedCase>(label(format), tokens, 17, 128, format));
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    cases.push_back(
        std::make_unique<EmbedCase>(std::string(to_string(dtype)) + "_odd", tokens, 17, 13, Format::dense(dtype)));
  }
}

}  // namespace bumblebee::op_cases
