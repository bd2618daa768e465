// Derivatives that work row by row, and the helpers of a tape.
#include <algorithm>
#include <cmath>

#include "tests/ops/cases/common.h"

namespace bumblebee::op_cases {
namespace {

constexpr int kGradWidths[] = {1, 2, 7, 15, 16, 17, 33, 64, 100, 257, 2048};
constexpr double kTiny = 0x1p-126;

/// Bounds of rms_norm_dx for one run: r·w∘dy - x·r³·mean(w∘dy∘x), where |dy| <= size and dy is off by `own`·size. r has
/// half the relative error of a sum of squares and a few roundings; the mean is another sum.
void norm_dx_bound(std::span<const double> size, double own, const float* x, std::span<const float> w, double eps,
                   std::span<double> bound) {
  const size_t n = size.size();
  double squares = 0, mixed = 0;
  for (size_t i = 0; i < n; ++i) {
    squares += double(x[i]) * double(x[i]);
    mixed += std::abs(double(w[i]) * size[i] * double(x[i]));
  }
  const double r = 1 / std::sqrt(squares / double(n) + eps), sum = sum_error(int64_t(n));
  for (size_t i = 0; i < n; ++i) {
    bound[i] = (sum / 2 + 8 * kRoundF32 + own) * r * std::abs(double(w[i])) * size[i] +
               (2.5 * sum + 16 * kRoundF32 + own) * std::abs(double(x[i])) * r * r * r * mixed / double(n) + kTiny;
  }
}

std::vector<double> magnitudes(std::span<const float> values) {
  std::vector<double> m;
  for (const float v : values) m.push_back(std::abs(double(v)));
  return m;
}

class RmsNormDxCase final : public OpCase {
 public:
  RmsNormDxCase(const std::string& variant, int rows, int cols, int width, double deviation)
      : OpCase("rms_norm_dx", variant) {
    Random random(seed_of(name()));
    x_ = random_rows(random, rows, cols);
    for (float& v : x_.values) v = float(double(v) * deviation);
    dy_ = random_rows(random, rows, cols);
    w_ = random.normals(size_t(width), 1);
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = x_.rows});
    const NormParams norm{backend.upload(w_, 1, int(w_.size())), 1e-6f};
    const Tensor x = backend.upload(x_.values, x_.rows, x_.cols), dy = backend.upload(dy_.values, x_.rows, x_.cols);
    return {read_output(backend, "dx", backend.stream().grad_ops()->rms_norm_dx(dy, x, norm))};
  }

  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>&) const override {
    const std::vector<double> size = magnitudes(dy_.values);
    std::vector<double> bound(size.size());
    for (size_t at = 0; at < size.size(); at += w_.size())
      norm_dx_bound(std::span(size).subspan(at, w_.size()), 0, x_.values.data() + at, w_, 1e-6,
                    std::span(bound).subspan(at, w_.size()));
    return {bound};
  }

 private:
  HostMatrix x_, dy_;
  std::vector<float> w_;
};

struct TurnSpec {
  int heads = 1, kv_heads = 1, head_dim = 16, dims = 0;  // dims 0: the whole head
  bool norms = false, shared = false, interleaved = false;
  float attention_factor = 1;
  float growth = 0;         // of queries, every 8 positions
  int stretched_from = -1;  // the first row of another sequence, which is
  std::vector<int32_t> positions = {0};
};

