// Operations that work row by row: norms, additions, the gated unit, picking rows. Shapes around every vector width.
#include <cmath>

#include "quant/affine.h"
#include "tests/ops/cases/common.h"

namespace bumblebee::op_cases {
namespace {

constexpr int kWidths[] = {1, 2, 7, 8, 15, 16, 17, 33, 64, 100, 257, 2048};

/// Relative error of x·w/sqrt(mean(x²) + eps) in f32: half of that of the sum of squares, and a rounding each for the
/// mean, eps, root, inverse and two products, plus the one when the reference is read.
double norm_error(int cols) { return sum_error(cols) / 2 + 8 * kRoundF32; }

std::vector<double> relative(const Output& reference, double error) {
  std::vector<double> bound;
  for (const float v : reference.values) bound.push_back(error * std::abs(double(v)) + 0x1p-126);
  return bound;
}

class RmsNormCase final : public OpCase {
 public:
  /// `runs` of a row, each normed alone.
  RmsNormCase(const std::string& variant, int rows, int cols, double deviation, int runs = 1)
      : OpCase("rms_norm", variant), width_(cols / runs) {
    Random random(seed_of(name()));
    x_ = random_rows(random, rows, cols);
    for (float& v : x_.values) v = float(double(v) * deviation);
    w_ = random.normals(size_t(width_), 1);
  }

  std::optional<bumblebee::Operation> needs() const override {
    return width_ < x_.cols ? std::optional(bumblebee::Operation::norm_runs) : std::nullopt;
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = x_.rows});
    const NormParams norm{backend.upload(w_, 1, width_), 1e-6f};
    const Tensor x = backend.upload(x_.values, x_.rows, x_.cols);
    Tensor y;
    eagerly(backend, [&] { y = backend.stream().ops().rms_norm(x, norm); });
    return {read_output(backend, "y", y), read_output(backend, "x", x)};
  }

  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>& reference) const override {
    return {relative(reference[0], norm_error(width_)), std::vector<double>(x_.values.size(), 0)};
  }

  Cost cost() const override { return {8.0 * double(x_.values.size()), 4.0 * double(x_.values.size())}; }

 private:
  int width_;
  HostMatrix x_;
  std::vector<float> w_;
};

/// x += delta, then its norm; or the addition alone. A second handle on x must keep the old value, a lone one may be
/// written in place.
class AddCase final : public OpCase {
 public:
  AddCase(const std::string& op, const std::string& variant, int rows, int cols, bool shared)
      : OpCase(op, variant), shared_(shared) {
    Random random(seed_of(name()));
    x_ = random_rows(random, rows, cols);
    delta_ = random_rows(random, rows, cols);
    w_ = random.normals(size_t(cols), 1);
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = x_.rows});
    const NormParams norm{backend.upload(w_, 1, x_.cols), 1e-5f};
    Tensor x = backend.upload(x_.values, x_.rows, x_.cols), y;
    const Tensor delta = backend.upload(delta_.values, x_.rows, x_.cols);
    const Tensor held = shared_ ? x : Tensor();
    eagerly(backend, [&] {
      if (op() == "add") {
        backend.stream().ops().add(x, delta);
      } else {
        y = backend.stream().ops().add_rms_norm(x, delta, norm);
      }
    });
    std::vector<Output> outputs = {read_output(backend, "x", x), read_output(backend, "delta", delta)};
    if (y) outputs.push_back(read_output(backend, "y", y));
    if (held) outputs.push_back(read_output(backend, "the other handle on x", held));
    return outputs;
  }

  /// The sum is rounded once; that moves the norm by as much again.
  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>& reference) const override {
    std::vector<std::vector<double>> bounds = {relative(reference[0], 2 * kRoundF32),
                                               std::vector<double>(x_.values.size(), 0)};
    if (op() != "add") bounds.push_back(relative(reference[2], norm_error(x_.cols) + 2 * kRoundF32));
    if (shared_) bounds.emplace_back(x_.values.size(), 0);
    return bounds;
  }

  Cost cost() const override {
    return {(op() == "add" ? 12.0 : 16.0) * double(x_.values.size()), 5.0 * double(x_.values.size())};
  }

 private:
  bool shared_;
  HostMatrix x_, delta_;
  std::vector<float> w_;
};

