// Derivatives of what is gathered by expert.
#include <cmath>

#include "tests/ops/cases/routed.h"

namespace bumblebee::op_cases {
namespace {

constexpr double kSmallest = 0x1p-126;

/// A choice of experts, made by the backend itself.
class RoutedCase : public OpCase {
 public:
  RoutedCase(const std::string& op, const std::string& variant, int rows, int experts, int top_k, Spread spread)
      : OpCase(op, variant), top_k_(top_k) {
    Random random(seed_of(name()));
    logits_ = spread_logits(random, rows, experts, spread);
  }

 protected:
  int rows() const { return logits_.rows; }
  int assignments() const { return logits_.rows * top_k_; }
  static Tensor upload(Backend& backend, const HostMatrix& m) { return backend.upload(m.values, m.rows, m.cols); }
  Routing route(Backend& backend) const {
    return backend.stream().ops().route(upload(backend, logits_),
                                        {.experts = logits_.cols, .top_k = top_k_, .bias = {}});
  }

  int top_k_;
  HostMatrix logits_;
};

struct RouteDxSpec {
  int rows = 1, experts = 8, top_k = 2;
  RouterParams::Score score = RouterParams::Score::softmax;
  bool normalise = true, bias = false;
  int groups = 1, top_groups = 1;
  float scale = 1;
  double beside_sum = 0;
};

class RouteDxCase final : public OpCase {
 public:
  RouteDxCase(const std::string& variant, const RouteDxSpec& spec) : OpCase("route_dx", variant), spec_(spec) {
    Random random(seed_of(name()));
    logits_ = spread_logits(random, spec.rows, spec.experts, Spread::even);
    dweights_ = random_rows(random, spec.rows, spec.top_k);
    if (spec.bias) bias_ = random.normals(size_t(spec.experts), 0.3);
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = spec_.rows});
    RouterParams router{.score = spec_.score,
                        .experts = spec_.experts,
                        .top_k = spec_.top_k,
                        .bias = {},
                        .groups = spec_.groups,
                        .top_groups = spec_.top_groups,
                        .normalise = spec_.normalise,
                        .scale = spec_.scale,
                        .expert_scale = {},
                        .beside_sum = spec_.beside_sum};
    if (spec_.bias) router.bias = backend.upload(bias_, 1, spec_.experts);
    const Tensor logits = backend.upload(logits_.values, logits_.rows, logits_.cols),
                 dweights = backend.upload(dweights_.values, dweights_.rows, dweights_.cols);
    const Routing routing = backend.stream().ops().route(logits, router);
    return {read_output(backend, "dlogits", backend.stream().grad_ops()->route_dx(dweights, logits, routing, router))};
  }

  /// In double, from exponentials that differ in a few of its roundings, then rounded once.
  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>& reference) const override {
    std::vector<double> bound;
    for (size_t i = 0; i < reference[0].values.size(); ++i) {
      double size = 0;
      for (int j = 0; j < spec_.top_k; ++j)
        size += std::abs(double(dweights_.row(int(i) / spec_.experts)[j]) * double(spec_.scale));
      bound.push_back(2 * kRoundF32 * std::abs(double(reference[0].values[i])) + 1e-13 * size + kSmallest);
    }
    return {bound};
  }

 private:
  RouteDxSpec spec_;
  HostMatrix logits_, dweights_;
  std::vector<float> bias_;
};

class SpreadRowsCase final : public RoutedCase {
 public:
  SpreadRowsCase(const std::string& variant, int rows, int experts, int top_k, int cols, Spread spread)
      : RoutedCase("spread_rows", variant, rows, experts, top_k, spread) {
    Random random(seed_of(name()) + 1);
    x_ = random_rows(random, rows, cols);
  }
  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = rows()});
    return {read_output(backend, "y", backend.stream().grad_ops()->spread_rows(upload(backend, x_), route(backend)))};
  }
  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>& reference) const override {
    return {std::vector<double>(reference[0].values.size(), 0)};
  }

 private:
  HostMatrix x_;
};

class SpreadRowsDxCase final : public RoutedCase {
 public:
  SpreadRowsDxCase(const std::string& variant, int rows, int experts, int top_k, int cols, Spread spread)
      : RoutedCase("spread_rows_dx", variant, rows, experts, top_k, spread) {
    Random random(seed_of(name()) + 1);
    dy_ = random_rows(random, rows * top_k, cols);
  }
  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = rows()});
    return {
        read_output(backend, "dx", backend.stream().grad_ops()->spread_rows_dx(upload(backend, dy_), route(backend)))};
  }
  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>&) const override {
    const Chosen chosen(logits_, top_k_);
    std::vector<double> bound(size_t(rows()) * size_t(dy_.cols));
    for (size_t i = 0; i < chosen.order.size(); ++i) {
      for (int c = 0; c < dy_.cols; ++c)
        bound[i / size_t(top_k_) * size_t(dy_.cols) + size_t(c)] +=
            sum_error(top_k_, 1) * std::abs(double(dy_.row(chosen.order[i])[c]));
    }
    return {bound};
  }

 private:
  HostMatrix dy_;
};