class NormRopeDxCase final : public OpCase {
 public:
  NormRopeDxCase(const std::string& variant, const TurnSpec& spec) : OpCase("norm_rope_dx", variant), spec_(spec) {
    Random random(seed_of(name()));
    const int rows = int(spec.positions.size());
    for (HostMatrix* m : {&q_, &dq_}) *m = random_rows(random, rows, spec.heads * spec.head_dim);
    for (HostMatrix* m : {&k_, &dk_}) *m = random_rows(random, rows, spec.kv_heads * spec.head_dim);
    q_norm_ = random.normals(size_t(spec.head_dim), 1);
    k_norm_ = random.normals(size_t(spec.head_dim), 1);
    rope_.dims = spec.dims > 0 ? spec.dims : spec.head_dim;
    rope_.attention_factor = spec.attention_factor;
    rope_.interleaved = spec.interleaved;
    for (int i = 0; i < rope_.dims; i += 2) rope_.inv_freq.push_back(float(std::pow(10000.0, -double(i) / rope_.dims)));
    rope_.query_growth = spec.growth;
    rope_.query_span = 8;
    for (size_t i = 0; i < rope_.inv_freq.size() && spec.stretched_from > 0; ++i)
      rope_.long_inv_freq.push_back(rope_.inv_freq[i] / float(i + 2));
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = q_.rows, .positions = spec_.positions, .stretched_from = spec_.stretched_from});
    const auto upload = [&](const HostMatrix& m) { return backend.upload(m.values, m.rows, m.cols); };
    const NormParams q_norm{backend.upload(q_norm_, 1, spec_.head_dim), 1e-6f},
        k_norm{backend.upload(k_norm_, 1, spec_.head_dim), 1e-6f};
    Tensor dq = upload(dq_), dk = upload(dk_);
    const Tensor held = spec_.shared ? dq : Tensor();
    backend.stream().grad_ops()->norm_rope_dx(dq, dk, spec_.norms ? upload(q_) : Tensor(),
                                              spec_.norms ? upload(k_) : Tensor(), spec_.head_dim,
                                              spec_.norms ? &q_norm : nullptr, spec_.norms ? &k_norm : nullptr, rope_);
    std::vector<Output> outputs = {read_output(backend, "dq", dq), read_output(backend, "dk", dk)};
    if (held) outputs.push_back(read_output(backend, "the other handle on dq", held));
    return outputs;
  }

  std::optional<bumblebee::Operation> needs() const override {
    if (spec_.growth != 0) return bumblebee::Operation::query_growth;
    if (spec_.stretched_from > 0) return bumblebee::Operation::long_rope;
    if (spec_.interleaved) return bumblebee::Operation::rope_pairs;
    return std::nullopt;
  }

  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>&) const override {
    std::vector<std::vector<double>> bounds = {rotated(dq_, q_, q_norm_, true), rotated(dk_, k_, k_norm_, false)};
    if (spec_.shared) bounds.emplace_back(dq_.values.size(), 0);
    return bounds;
  }

 private:
  /// A pair (a, b) is rotated with an error of 6u·(|a| + |b|)·attention_factor, as it is forward; what queries are
  /// multiplied by before that adds two.
  std::vector<double> rotated(const HostMatrix& d, const HostMatrix& x, const std::vector<float>& w,
                              bool queries) const {
    const bool grows = queries && spec_.growth != 0;
    const double error = (grows ? 8 : 6) * kRoundF32;
    const size_t dim = size_t(spec_.head_dim), half = rope_.inv_freq.size();
    std::vector<double> bound(d.values.size()), size(dim);
    for (size_t first = 0; first < bound.size(); first += dim) {
      for (size_t i = 0; i < dim; ++i) {
        const double factor = grows ? double(rope_.query_factor(spec_.positions[first / size_t(d.cols)])) : 1;
        const double own = factor * std::abs(double(d.values[first + i]));
        if (i >= 2 * half) {
          size[i] = own;
          continue;
        }
        const size_t partner = rope_.interleaved ? i ^ 1 : i < half ? i + half : i - half;
        const double other = factor * std::abs(double(d.values[first + partner]));
        size[i] = (own + other) * double(rope_.attention_factor);
      }
      const auto out = std::span(bound).subspan(first, dim);
      if (spec_.norms) {
        norm_dx_bound(size, error, x.values.data() + first, w, 1e-6, out);
      } else {
        for (size_t i = 0; i < dim; ++i) out[i] = error * size[i];
      }
    }
    return bound;
  }

  TurnSpec spec_;
  HostMatrix q_, k_, dq_, dk_;
  std::vector<float> q_norm_, k_norm_;
  RopeParams rope_;
};

