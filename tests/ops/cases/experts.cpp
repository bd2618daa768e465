// Experts: the choice, products gathered by it, and the sum; with few rows of an expert and many, experts that nobody
// chose, and every format of a stack.
#include <algorithm>
#include <cmath>

#include "tests/ops/cases/common.h"
#include "tests/ops/cases/routed.h"

namespace bumblebee::op_cases {
namespace {

Output read_ints(Backend& backend, const std::string& what, const Tensor& tensor) {
  std::vector<int32_t> values(size_t(tensor.rows()) * size_t(tensor.cols()));
  backend.read_bytes(tensor, std::as_writable_bytes(std::span(values)));
  return {what, tensor.rows(), tensor.cols(), {values.begin(), values.end()}};
}

struct RouteSpec {
  int rows = 1, experts = 8, top_k = 2;
  RouterParams::Score score = RouterParams::Score::softmax;
  bool bias = false, normalise = true;
  int groups = 1, top_groups = 1;
  bool best_alone = false;
  float scale = 1;
  bool expert_scale = false;
  double beside_sum = 0;
  enum class Values : uint8_t { random, tied, not_finite } values = Values::random;
};

class RouteCase final : public OpCase {
 public:
  RouteCase(const std::string& variant, const RouteSpec& spec) : OpCase("route", variant), spec_(spec) {
    Random random(seed_of(name()));
    const size_t count = size_t(spec.rows) * size_t(spec.experts);
    logits_ = {spec.rows, spec.experts, random.normals(count, 2)};
    if (spec.values == RouteSpec::Values::tied)
      for (float& v : logits_.values) v = std::round(v);
    if (spec.values == RouteSpec::Values::not_finite) {
      const float odd[] = {NAN, INFINITY, -INFINITY, -NAN};
      for (size_t i = 0; i < count; i += 3) logits_.values[i] = odd[i / 3 % 4];
      std::fill_n(logits_.values.begin(), spec.experts, NAN);
      for (int e = 0; e < spec.experts; ++e)  // one NaN among numbers
        logits_.values[size_t(spec.experts + e)] = e == 3 ? NAN : float(e % 5);
    }
    if (spec.expert_scale) expert_scale_ = random.normals(size_t(spec.experts), 1);
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
                        .best_alone = spec_.best_alone,
                        .normalise = spec_.normalise,
                        .scale = spec_.scale,
                        .expert_scale = {},
                        .beside_sum = spec_.beside_sum};
    if (spec_.expert_scale) router.expert_scale = backend.upload(expert_scale_, 1, spec_.experts);
    if (spec_.bias) router.bias = backend.upload(bias_, 1, spec_.experts);
    const Tensor logits = backend.upload(logits_.values, logits_.rows, logits_.cols);
    Routing routing;
    eagerly(backend, [&] { routing = backend.stream().ops().route(logits, router); });
    std::vector<Output> outputs = {read_ints(backend, "experts", routing.experts),
                                   read_ints(backend, "order", routing.order)};
    outputs.push_back(read_output(backend, "weights", routing.weights));
    if (spec_.values != RouteSpec::Values::not_finite) return outputs;
    // Which weights are NaN: a row that went wrong before must be seen to.
    outputs.back().what = "lost";
    for (float& weight : outputs.back().values) weight = std::isnan(weight) ? 1.0f : 0.0f;
    return outputs;
  }

  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>& reference) const override {
    const std::vector<double> exact(reference[0].values.size(), 0);
    std::vector<std::vector<double>> bounds = {exact, exact};
    if (spec_.values == RouteSpec::Values::not_finite) {
      bounds.push_back(exact);
      return bounds;
    }
    bounds.emplace_back();
    for (const float v : reference[2].values)
      bounds[2].push_back(weight_error(logits_) * std::abs(double(v)) + 0x1p-126);
    return bounds;
  }

 private:
  RouteSpec spec_;
  HostMatrix logits_;
  std::vector<float> bias_, expert_scale_;
};

