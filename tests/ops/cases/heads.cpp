// Products per head: what follows the features that are multiplied, heads of one row and of many, both directions of
// every format.
#include <cmath>

#include "tests/ops/cases/common.h"

namespace bumblebee::op_cases {
namespace {

struct HeadsSpec {
  int rows = 1, heads = 2;
  int stored_out = 16, stored_in = 64;  // of the matrices as they are stored
  bool transposed = false;
  int rest = 0;
  Format format = kQ4;

  int in() const { return transposed ? stored_out : stored_in; }
  int out() const { return transposed ? stored_in : stored_out; }
};

/// Wᵀ.
WideWeight transpose(const WideWeight& w) {
  WideWeight t{w.in, w.out, w.value, w.magnitude};
  for (size_t n = 0; n < size_t(w.out); ++n) {
    for (size_t k = 0; k < size_t(w.in); ++k) {
      t.value[k * size_t(w.out) + n] = w.value[n * size_t(w.in) + k];
      t.magnitude[k * size_t(w.out) + n] = w.magnitude[n * size_t(w.in) + k];
    }
  }
  return t;
}

class MatmulHeadsCase final : public OpCase {
 public:
  MatmulHeadsCase(const std::string& variant, const HeadsSpec& spec) : OpCase("matmul_heads", variant), spec_(spec) {
    Random random(seed_of(name()));
    x_ = random_rows(random, spec.rows, spec.heads * (spec.in() + spec.rest));
    stack_ = random_weight(random, spec.heads * spec.stored_out, spec.stored_in, spec.format,
                           1 / std::sqrt(double(spec.in())), odd_bytes());
    stack_.out = spec.stored_out;
    stack_.experts = spec.heads;
    stack_.name = name();
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = spec_.rows});
    std::vector<Weight> each;
    for (int h = 0; h < spec_.heads; ++h) each.push_back(backend.pack(expert_of(stack_, h)));
    const Weight heads = backend.stack(each);
    const Tensor x = backend.upload(x_.values, x_.rows, x_.cols);
    Tensor y;
    eagerly(backend, [&] { y = backend.stream().ops().matmul_heads(x, heads, spec_.transposed, spec_.rest); });
    return {read_output(backend, "y", y), read_output(backend, "x", x)};
  }

  /// A product of decoded weights, in either precision: activations are not rounded. What follows is copied.
  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>& reference) const override {
    std::vector<double> bound;
    for (int r = 0; r < spec_.rows; ++r) {
      for (int h = 0; h < spec_.heads; ++h) {
        const WideWeight stored = widen(expert_of(stack_, h)), w = spec_.transposed ? transpose(stored) : stored;
        const float* x = x_.row(r) + h * (spec_.in() + spec_.rest);
        for (int n = 0; n < spec_.out(); ++n)
          bound.push_back(product_bound(x, w, n, spec_.format, {}, double(reference[0].values[bound.size()]), 0));
        bound.insert(bound.end(), size_t(spec_.rest), 0.0);
      }
    }
    return {bound, std::vector<double>(x_.values.size(), 0)};
  }

  std::vector<Format> formats() const override { return {spec_.format}; }

  Cost cost() const override {
    const double products = double(spec_.heads) * spec_.in() * spec_.out();
    return {double(stored_bytes(stack_)) + 4.0 * double(x_.values.size()), 2.0 * spec_.rows * products};
  }

 private:
  HeadsSpec spec_;
  HostMatrix x_;
  HostWeight stack_;
};

}  // namespace

void add_matmul_heads(Cases& cases) {
  const auto add = [&](const std::string& variant, HeadsSpec spec) {
    for (const bool transposed : {false, true}) {
      spec.transposed = transposed;
      cases.push_back(std::make_unique<MatmulHeadsCase>(variant + (transposed ? "_transposed" : ""), spec));
    }
  };
  const Format bf16 = Format::dense(DType::bf16);
  add("one", {.heads = 1, .stored_out = 1, .stored_in = 1, .format = bf16});
  add("rest", {.rows = 3, .heads = 3, .rest = 5});
  for (const int rows : {1, 2, 4, 5, 9, 33}) add("rows" + std::to_string(rows), {.rows = rows, .heads = 5, .rest = 16});
  for (const int out : {1, 15, 17, 33, 100})
    add("out" + std::to_string(out), {.rows = 2, .heads = 3, .stored_out = out, .stored_in = 192, .rest = 2});
  for (const int in : {7, 31, 130, 1100})
    add("in" + std::to_string(in),
        {.rows = 3, .heads = 2, .stored_out = 24, .stored_in = in, .rest = 3, .format = bf16});
  for (const Format& format : every_format()) {
    add(label(format) + "_row1", {.heads = 2, .stored_out = 21, .stored_in = 128, .rest = 4, .format = format});
    add(label(format) + "_rows18", {.rows = 18, .heads = 2, .stored_out = 21, .stored_in = 128, .format = format});
  }
  add("glm", {.rows = 2,
              .heads = 20,
              .stored_out = 256,
              .stored_in = 512,
              .rest = 64,
              .format = Format::affine(8, 64, DType::bf16, DType::bf16)});
  add("many_rows", {.rows = 70, .heads = 4, .stored_out = 96, .stored_in = 128, .rest = 64});
}

}  // namespace bumblebee::op_cases