class GluDxCase final : public OpCase {
 public:
  GluDxCase(const std::string& variant, int rows, int cols, const std::vector<float>& gates, Activation activation)
      : OpCase("glu_dx", variant), activation_(activation) {
    Random random(seed_of(name()));
    gate_ = random_rows(random, rows, cols);
    for (size_t i = 0; i < gates.size(); ++i) gate_.values[i] = gates[i];
    up_ = random_rows(random, rows, cols);
    dy_ = random_rows(random, rows, cols);
    if (!clamps()) return;
    // At the limits and by one rounding beyond; outliers are far beyond.
    for (size_t i = 0; i < gates.size(); ++i) up_.values[i] = i % 3 == 0 ? 7 : i % 3 == 1 ? -7.0000005f : 7.0000005f;
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = gate_.rows});
    const auto upload = [&](const HostMatrix& m) { return backend.upload(m.values, m.rows, m.cols); };
    Tensor dgate, dup;
    backend.stream().grad_ops()->glu_dx(activation_, upload(dy_), upload(gate_), upload(up_), dgate, dup);
    return {read_output(backend, "dgate", dgate), read_output(backend, "dup", dup)};
  }

  /// s·(1 + g·(1 - s)): s and 1 - s are good to 8 roundings each (an exponential to 4, a sum, a quotient, products);
  /// the sum in brackets cancels, so that its parts count by their size. Values below the range of f32 may be zero. In
  /// gelu, v takes g's place in the exponent with five roundings of its own, which move s and 1 - s by the other's
  /// share of them, and g·dv has five as well; in clamped_silu v is a product. The bounds hold within its limits:
  /// beyond both are zero. Of sigmoid alone the slope is s·(1 - s).
  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>& reference) const override {
    std::vector<double> by_gate, by_up;
    if (activation_ == Activation::identity) {
      for (size_t i = 0; i < gate_.values.size(); ++i) {
        by_gate.push_back(kRoundF32 * std::abs(double(reference[0].values[i])) + kTiny);
        by_up.push_back(kRoundF32 * std::abs(double(reference[1].values[i])) + kTiny);
      }
      return {by_gate, by_up};
    }
    for (size_t i = 0; i < gate_.values.size(); ++i) {
      const bool gelu = activation_ == Activation::gelu;
      const double limit = double(kClampLimit), slope = clamps() ? double(kClampSlope) : 1;
      const double given = double(gate_.values[i]), g = clamps() ? std::min(given, limit) : given;
      const double square = std::min(g * g, 1e8), twice = 1.5957691216057308;
      const double v = gelu ? twice * g * (1 + 0.044715 * square) : slope * g,
                   steep = gelu ? twice * g * (1 + 3 * 0.044715 * square) : slope * g;
      const double s = 1 / (1 + std::exp(-v)), rest = 1 / (1 + std::exp(v));
      const double own = gelu ? 5 * std::abs(v) : clamps() ? std::abs(v) : 0;
      const double up = double(up_.values[i]), d = std::abs(double(dy_.values[i])),
                   u = clamps() ? std::abs(std::clamp(up, -limit, limit)) + 1 : std::abs(up);
      if (activation_ == Activation::sigmoid) {
        by_gate.push_back(20 * kRoundF32 * d * u * s * rest + kTiny * (1 + d) * (1 + u));
        by_up.push_back(11 * kRoundF32 * d * s + kTiny * (1 + d));
        continue;
      }
      const double tiny = kTiny * (1 + std::abs(steep)) * (1 + d) * (1 + u);
      const double moved = own * rest * (1 + std::abs(steep) * rest) + std::abs(steep) * rest * (own * s + 5);
      by_gate.push_back((24 * (1 + std::abs(steep) * rest) + moved) * kRoundF32 * d * u * s + tiny);
      by_up.push_back((11 + own * rest) * kRoundF32 * std::abs(double(reference[1].values[i])) + tiny);
    }
    return {by_gate, by_up};
  }

  std::optional<bumblebee::Operation> needs() const override {
    if (activation_ == Activation::identity) return bumblebee::Operation::short_conv;
    if (activation_ == Activation::silu) return std::nullopt;
    if (clamps()) return bumblebee::Operation::clamped_glu;
    return activation_ == Activation::gelu ? bumblebee::Operation::gelu : bumblebee::Operation::delta_rule;
  }

 private:
  bool clamps() const { return activation_ == Activation::clamped_silu; }

  Activation activation_;
  HostMatrix gate_, up_, dy_;
};