struct StackSpec {
  Format format;
  int out = 0;
};

class MatmulExpertsCase final : public OpCase {
 public:
  MatmulExpertsCase(const std::string& variant, int rows, int in, int experts, int top_k,
                    const std::vector<StackSpec>& stacks, Spread spread = Spread::even,
                    ExpertRows kind = ExpertRows::batch)
      : OpCase("matmul_experts", variant), top_k_(top_k), experts_(experts), kind_(kind) {
    Random random(seed_of(name()));
    logits_ = spread_logits(random, rows, experts, spread);
    x_ = random_rows(random, kind == ExpertRows::batch ? rows : rows * top_k, in);
    for (const StackSpec& stack : stacks) {
      HostWeight all =
          random_weight(random, experts * stack.out, in, stack.format, 1 / std::sqrt(double(in)), odd_bytes());
      all.out = stack.out;
      all.experts = experts;
      all.name = name();
      stacks_.push_back(std::move(all));
    }
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = logits_.rows});
    std::vector<Weight> packed;
    for (const HostWeight& stack : stacks_) {
      std::vector<Weight> each;
      for (int e = 0; e < experts_; ++e) each.push_back(backend.pack(expert_of(stack, e)));
      packed.push_back(backend.stack(each));
    }
    std::vector<const Weight*> stacks;
    for (const Weight& weight : packed) stacks.push_back(&weight);
    const Tensor logits = backend.upload(logits_.values, logits_.rows, logits_.cols),
                 x = backend.upload(x_.values, x_.rows, x_.cols);
    std::vector<Tensor> y(stacks.size());
    eagerly(backend, [&] {
      Ops& ops = backend.stream().ops();
      const Routing routing = ops.route(logits, {.experts = experts_, .top_k = top_k_, .bias = {}});
      ops.matmul_experts(x, kind_, routing, stacks, y);
    });
    std::vector<Output> outputs;
    for (size_t i = 0; i < y.size(); ++i) outputs.push_back(read_output(backend, "y" + std::to_string(i), y[i]));
    return outputs;
  }

  std::vector<std::vector<double>> bounds(const Precision& precision,
                                          const std::vector<Output>& reference) const override {
    const Chosen chosen(logits_, top_k_);
    std::vector<std::vector<double>> bounds;
    for (size_t s = 0; s < stacks_.size(); ++s) {
      std::vector<WideWeight> wide;
      for (int e = 0; e < experts_; ++e) wide.push_back(widen(expert_of(stacks_[s], e)));
      std::vector<double>& bound = bounds.emplace_back();
      for (size_t a = 0; a < chosen.row.size(); ++a) {
        const float* x = x_.row(kind_ == ExpertRows::batch ? chosen.row[a] : int(a));
        for (int n = 0; n < stacks_[s].out; ++n)
          bound.push_back(product_bound(x, wide[size_t(chosen.expert[a])], n, stacks_[s].format, precision,
                                        double(reference[s].values[bound.size()]), 0));
      }
    }
    return bounds;
  }

  std::vector<Format> formats() const override {
    std::vector<Format> formats;
    for (const HostWeight& stack : stacks_) formats.push_back(stack.format);
    return formats;
  }

  Cost cost() const override {
    const Chosen chosen(logits_, top_k_);
    std::vector<int> experts = chosen.expert;
    const double read = double(std::unique(experts.begin(), experts.end()) - experts.begin());
    Cost cost{double(x_.values.size()) * 4, 0};
    for (const HostWeight& stack : stacks_) {
      cost.bytes += double(stored_bytes(expert_of(stack, 0))) * read + 4.0 * double(chosen.row.size()) * stack.out;
      cost.flops += 2.0 * double(chosen.row.size()) * stack.out * stack.in;
    }
    return cost;
  }

 private:
  int top_k_, experts_;
  ExpertRows kind_;
  HostMatrix logits_, x_;
  std::vector<HostWeight> stacks_;
};