struct DxStack {
  Format format;
  int out = 0;
};

class MatmulExpertsDxCase final : public RoutedCase {
 public:
  MatmulExpertsDxCase(const std::string& variant, int rows, int in, int experts, int top_k,
                      const std::vector<DxStack>& stacks, Spread spread = Spread::even)
      : RoutedCase("matmul_experts_dx", variant, rows, experts, top_k, spread), in_(in) {
    Random random(seed_of(name()) + 1);
    for (const DxStack& stack : stacks) {
      dy_.push_back(random_rows(random, rows * top_k, stack.out));
      HostWeight all =
          random_weight(random, experts * stack.out, in, stack.format, 1 / std::sqrt(double(stack.out)), odd_bytes());
      all.out = stack.out;
      all.experts = experts;
      all.name = name();
      stacks_.push_back(std::move(all));
    }
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = rows()});
    std::vector<Tensor> dy;
    std::vector<Weight> packed;
    for (size_t t = 0; t < dy_.size(); ++t) {
      dy.push_back(upload(backend, dy_[t]));
      std::vector<Weight> each;
      for (int e = 0; e < logits_.cols; ++e) each.push_back(backend.pack(expert_of(stacks_[t], e)));
      packed.push_back(backend.stack(each));
    }
    std::vector<const Weight*> stacks;
    for (const Weight& weight : packed) stacks.push_back(&weight);
    return {read_output(backend, "dx", backend.stream().grad_ops()->matmul_experts_dx(dy, stacks, route(backend)))};
  }

  /// As matmul_dx.
  std::vector<std::vector<double>> bounds(const Precision& precision,
                                          const std::vector<Output>& reference) const override {
    const Chosen chosen(logits_, top_k_);
    int outs = 0;
    for (const HostMatrix& dy : dy_) outs += dy.cols;
    const size_t in = size_t(in_);
    std::vector<double> bound(reference[0].values.size());
    for (size_t t = 0; t < dy_.size(); ++t) {
      std::vector<WideWeight> wide;
      for (int e = 0; e < logits_.cols; ++e) wide.push_back(widen(expert_of(stacks_[t], e)));
      for (size_t a = 0; a < chosen.expert.size(); ++a) {
        const WideWeight& w = wide[size_t(chosen.expert[a])];
        for (size_t n = 0; n < size_t(w.out); ++n) {
          const double dy = std::abs(double(dy_[t].row(int(a))[n]));
          for (size_t k = 0; k < in; ++k) {
            bound[a * in + k] += sum_error(outs, 8) * dy * w.magnitude[n * in + k];
            if (precision.fast) bound[a * in + k] += kBothBf16 * dy * std::abs(w.value[n * in + k]) + kSmallest;
          }
        }
      }
    }
    for (size_t i = 0; i < bound.size(); ++i) bound[i] += kRoundF32 * std::abs(double(reference[0].values[i]));
    return {bound};
  }

 private:
  int in_;
  std::vector<HostMatrix> dy_;
  std::vector<HostWeight> stacks_;
};

class SumExpertsDxCase final : public RoutedCase {
 public:
  SumExpertsDxCase(const std::string& variant, int rows, int experts, int top_k, int cols, Spread spread)
      : RoutedCase("sum_experts_dx", variant, rows, experts, top_k, spread) {
    Random random(seed_of(name()) + 1);
    y_ = random_rows(random, rows * top_k, cols);
    dsum_ = random_rows(random, rows, cols);
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = rows()});
    Tensor dy, dweights;
    backend.stream().grad_ops()->sum_experts_dx(upload(backend, dsum_), upload(backend, y_), route(backend), dy,
                                                dweights);
    return {read_output(backend, "dy", dy), read_output(backend, "dweights", dweights)};
  }

  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>& reference) const override {
    const Chosen chosen(logits_, top_k_);
    std::vector<std::vector<double>> bounds(2);
    for (const float v : reference[0].values)
      bounds[0].push_back((weight_error(logits_) + 2 * kRoundF32) * std::abs(double(v)) + kSmallest);
    for (size_t i = 0; i < chosen.order.size(); ++i) {
      double size = 0;
      for (int c = 0; c < y_.cols; ++c)
        size += std::abs(double(y_.row(chosen.order[i])[c]) * double(dsum_.row(int(i) / top_k_)[c]));
      bounds[1].push_back(sum_error(y_.cols, 1) * size);
    }
    return bounds;
  }

 private:
  HostMatrix y_, dsum_;
};