/// The elementwise helpers, and those by column, on two matrices.
class TapeCase final : public OpCase {
 public:
  TapeCase(const std::string& op, const std::string& variant, int rows, int cols, float factor)
      : OpCase(op, variant), factor_(factor) {
    Random random(seed_of(name()));
    x_ = random_rows(random, rows, cols);
    y_ = random_rows(random, rows, cols);
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = x_.rows});
    GradOps& grad = *backend.stream().grad_ops();
    const Tensor x = backend.upload(x_.values, x_.rows, x_.cols);
    Tensor y = backend.upload(y_.values, y_.rows, y_.cols);
    const Tensor seen = y;  // y is written in place all the same
    if (op() == "axpy") {
      grad.axpy(factor_, x, y);
    } else if (op() == "dropout") {
      y = grad.dropout(x, factor_, {.seed = 5, .step = 9, .site = 2});
    } else if (op() == "multiply_columns") {
      grad.multiply_columns(y, x.slice_rows(0, 1));
    } else {
      y = grad.column_dots(x, y);
    }
    return {read_output(backend, "y", y), read_output(backend, "the other handle on y", seen),
            read_output(backend, "x", x)};
  }

  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>& reference) const override {
    const size_t cols = size_t(x_.cols);
    std::vector<double> bound(reference[0].values.size());
    for (size_t i = 0; i < x_.values.size(); ++i) {
      const double x = std::abs(double(x_.values[i])), y = std::abs(double(y_.values[i]));
      if (op() == "axpy") bound[i] = 3 * kRoundF32 * (std::abs(double(factor_)) * x + y);
      if (op() == "column_dots") bound[i % cols] += sum_error(x_.rows, 2) * x * y;
      if (op() == "dropout" || op() == "multiply_columns")
        bound[i] = 2 * kRoundF32 * std::abs(double(reference[0].values[i]));
    }
    const bool in_place = op() == "axpy" || op() == "multiply_columns";
    const std::vector<double> same(x_.values.size(), 0);
    return {bound, in_place ? bound : same, same};
  }

 private:
  float factor_;
  HostMatrix x_, y_;
};

void add_tape(Cases& cases, const std::string& op, float factor) {
  for (const int cols : kGradWidths)
    cases.push_back(std::make_unique<TapeCase>(op, "cols" + std::to_string(cols), cols % 4 + 1, cols, factor));
  cases.push_back(std::make_unique<TapeCase>(op, "many_rows", 41, 1024, factor));
}

}  // namespace

void add_rms_norm_dx(Cases& cases) {
  const auto add = [&](const std::string& variant, int rows, int cols, int width, double deviation) {
    cases.push_back(std::make_unique<RmsNormDxCase>(variant, rows, cols, width, deviation));
  };
  for (const int cols : kGradWidths) add("cols" + std::to_string(cols), cols % 5 + 1, cols, cols, 1);
  add("per_head", 3, 80, 20, 1);
  add("small_as_eps", 4, 64, 64, 1e-3);
  add("large", 4, 64, 64, 1e6);
  add("many_rows", 41, 1024, 1024, 1);
}