class AddExpertBiasCase final : public OpCase {
 public:
  AddExpertBiasCase(const std::string& variant, int rows, int experts, int top_k, int cols, bool shared)
      : OpCase("add_expert_bias", variant), top_k_(top_k), shared_(shared) {
    Random random(seed_of(name()));
    logits_ = spread_logits(random, rows, experts, Spread::skewed);
    y_ = random_rows(random, rows * top_k, cols);
    bias_ = random.normals(size_t(experts) * size_t(cols), 1);
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = logits_.rows});
    const Tensor logits = backend.upload(logits_.values, logits_.rows, logits_.cols),
                 bias = backend.upload(bias_, 1, int(bias_.size()));
    Tensor y = backend.upload(y_.values, y_.rows, y_.cols);
    const Tensor kept = shared_ ? y : Tensor();
    eagerly(backend, [&] {
      Ops& ops = backend.stream().ops();
      ops.add_expert_bias(y, ops.route(logits, {.experts = logits_.cols, .top_k = top_k_, .bias = {}}), bias);
    });
    std::vector<Output> outputs = {read_output(backend, "y", y)};
    if (shared_) outputs.push_back(read_output(backend, "before", kept));
    return outputs;
  }

  /// One sum.
  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>& reference) const override {
    std::vector<std::vector<double>> bounds = {{}};
    for (const float y : reference[0].values) bounds[0].push_back(2 * kRoundF32 * std::abs(double(y)));
    if (shared_) bounds.emplace_back(y_.values.size(), 0);
    return bounds;
  }

 private:
  int top_k_;
  bool shared_;
  HostMatrix logits_, y_;
  std::vector<float> bias_;
};

class SumExpertsCase final : public OpCase {
 public:
  SumExpertsCase(const std::string& variant, int rows, int experts, int top_k, int cols)
      : OpCase("sum_experts", variant), top_k_(top_k) {
    Random random(seed_of(name()));
    logits_ = spread_logits(random, rows, experts, Spread::even);
    y_ = random_rows(random, rows * top_k, cols);
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = logits_.rows});
    const Tensor logits = backend.upload(logits_.values, logits_.rows, logits_.cols),
                 y = backend.upload(y_.values, y_.rows, y_.cols);
    Tensor sum;
    eagerly(backend, [&] {
      Ops& ops = backend.stream().ops();
      sum = ops.sum_experts(y, ops.route(logits, {.experts = logits_.cols, .top_k = top_k_, .bias = {}}));
    });
    return {read_output(backend, "sum", sum), read_output(backend, "y", y)};
  }

  /// Each term has the error of its weight and a product; they are added in f32.
  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>&) const override {
    const Chosen chosen(logits_, top_k_);
    std::vector<double> bound(size_t(logits_.rows) * size_t(y_.cols), 0x1p-126);
    for (size_t i = 0; i < chosen.order.size(); ++i) {
      for (int c = 0; c < y_.cols; ++c)
        bound[i / size_t(top_k_) * size_t(y_.cols) + size_t(c)] += (weight_error(logits_) + sum_error(top_k_, 3)) *
                                                                   chosen.weight[i] *
                                                                   std::abs(double(y_.row(chosen.order[i])[c]));
    }
    return {bound, std::vector<double>(y_.values.size(), 0)};
  }

 private:
  int top_k_;
  HostMatrix logits_, y_;
};