class GluCase final : public OpCase {
 public:
  GluCase(const std::string& variant, int rows, int cols, const std::vector<float>& gates, Activation activation)
      : OpCase("glu", variant), activation_(activation) {
    Random random(seed_of(name()));
    gate_ = random_rows(random, rows, cols);
    for (size_t i = 0; i < gates.size(); ++i) gate_.values[i] = gates[i];
    up_ = random_rows(random, rows, cols);
    for (float& v : up_.values) v += 0.5f;
    if (activation == Activation::clamped_silu) {  // beyond both limits, and at -1, where the factor is zero
      for (float& v : gate_.values) v *= 3;
      for (size_t i = 0; i < up_.values.size(); ++i) up_.values[i] = i % 11 == 5 ? -1.0f : up_.values[i] * 4;
    }
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = gate_.rows});
    const Tensor gate = backend.upload(gate_.values, gate_.rows, gate_.cols),
                 up = backend.upload(up_.values, gate_.rows, gate_.cols);
    Tensor y;
    eagerly(backend, [&] { y = backend.stream().ops().glu(activation_, gate, up); });
    return {read_output(backend, "y", y)};
  }

  std::optional<bumblebee::Operation> needs() const override {
    if (activation_ == Activation::silu) return std::nullopt;
    if (activation_ == Activation::clamped_silu) return bumblebee::Operation::clamped_glu;
    if (activation_ == Activation::identity) return bumblebee::Operation::short_conv;
    return activation_ == Activation::gelu ? bumblebee::Operation::gelu : bumblebee::Operation::delta_rule;
  }

  /// g/(1 + exp(-g))·u, or 1 in place of the first g: the exponential is good to 4 roundings, then a sum, a quotient
  /// and a product. Where exp(-g) leaves the range of f32 the true value is below |g|·2^-126·|u|, and a result of zero
  /// is as good. In gelu, v takes g's place in the exponent with five roundings of its own: that moves the sigmoid by 1
  /// - sigmoid(v) times as much.
  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>& reference) const override {
    if (activation_ == Activation::clamped_silu) return {clamped_bound()};
    if (activation_ == Activation::identity) {
      std::vector<double> bound = relative(reference[0], kRoundF32);
      for (double& b : bound) b += 0x1p-126;
      return {bound};
    }
    std::vector<double> bound = relative(reference[0], 9 * kRoundF32);
    for (size_t i = 0; i < bound.size(); ++i) {
      const double g = double(gate_.values[i]), v = 1.5957691216057308 * (g + 0.044715 * g * g * g);
      if (activation_ == Activation::gelu && std::isfinite(v))
        bound[i] += 5 * kRoundF32 * std::abs(v) / (1 + std::exp(v)) * std::abs(double(reference[0].values[i]));
      bound[i] += 0x1p-126 * (1 + std::abs(g)) * (1 + std::abs(double(up_.values[i])));
    }
    return {bound};
  }

  Cost cost() const override { return {12.0 * double(gate_.values.size()), 6.0 * double(gate_.values.size())}; }

 private:
  /// The slope's product moves the exponent by a rounding of its size, and up + 1 has one of the sum's.
  std::vector<double> clamped_bound() const {
    std::vector<double> bound;
    for (size_t i = 0; i < gate_.values.size(); ++i) {
      const double g = std::min(double(gate_.values[i]), double(kClampLimit));
      const double u = std::clamp(double(up_.values[i]), -double(kClampLimit), double(kClampLimit)) + 1;
      const double silu = std::abs(g) / (1 + std::exp(-double(kClampSlope) * g));
      bound.push_back((10 + double(kClampSlope) * std::abs(g)) * kRoundF32 * silu * std::abs(u) +
                      kRoundF32 * silu * std::abs(u) + 0x1p-126 * (1 + std::abs(g)) * (1 + std::abs(u)));
    }
    return bound;
  }

  Activation activation_;
  HostMatrix gate_, up_;
};

/// x ·= factor, or cap·tanh(x/cap).
class ScalarCase final : public OpCase {
 public:
  ScalarCase(const std::string& op, const std::string& variant, int rows, int cols, float scalar, bool shared,
             const std::vector<float>& values = {})
      : OpCase(op, variant), scalar_(scalar), shared_(shared) {
    Random random(seed_of(name()));
    x_ = {rows, cols, random.normals(size_t(rows) * size_t(cols), op == "soft_cap" ? 30 : 1)};
    std::copy(values.begin(), values.end(), x_.values.begin());
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = x_.rows});
    Tensor x = backend.upload(x_.values, x_.rows, x_.cols);
    const Tensor held = shared_ ? x : Tensor();
    eagerly(backend, [&] {
      Ops& ops = backend.stream().ops();
      op() == "multiply" ? ops.multiply(x, scalar_) : ops.soft_cap(x, scalar_);
    });
    std::vector<Output> outputs = {read_output(backend, "x", x)};
    for (float& v : outputs[0].values)
      if (std::isnan(v)) v = 12345;  // what a NaN must stay
    if (held) outputs.push_back(read_output(backend, "the other handle on x", held));
    return outputs;
  }

  std::optional<bumblebee::Operation> needs() const override {
    return op() == "multiply" ? bumblebee::Operation::multiply : bumblebee::Operation::soft_cap;
  }

  /// A product; or an argument with two roundings, which move the result by no more, tanh within five, and a product.
  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>& reference) const override {
    std::vector<std::vector<double>> bounds = {relative(reference[0], (op() == "multiply" ? 2 : 9) * kRoundF32)};
    if (shared_) bounds.emplace_back(x_.values.size(), 0);
    return bounds;
  }

 private:
  float scalar_;
  bool shared_;
  HostMatrix x_;
};