void add_norm_rope_dx(Cases& cases) {
  const auto add = [&](const std::string& variant, const TurnSpec& spec) {
    cases.push_back(std::make_unique<NormRopeDxCase>(variant, spec));
  };
  for (const bool norms : {false, true}) {
    const std::string suffix = norms ? "_norms" : "";
    for (const int dim : {2, 6, 16, 18, 34, 64, 80, 128}) {
      add("dim" + std::to_string(dim) + suffix,
          {.heads = 3, .kv_heads = 1, .head_dim = dim, .norms = norms, .positions = {0, 1, 7, 100}});
    }
    add("shared" + suffix,
        {.heads = 4, .kv_heads = 2, .head_dim = 16, .norms = norms, .shared = true, .positions = {3, 4, 5}});
    add("attention_factor" + suffix, {.heads = 2,
                                      .kv_heads = 2,
                                      .head_dim = 32,
                                      .norms = norms,
                                      .attention_factor = 1.1386294f,
                                      .positions = {9, 10}});
    add("part_of_head" + suffix,
        {.heads = 2, .kv_heads = 1, .head_dim = 32, .dims = 16, .norms = norms, .positions = {9, 10, 11}});
    add("interleaved" + suffix, {.heads = 3,
                                 .kv_heads = 1,
                                 .head_dim = 34,
                                 .dims = 18,
                                 .norms = norms,
                                 .interleaved = true,
                                 .positions = {0, 7, 100}});
    add("growing" + suffix, {.heads = 3,
                             .kv_heads = 1,
                             .head_dim = 34,
                             .norms = norms,
                             .growth = 0.3f,
                             .positions = {0, 7, 8, 15, 16, 4000}});
    add("stretched" + suffix, {.heads = 3,
                               .kv_heads = 2,
                               .head_dim = 32,
                               .norms = norms,
                               .stretched_from = 2,
                               .positions = {9, 10, 9, 10, 11}});
    std::vector<int32_t> many(33);
    for (int i = 0; i < 33; ++i) many[size_t(i)] = i * 3;
    add("many_rows" + suffix, {.heads = 16, .kv_heads = 4, .head_dim = 128, .norms = norms, .positions = many});
  }
}

void add_glu_dx(Cases& cases) {
  const std::vector<float> extreme = {0.0f,  -0.0f,  1e-30f,   -1e-30f, 20.0f, -20.0f, 87.0f, -87.0f,
                                      88.9f, -88.9f, -1.2785f, 1.2785f, 1e4f,  -1e4f,  3e38f, -3e38f};
  for (const auto& [suffix, activation] : {std::pair("", Activation::silu),
                                           {"_gelu", Activation::gelu},
                                           {"_sigmoid", Activation::sigmoid},
                                           {"_clamped", Activation::clamped_silu},
                                           {"_identity", Activation::identity}}) {
    const auto add = [&, activation = activation, suffix = std::string(suffix)](
                         const std::string& variant, int rows, int cols, const std::vector<float>& gates) {
      cases.push_back(std::make_unique<GluDxCase>(variant + suffix, rows, cols, gates, activation));
    };
    for (const int cols : kGradWidths) add("cols" + std::to_string(cols), cols % 3 + 1, cols, {});
    add("extreme_gates", 2, 16, extreme);
    add("limits", 1, 16, {7, 7.0000005f, 6.9999995f, 8, 3, -7, -8, 7, 7.0000005f, 6.9999995f, 0, 1, 40, 2, 5, -3});
    add("steep_gates", 1, 16, {-1, -2, -3, -4, -5, -6, -8, -10, 1, 2, 3, 4, 5, 6, 8, 10});
    add("many_rows", 41, 1024, {});
  }
}

void add_axpy(Cases& cases) { add_tape(cases, "axpy", -0.37f); }
void add_dropout(Cases& cases) { add_tape(cases, "dropout", 0.3f); }
void add_multiply_columns(Cases& cases) { add_tape(cases, "multiply_columns", 1); }
void add_column_dots(Cases& cases) { add_tape(cases, "column_dots", 1); }

}  // namespace bumblebee::op_cases