class GateRowsCase final : public OpCase {
 public:
  GateRowsCase(const std::string& variant, int rows, int cols, bool shared)
      : OpCase("gate_rows", variant), shared_(shared) {
    Random random(seed_of(name()));
    y_ = random_rows(random, rows, cols);
    gate_ = {rows, 1, random.normals(size_t(rows), 3)};
    const float extremes[] = {0.0f, -0.0f, 30.0f, -30.0f, 88.0f, -87.0f, 1e4f};
    for (size_t r = 0; rows >= 7 && r < 7; ++r) gate_.values[r] = extremes[r];
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = y_.rows});
    Tensor y = backend.upload(y_.values, y_.rows, y_.cols);
    const Tensor held = shared_ ? y : Tensor(), gate = backend.upload(gate_.values, gate_.rows, 1);
    Tensor out;
    eagerly(backend, [&] { out = backend.stream().ops().gate_rows(std::move(y), gate); });
    std::vector<Output> outputs = {read_output(backend, "out", out)};
    if (held) outputs.push_back(read_output(backend, "the other handle on y", held));
    return outputs;
  }

  /// The exponential is good to four roundings, then a sum, a quotient and a product.
  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>& reference) const override {
    std::vector<std::vector<double>> bounds(1);
    for (const float v : reference[0].values) bounds[0].push_back(8 * kRoundF32 * std::abs(double(v)) + 0x1p-120);
    if (shared_) bounds.emplace_back(y_.values.size(), 0);
    return bounds;
  }

 private:
  bool shared_;
  HostMatrix y_, gate_;
};

}  // namespace

void add_route(Cases& cases) {
  const auto add = [&](const std::string& variant, const RouteSpec& spec) {
    cases.push_back(std::make_unique<RouteCase>(variant, spec));
  };
  using enum RouterParams::Score;
  add("one_of_one", {.experts = 1, .top_k = 1});
  add("all_of_three", {.rows = 4, .experts = 3, .top_k = 3});
  add("two_of_eight", {.rows = 5});
  add("eight_of_128", {.rows = 33, .experts = 128, .top_k = 8});
  add("eight_of_128_row1", {.experts = 128, .top_k = 8});
  add("not_normalised", {.rows = 9, .experts = 60, .top_k = 4, .normalise = false});
  add("scaled", {.rows = 3, .experts = 16, .top_k = 4, .scale = 2.5f});
  add("scaled_apart", {.rows = 3, .experts = 16, .top_k = 4, .scale = 2.5f, .expert_scale = true});
  add("ties", {.rows = 20, .experts = 24, .top_k = 6, .values = RouteSpec::Values::tied});
  add("not_finite", {.rows = 6, .experts = 12, .top_k = 5, .values = RouteSpec::Values::not_finite});
  add("not_finite_sums",
      {.rows = 6, .experts = 12, .top_k = 5, .normalise = false, .values = RouteSpec::Values::not_finite});
  add("softmax_bias", {.rows = 7, .experts = 32, .top_k = 4, .bias = true});
  add("softmax_groups", {.rows = 7, .experts = 32, .top_k = 4, .groups = 8, .top_groups = 3});
  add("softmax_best_groups", {.rows = 17,
                              .experts = 32,
                              .top_k = 4,
                              .normalise = false,
                              .groups = 8,
                              .top_groups = 3,
                              .best_alone = true,
                              .scale = 16});
  add("sigmoid", {.rows = 6, .experts = 16, .top_k = 3, .score = sigmoid});
  add("sigmoid_beside_sum", {.rows = 6, .experts = 16, .top_k = 3, .score = sigmoid, .bias = true, .beside_sum = 0.5});
  add("sigmoid_bias_not_normalised",
      {.rows = 6, .experts = 16, .top_k = 3, .score = sigmoid, .bias = true, .normalise = false});
  add("sigmoid_groups_bias", {.rows = 11,
                              .experts = 256,
                              .top_k = 8,
                              .score = sigmoid,
                              .bias = true,
                              .groups = 8,
                              .top_groups = 4,
                              .scale = 2.5f});
  add("groups_of_one", {.rows = 5, .experts = 6, .top_k = 2, .score = sigmoid, .groups = 6, .top_groups = 3});
  add("many_rows", {.rows = 600, .experts = 128, .top_k = 8});
}