class GateRowsDxCase final : public OpCase {
 public:
  GateRowsDxCase(const std::string& variant, int rows, int cols) : OpCase("gate_rows_dx", variant) {
    Random random(seed_of(name()));
    y_ = random_rows(random, rows, cols);
    dout_ = random_rows(random, rows, cols);
    gate_ = {rows, 1, random.normals(size_t(rows), 3)};
    const float extremes[] = {0.0f, -0.0f, 30.0f, -30.0f, 88.0f, -87.0f, 1e4f};
    for (size_t r = 0; rows >= 7 && r < 7; ++r) gate_.values[r] = extremes[r];
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = y_.rows});
    const auto upload = [&](const HostMatrix& m) { return backend.upload(m.values, m.rows, m.cols); };
    Tensor dy, dgate;
    backend.stream().grad_ops()->gate_rows_dx(upload(dout_), upload(y_), upload(gate_), dy, dgate);
    return {read_output(backend, "dy", dy), read_output(backend, "dgate", dgate)};
  }

  /// The factor is good to a rounding; its product with a sum is another two.
  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>& reference) const override {
    std::vector<std::vector<double>> bounds(2);
    for (const float v : reference[0].values) bounds[0].push_back(3 * kRoundF32 * std::abs(double(v)) + 0x1p-120);
    for (int r = 0; r < y_.rows; ++r) {
      const double factor = 1 / (1 + std::exp(-double(gate_.values[size_t(r)])));
      double size = 0;
      for (int c = 0; c < y_.cols; ++c) size += std::abs(double(y_.row(r)[c]) * double(dout_.row(r)[c]));
      bounds[1].push_back(sum_error(y_.cols, 3) * factor * (1 - factor) * size + 0x1p-120);
    }
    return bounds;
  }

 private:
  HostMatrix y_, dout_, gate_;
};

/// Of an operation over [rows, top_k] assignments of `cols` features.
template <class Case>
void add_spread(Cases& cases) {
  const auto add = [&](const std::string& variant, int rows, int experts, int top_k, int cols,
                       Spread spread = Spread::even) {
    cases.push_back(std::make_unique<Case>(variant, rows, experts, top_k, cols, spread));
  };
  add("one", 1, 1, 1, 1);
  for (const int cols : {3, 16, 17, 100}) add("cols" + std::to_string(cols), 3, 6, 2, cols);
  add("skewed", 20, 12, 3, 64, Spread::skewed);
  add("all", 5, 4, 4, 33);
  add("many_rows", 70, 16, 4, 512);
}

}  // namespace

void add_route_dx(Cases& cases) {
  const auto add = [&](const std::string& variant, const RouteDxSpec& spec) {
    cases.push_back(std::make_unique<RouteDxCase>(variant, spec));
  };
  using enum RouterParams::Score;
  add("one_of_one", {.experts = 1, .top_k = 1});
  add("two_of_eight", {.rows = 5});
  add("all_of_three", {.rows = 4, .experts = 3, .top_k = 3});
  add("not_normalised", {.rows = 9, .experts = 60, .top_k = 4, .normalise = false});
  add("scaled", {.rows = 3, .experts = 16, .top_k = 4, .scale = 2.5f});
  add("softmax_groups", {.rows = 7, .experts = 32, .top_k = 4, .groups = 8, .top_groups = 3});
  add("sigmoid", {.rows = 6, .experts = 16, .top_k = 3, .score = sigmoid});
  add("sigmoid_beside_sum", {.rows = 6, .experts = 16, .top_k = 3, .score = sigmoid, .beside_sum = 0.5});
  add("sigmoid_bias_not_normalised",
      {.rows = 6, .experts = 16, .top_k = 3, .score = sigmoid, .normalise = false, .bias = true});
  add("many_rows", {.rows = 300, .experts = 128, .top_k = 8});
}

void add_spread_rows(Cases& cases) { add_spread<SpreadRowsCase>(cases); }
void add_spread_rows_dx(Cases& cases) { add_spread<SpreadRowsDxCase>(cases); }
void add_sum_experts_dx(Cases& cases) { add_spread<SumExpertsDxCase>(cases); }

void add_matmul_experts_dx(Cases& cases) {
  const auto add = [&](const std::string& variant, auto... arguments) {
    cases.push_back(std::make_unique<MatmulExpertsDxCase>(variant, arguments...));
  };
  using Stacks = std::vector<DxStack>;
  add("one", 1, 64, 1, 1, Stacks{{kQ4, 16}});
  for (const int rows : {1, 2, 5, 13, 40}) add("rows" + std::to_string(rows), rows, 128, 4, 2, Stacks{{kQ4, 37}});
  add("skewed", 40, 192, 12, 3, Stacks{{kQ4, 33}, {kQ4, 33}}, Spread::skewed);
  add("all_to_one", 25, 128, 6, 1, Stacks{{kQ4, 50}}, Spread::one);
  for (const Format& format : every_format()) add(label(format) + "_rows9", 9, 128, 5, 2, Stacks{{format, 21}});
  add("mixed_stacks", 7, 128, 4, 2,
      Stacks{{kQ4, 17}, {Format::dense(DType::bf16), 5}, {Format::affine(8, 32, DType::f16, DType::f16), 12}});
  add("large", 30, 576, 4, 2, Stacks{{kQ4, 300}});
}

void add_gate_rows_dx(Cases& cases) {
  const auto add = [&](const std::string& variant, int rows, int cols) {
    cases.push_back(std::make_unique<GateRowsDxCase>(variant, rows, cols));
  };
  add("one", 1, 1);
  add("extremes", 8, 17);
  add("many_rows", 40, 1024);
}

}  // namespace bumblebee::op_cases