class ColumnsCase final : public OpCase {
 public:
  ColumnsCase(const std::string& variant, int rows, int cols, int first, int count)
      : OpCase("columns", variant), first_(first), count_(count) {
    Random random(seed_of(name()));
    x_ = random_rows(random, rows, cols);
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = x_.rows});
    const Tensor x = backend.upload(x_.values, x_.rows, x_.cols);
    Tensor y;
    eagerly(backend, [&] { y = backend.stream().ops().columns(x, first_, count_); });
    return {read_output(backend, "y", y)};
  }

  std::optional<bumblebee::Operation> needs() const override { return bumblebee::Operation::multiply; }

  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>& reference) const override {
    return {std::vector<double>(reference[0].values.size(), 0)};
  }

 private:
  HostMatrix x_;
  int first_, count_;
};

class GatherRowsCase final : public OpCase {
 public:
  GatherRowsCase(const std::string& variant, int rows, int cols, const std::vector<int32_t>& logit_rows)
      : OpCase("gather_rows", variant), logit_rows_(logit_rows) {
    Random random(seed_of(name()));
    x_ = {rows, cols, random.normals(size_t(rows) * size_t(cols), 1)};
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = x_.rows, .logit_rows = logit_rows_});
    const Tensor x = backend.upload(x_.values, x_.rows, x_.cols);
    Tensor y;
    eagerly(backend, [&] { y = backend.stream().ops().gather_rows(x); });
    return {read_output(backend, "y", y)};
  }

  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>& reference) const override {
    return {std::vector<double>(reference[0].values.size(), 0)};
  }

 private:
  HostMatrix x_;
  std::vector<int32_t> logit_rows_;
};

/// What the batch says of rows is of those that are left: positions, by a rotation, and which of them are wanted.
class KeepLogitRowsCase final : public OpCase {
 public:
  struct Piece {
    int past = 0, rows = 1;
    Batch::Want want = Batch::Want::last;
  };
  KeepLogitRowsCase(const std::string& variant, const std::vector<Piece>& pieces, int padding)
      : OpCase("keep_logit_rows", variant) {
    for (const Piece& p : pieces)
      batch_.append(std::vector<int32_t>(size_t(p.rows), 0), p.past, std::vector<int32_t>(size_t(p.past + p.rows), 0),
                    p.want);
    batch_.pad(batch_.rows() + padding, int(batch_.logit_rows.size()) + padding);
    Random random(seed_of(name()));
    x_ = {batch_.rows(), 2 * kHalf, random.normals(size_t(batch_.rows()) * 2 * kHalf, 1)};
  }

  std::vector<Output> run(Backend& backend) const override {
    backend.stream().bind(batch_, nullptr);
    const Tensor x = backend.upload(x_.values, x_.rows, x_.cols);
    RopeParams rope{.dims = 2 * kHalf, .inv_freq = {}, .attention_factor = 1};
    for (int i = 0; i < kHalf; ++i) rope.inv_freq.push_back(1.0f / float(1 + i));
    Tensor rotated, none, kept, again;
    eagerly(backend, [&] {
      Ops& ops = backend.stream().ops();
      rotated = ops.copy(x);
      ops.norm_rope(rotated, none, 2 * kHalf, nullptr, nullptr, rope);
      kept = ops.gather_rows(x);
      ops.keep_logit_rows();
      ops.norm_rope(kept, none, 2 * kHalf, nullptr, nullptr, rope);
      again = ops.gather_rows(kept);
    });
    return {read_output(backend, "rotated", rotated), read_output(backend, "kept", kept),
            read_output(backend, "again", again)};
  }