void add_matmul_experts(Cases& cases) {
  const auto add = [&](const std::string& variant, auto... arguments) {
    cases.push_back(std::make_unique<MatmulExpertsCase>(variant, arguments...));
  };
  using Stacks = std::vector<StackSpec>;
  add("one", 1, 64, 1, 1, Stacks{{kQ4, 16}});
  // A row of generation: gate and up from the row, down from its assignments.
  add("row1", 1, 128, 16, 8, Stacks{{kQ4, 48}, {kQ4, 48}});
  add("row1_down", 1, 64, 16, 8, Stacks{{kQ4, 80}}, Spread::even, ExpertRows::assignments);
  // Rows of an expert around the number that reads weights as they lie, and tiles of more.
  for (const int rows : {2, 3, 4, 5, 6, 9, 17, 33, 70}) {
    add("rows" + std::to_string(rows), rows, 128, 4, 2, Stacks{{kQ4, 37}});
    add("rows" + std::to_string(rows) + "_down", rows, 64, 4, 2, Stacks{{kQ4, 37}}, Spread::even,
        ExpertRows::assignments);
  }
  add("skewed", 40, 192, 12, 3, Stacks{{kQ4, 33}, {kQ4, 33}}, Spread::skewed);
  add("skewed_down", 40, 96, 12, 3, Stacks{{Format::affine(4, 32, DType::f16, DType::f16), 65}}, Spread::skewed,
      ExpertRows::assignments);
  add("all_to_one", 25, 128, 6, 1, Stacks{{kQ4, 50}}, Spread::one);
  add("all_to_all", 9, 128, 3, 3, Stacks{{kQ4, 50}});
  add("more_than_a_product_takes", 700, 64, 2, 2, Stacks{{kQ4, 20}});
  for (const Format& format : every_format()) {
    add(label(format) + "_row1", 1, 128, 5, 2, Stacks{{format, 21}});
    add(label(format) + "_rows18", 18, 128, 5, 2, Stacks{{format, 21}}, Spread::skewed);
  }
  add("mixed_stacks", 7, 128, 4, 2,
      Stacks{{kQ4, 17}, {Format::dense(DType::bf16), 5}, {Format::affine(8, 32, DType::f16, DType::f16), 12}});
  add("mixed_stacks_row1", 1, 128, 4, 2,
      Stacks{{kQ4, 17}, {Format::dense(DType::bf16), 5}, {Format::affine(8, 32, DType::f16, DType::f16), 12}});
  add("long_rows", 3, 4160, 3, 2, Stacks{{kQ4, 9}});
  add("many_rows", 64, 256, 8, 2, Stacks{{kQ4, 300}, {kQ4, 300}}, Spread::skewed);
}

void add_add_expert_bias(Cases& cases) {
  const auto add = [&](const std::string& variant, int rows, int experts, int top_k, int cols, bool shared = false) {
    cases.push_back(std::make_unique<AddExpertBiasCase>(variant, rows, experts, top_k, cols, shared));
  };
  add("one", 1, 1, 1, 1);
  for (const int cols : {3, 16, 17, 100}) add("cols" + std::to_string(cols), 3, 6, 2, cols);
  add("shared", 5, 6, 3, 33, true);
  add("row1", 1, 32, 4, 2880);
  add("many_rows", 70, 16, 4, 512);
}

void add_sum_experts(Cases& cases) {
  const auto add = [&](const std::string& variant, int rows, int experts, int top_k, int cols) {
    cases.push_back(std::make_unique<SumExpertsCase>(variant, rows, experts, top_k, cols));
  };
  add("one", 1, 1, 1, 1);
  for (const int cols : {3, 16, 17, 100}) add("cols" + std::to_string(cols), 3, 6, 2, cols);
  add("row1_k8", 1, 128, 8, 256);
  add("many_rows", 70, 16, 4, 512);
}

void add_gate_rows(Cases& cases) {
  for (const bool shared : {false, true}) {
    const std::string end = shared ? "_shared" : "";
    cases.push_back(std::make_unique<GateRowsCase>("one" + end, 1, 1, shared));
    cases.push_back(std::make_unique<GateRowsCase>("extremes" + end, 8, 17, shared));
    cases.push_back(std::make_unique<GateRowsCase>("many_rows" + end, 40, 1024, shared));
  }
}

}  // namespace bumblebee::op_cases