  /// As norm_rope without norms: 6u of both elements of a pair.
  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>& reference) const override {
    std::vector<std::vector<double>> bounds;
    for (const Output& output : reference) {
      std::vector<double>& bound = bounds.emplace_back(output.values.size(), 0.0);
      for (size_t i = 0; i < bound.size(); ++i) {
        const size_t pair = i % (2 * kHalf) < kHalf ? i + kHalf : i - kHalf;
        // A rotation keeps a pair's length, so that its result bounds what it was made of.
        bound[i] = 6 * kRoundF32 * 1.5 * (std::abs(double(output.values[i])) + std::abs(double(output.values[pair])));
      }
    }
    return bounds;
  }

  std::optional<bumblebee::Operation> needs() const override { return bumblebee::Operation::mixed_cache; }

 private:
  static constexpr int kHalf = 8;
  Batch batch_;
  HostMatrix x_;
};

class CopyCase final : public OpCase {
 public:
  CopyCase(const std::string& variant, int rows, int cols, int first) : OpCase("copy", variant), first_(first) {
    Random random(seed_of(name()));
    x_ = random_rows(random, rows, cols);
  }

  std::vector<Output> run(Backend& backend) const override {
    const int rows = x_.rows - first_;
    bind_plain(backend, {.rows = rows});
    const Tensor x = backend.upload(x_.values, x_.rows, x_.cols);
    Tensor y;
    eagerly(backend, [&] { y = backend.stream().ops().copy(x.slice_rows(first_, rows)); });
    std::vector<Output> outputs = {read_output(backend, "y", y)};
    y = Tensor();  // what takes its memory next does not take that of x
    Tensor other = backend.upload(std::vector<float>(x_.values.size(), 1.0f), x_.rows, x_.cols);
    backend.stream().ops().add(other, other.slice_rows(0, x_.rows));
    outputs.push_back(read_output(backend, "x", x));
    return outputs;
  }

  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>& reference) const override {
    return {std::vector<double>(reference[0].values.size(), 0), std::vector<double>(x_.values.size(), 0)};
  }

 private:
  HostMatrix x_;
  int first_;
};

}  // namespace

void add_rms_norm(Cases& cases) {
  for (const int cols : kWidths)
    cases.push_back(std::make_unique<RmsNormCase>("cols" + std::to_string(cols), cols % 5 + 1, cols, 1));
  cases.push_back(std::make_unique<RmsNormCase>("rows33", 33, 64, 1));
  cases.push_back(std::make_unique<RmsNormCase>("small_as_eps", 4, 64, 1e-3));
  cases.push_back(std::make_unique<RmsNormCase>("large", 4, 64, 1e6));
  for (const int width : {1, 7, 16, 33, 256})
    cases.push_back(std::make_unique<RmsNormCase>("runs" + std::to_string(width), 3, 5 * width, 1, 5));
  cases.push_back(std::make_unique<RmsNormCase>("many_rows", 40, 1024, 1));  // enough work for several threads
}

void add_add_rms_norm(Cases& cases) {
  for (const int cols : kWidths) {
    for (const bool shared : {false, true}) {
      const std::string variant = "cols" + std::to_string(cols) + (shared ? "_shared" : "");
      cases.push_back(std::make_unique<AddCase>("add_rms_norm", variant, cols % 4 + 1, cols, shared));
    }
  }
  cases.push_back(std::make_unique<AddCase>("add_rms_norm", "many_rows_shared", 40, 1024, true));
}

void add_add(Cases& cases) {
  for (const int cols : kWidths) {
    for (const bool shared : {false, true}) {
      const std::string variant = "cols" + std::to_string(cols) + (shared ? "_shared" : "");
      cases.push_back(std::make_unique<AddCase>("add", variant, cols % 4 + 1, cols, shared));
    }
  }
  cases.push_back(std::make_unique<AddCase>("add", "many_rows", 40, 1024, false));
}

void add_glu(Cases& cases) {
  const std::vector<float> extreme = {0.0f,  -0.0f,  1e-30f, -1e-30f, 20.0f, -20.0f, 87.0f, -87.0f,
                                      88.9f, -88.9f, 104.0f, -104.0f, 1e4f,  -1e4f,  3e38f, -3e38f};
  for (const auto& [suffix, activation] : {std::pair("", Activation::silu),
                                           {"_gelu", Activation::gelu},
                                           {"_sigmoid", Activation::sigmoid},
                                           {"_identity", Activation::identity}}) {
    const auto add = [&, activation = activation, suffix = std::string(suffix)](
                         const std::string& variant, int rows, int cols, const std::vector<float>& gates) {
      cases.push_back(std::make_unique<GluCase>(variant + suffix, rows, cols, gates, activation));
    };
    for (const int cols : kWidths) add("cols" + std::to_string(cols), cols % 3 + 1, cols, {});
    add("extreme_gates", 2, 16, extreme);
    add("steep_gates", 1, 16, {-1, -2, -3, -4, -5, -6, -8, -10, 1, 2, 3, 4, 5, 6, 8, 10});
    add("many_rows", 40, 1024, {});
  }
  const auto clamped = [&](const std::string& variant, int rows, int cols, const std::vector<float>& gates) {
    cases.push_back(std::make_unique<GluCase>("clamped_" + variant, rows, cols, gates, Activation::clamped_silu));
  };
  for (const int cols : {1, 16, 17, 40}) clamped("cols" + std::to_string(cols), 3, cols, {});
  clamped("extremes", 2, 9, {7, 7.5f, -200, 1e30f, -1e30f, 0, -0.0f, 88, 6.999f});
  clamped("many_rows", 70, 512, {});
}

void add_multiply(Cases& cases) {
  for (const int cols : kWidths) {
    cases.push_back(std::make_unique<ScalarCase>("multiply", "cols" + std::to_string(cols), cols % 4 + 1, cols,
                                                 50.59644f, cols % 2 == 0));
  }
  cases.push_back(std::make_unique<ScalarCase>("multiply", "many_rows", 40, 1024, 0.70710678f, false));
}

void add_soft_cap(Cases& cases) {
  for (const int cols : kWidths) {
    cases.push_back(std::make_unique<ScalarCase>("soft_cap", "cols" + std::to_string(cols), cols % 4 + 1, cols, 30.0f,
                                                 cols % 2 == 0));
  }
  cases.push_back(
      std::make_unique<ScalarCase>("soft_cap", "extreme", 1, 16, 50.0f, false,
                                   std::vector<float>{0.0f, 1e-30f, -1e-30f, 1e-3f, -1e-3f, 350, -350, 390, -390, 410,
                                                      -410, 3e38f, -3e38f, INFINITY, -INFINITY, NAN}));
  cases.push_back(std::make_unique<ScalarCase>("soft_cap", "many_rows", 40, 1024, 30.0f, false));
}

void add_columns(Cases& cases) {
  cases.push_back(std::make_unique<ColumnsCase>("one", 1, 1, 0, 1));
  cases.push_back(std::make_unique<ColumnsCase>("first", 3, 33, 0, 17));
  cases.push_back(std::make_unique<ColumnsCase>("last", 3, 33, 32, 1));
  cases.push_back(std::make_unique<ColumnsCase>("all", 2, 64, 0, 64));
  cases.push_back(std::make_unique<ColumnsCase>("many_rows", 40, 2048, 512, 1024));
}

void add_gather_rows(Cases& cases) {
  cases.push_back(std::make_unique<GatherRowsCase>("none", 3, 8, std::vector<int32_t>()));
  cases.push_back(std::make_unique<GatherRowsCase>("one_of_one", 1, 1, std::vector<int32_t>{0}));
  cases.push_back(std::make_unique<GatherRowsCase>("last", 9, 33, std::vector<int32_t>{8}));
  cases.push_back(std::make_unique<GatherRowsCase>("some", 9, 33, std::vector<int32_t>{0, 3, 4, 7}));
  cases.push_back(std::make_unique<GatherRowsCase>("all", 4, 17, std::vector<int32_t>{0, 1, 2, 3}));
}

void add_keep_logit_rows(Cases& cases) {
  using enum Batch::Want;
  const auto add = [&](const std::string& variant, const std::vector<KeepLogitRowsCase::Piece>& pieces, int padding) {
    cases.push_back(std::make_unique<KeepLogitRowsCase>(variant, pieces, padding));
  };
  add("one", {{0, 1, last}}, 0);
  add("last", {{7, 9, last}}, 0);
  add("all", {{3, 4, all}}, 0);
  add("mixed", {{5, 1, last}, {0, 7, none}, {2, 3, all}, {0, 40, last}, {9, 2, none}}, 0);
  add("padded", {{5, 3, last}, {0, 2, all}, {1, 6, last}}, 3);
}

void add_copy(Cases& cases) {
  for (const int cols : kWidths)
    cases.push_back(std::make_unique<CopyCase>("cols" + std::to_string(cols), cols % 4 + 1, cols, 0));
  cases.push_back(std::make_unique<CopyCase>("some_rows", 5, 33, 2));
  cases.push_back(std::make_unique<CopyCase>("many_rows", 40, 1024, 0));
}

}  // namespace bumblebee::op_cases
