// What recurrent layers are made of: columns dealt out, the causal convolution and the gated delta rule, over segments
// with and without a past, in one state and from one into another. The past is computed by an earlier call.
#include <algorithm>
#include <cmath>

#include "tests/ops/cases/common.h"

namespace bumblebee::op_cases {
namespace {

struct Span {
  int past = 0, rows = 1;
};

int total_rows(const std::vector<Span>& pieces, bool past) {
  int rows = 0;
  for (const Span& p : pieces) rows += past ? p.past : p.rows;
  return rows;
}

/// The rows of every sequence that are the past, or the step's, packed.
std::vector<float> packed_rows(const HostMatrix& all, const std::vector<Span>& pieces, bool past) {
  std::vector<float> values;
  int first = 0;
  for (const Span& p : pieces) {
    const int begin = first + (past ? 0 : p.past), end = first + (past ? p.past : p.past + p.rows);
    values.insert(values.end(), all.row(begin), all.row(end));
    first += p.past + p.rows;
  }
  return values;
}

/// Sequence i keeps its state in slot i; of the odd ones, the second step leaves it in another.
void bind_states(Backend& backend, KvStore& kv, const std::vector<Span>& pieces, bool past) {
  Batch batch;
  const int count = int(pieces.size());
  for (int i = 0; i < count; ++i) {
    const Span& p = pieces[size_t(i)];
    const int rows = past ? p.past : p.rows, before = past ? 0 : p.past;
    if (rows == 0) continue;
    const StateSlots slots{before > 0 ? i : -1, !past && i % 2 == 1 ? count + i : i};
    const std::vector<int32_t> pages(size_t((before + rows + 15) / 16), 0);
    batch.append(std::vector<int32_t>(size_t(rows), 0), before, pages, Batch::Want::none, -1, slots);
  }
  backend.stream().bind(batch, &kv);
}

std::unique_ptr<KvStore> make_states(Backend& backend, const StateShape& state, const std::vector<Span>& pieces) {
  // Layers 0 and 2 are recurrent.
  return backend.make_kv({.groups = {{.layers = 1, .kv_heads = 1, .head_dim = 16},
                                     {.kind = KvGroup::Kind::state, .layers = 2, .state = state}},
                          .places = {{1, 0}, {0, 0}, {1, 1}},
                          .page_size = 16,
                          .pages = 1,
                          .states = 2 * int(pieces.size()),
                          .dtype = DType::f32});
}

/// Runs `step(past)` for what came before, where there is some, then for the rows themselves.
template <class Step>
Tensor both_steps(const std::vector<Span>& pieces, const Step& step) {
  if (total_rows(pieces, true) > 0) step(true);
  return step(false);
}

class SplitCase final : public OpCase {
 public:
  SplitCase(const std::string& variant, int rows, SplitParams split)
      : OpCase("split", variant), split_(std::move(split)) {
    Random random(seed_of(name()));
    x_ = random_rows(random, rows, split_.groups * split_.group_cols());
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = x_.rows});
    const Tensor x = backend.upload(x_.values, x_.rows, x_.cols);
    size_t outputs = 0;
    for (const SplitParams::Piece& piece : split_.pieces) outputs = std::max(outputs, size_t(piece.to) + 1);
    std::vector<Tensor> y(outputs);
    eagerly(backend, [&] { backend.stream().ops().split(x, split_, y); });
    std::vector<Output> read;
    for (const Tensor& t : y) read.push_back(read_output(backend, "y", t));
    return read;
  }

  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>& reference) const override {
    std::vector<std::vector<double>> bounds;
    for (const Output& output : reference) bounds.emplace_back(output.values.size(), 0);
    return bounds;
  }

  Cost cost() const override { return {8.0 * double(x_.values.size()), 0}; }

 private:
  SplitParams split_;
  HostMatrix x_;
};

class ConvCase final : public OpCase {
 public:
  ConvCase(const std::string& variant, int kernel, int cols, std::vector<Span> pieces, bool silu)
      : OpCase("causal_conv", variant), kernel_(kernel), pieces_(std::move(pieces)), silu_(silu) {
    Random random(seed_of(name()));
    x_ = random_rows(random, total_rows(pieces_, true) + total_rows(pieces_, false), cols);
    w_ = random.normals(size_t(kernel) * size_t(cols), 0.5);
  }

  std::vector<Output> run(Backend& backend) const override {
    const auto kv = make_states(backend, {.conv_rows = kernel_ - 1, .conv_cols = x_.cols}, pieces_);
    const ConvParams conv{backend.upload(w_, kernel_, x_.cols), silu_};
    const Tensor y = both_steps(pieces_, [&](bool past) {
      bind_states(backend, *kv, pieces_, past);
      const Tensor x = backend.upload(packed_rows(x_, pieces_, past), total_rows(pieces_, past), x_.cols);
      Tensor out;
      eagerly(backend, [&] { out = backend.stream().ops().causal_conv(*kv, 2, x, conv); });
      return out;
    });
    return {read_output(backend, "y", y)};
  }

  std::optional<bumblebee::Operation> needs() const override {
    return silu_ ? bumblebee::Operation::delta_rule : bumblebee::Operation::short_conv;
  }

  /// A sum of `kernel` products; silu moves by at most 1.1 times what its argument does, and is itself good to nine
  /// roundings (see glu).
  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>& reference) const override {
    std::vector<double> bound;
    int first = 0;
    for (const Span& p : pieces_) {
      for (int i = p.past; i < p.past + p.rows; ++i) {
        for (int c = 0; c < x_.cols; ++c) {
          double size = 0;
          for (int j = 0; j < kernel_; ++j) {
            const int at = i - (kernel_ - 1) + j;
            if (at >= 0) size += std::abs(double(w_[size_t(j * x_.cols + c)]) * double(x_.row(first + at)[c]));
          }
          bound.push_back((silu_ ? 1.1 : 1) * sum_error(kernel_, 1) * size +
                          (silu_ ? 9 : 0) * kRoundF32 * std::abs(double(reference[0].values[bound.size()])) +
                          0x1p-126 * (1 + size));
        }
      }
      first += p.past + p.rows;
    }
    return {bound};
  }

  Cost cost() const override {
    const double values = double(total_rows(pieces_, false)) * x_.cols;
    return {8 * values, 2 * values * kernel_};
  }

 private:
  int kernel_;
  std::vector<Span> pieces_;
  bool silu_;
  HostMatrix x_;
  std::vector<float> w_;
};

struct DeltaSpec {
  int key_heads = 1, value_heads = 2, key_dim = 16, value_dim = 16;
  std::vector<Span> pieces = {{0, 1}};
  double memory = 0;  // of the states: what is added to `a`; large forgets all, small nothing
};

class DeltaCase final : public OpCase {
 public:
  DeltaCase(const std::string& variant, DeltaSpec spec) : OpCase("delta_rule", variant), s_(std::move(spec)) {
    Random random(seed_of(name()));
    const int rows = total_rows(s_.pieces, true) + total_rows(s_.pieces, false);
    qkv_ = random_rows(random, rows, 2 * s_.key_heads * s_.key_dim + s_.value_heads * s_.value_dim);
    a_ = {rows, s_.value_heads, random.normals(size_t(rows) * size_t(s_.value_heads), 1)};
    for (float& v : a_.values) v += float(s_.memory);
    b_ = {rows, s_.value_heads, random.normals(size_t(rows) * size_t(s_.value_heads), 2)};
    a_log_ = random.normals(size_t(s_.value_heads), 1);
    dt_bias_ = random.normals(size_t(s_.value_heads), 1);
  }

  std::vector<Output> run(Backend& backend) const override {
    const auto kv =
        make_states(backend, {.heads = s_.value_heads, .key_dim = s_.key_dim, .value_dim = s_.value_dim}, s_.pieces);
    const DeltaParams delta{.key_heads = s_.key_heads,
                            .value_heads = s_.value_heads,
                            .key_dim = s_.key_dim,
                            .value_dim = s_.value_dim,
                            .a_log = backend.upload(a_log_, 1, s_.value_heads),
                            .dt_bias = backend.upload(dt_bias_, 1, s_.value_heads)};
    const Tensor y = both_steps(s_.pieces, [&](bool past) {
      bind_states(backend, *kv, s_.pieces, past);
      const int rows = total_rows(s_.pieces, past);
      const Tensor qkv = backend.upload(packed_rows(qkv_, s_.pieces, past), rows, qkv_.cols),
                   a = backend.upload(packed_rows(a_, s_.pieces, past), rows, a_.cols),
                   b = backend.upload(packed_rows(b_, s_.pieces, past), rows, b_.cols);
      Tensor out;
      eagerly(backend, [&] { out = backend.stream().ops().delta_rule(*kv, 2, qkv, a, b, delta); });
      return out;
    });
    return {read_output(backend, "y", y)};
  }

  /// Each column of a state is followed with a bound on the length of its error. A row multiplies that by decay, since
  /// I - beta·k·kᵀ lengthens nothing, and adds what the row itself rounds: sums over key_dim, keys that are of length
  /// one but for rounding, decay and beta, which are rounded once from double.
  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>& reference) const override {
    std::vector<double> bound(reference[0].values.size(), 0);
    int first = 0, out_row = 0;
    for (const Span& p : s_.pieces) {
      for (int h = 0; h < s_.value_heads; ++h) head_bounds(first, p, h, out_row, bound);
      first += p.past + p.rows;
      out_row += p.rows;
    }
    return {bound};
  }

  Cost cost() const override {
    const double state = double(s_.value_heads) * s_.key_dim * s_.value_dim;
    return {8 * state * double(s_.pieces.size()), 7 * state * total_rows(s_.pieces, false)};
  }

 private:
  std::vector<double> unit(const float* x) const {
    double squares = 1e-6;
    for (int i = 0; i < s_.key_dim; ++i) squares += double(x[i]) * double(x[i]);
    std::vector<double> y;
    for (int i = 0; i < s_.key_dim; ++i) y.push_back(double(x[i]) / std::sqrt(squares));
    return y;
  }

  void head_bounds(int first, const Span& p, int h, int out_row, std::vector<double>& bound) const {
    constexpr double u = kRoundF32;
    const int dk = s_.key_dim, dv = s_.value_dim, keys = s_.key_heads * dk,
              key_head = h * s_.key_heads / s_.value_heads;
    const double sum = sum_error(dk, 2), turned = sum_error(dk) / 2 + 4 * u, gate = 2 * u;
    const double root = std::sqrt(double(dk));
    std::vector<double> state(size_t(dk) * size_t(dv), 0.0), error(size_t(dv), 0.0);
    for (int i = 0; i < p.past + p.rows; ++i) {
      const float* const row = qkv_.row(first + i);
      const std::vector<double> q = unit(row + key_head * dk), k = unit(row + keys + key_head * dk);
      const double open = double(a_.row(first + i)[h]) + double(dt_bias_[size_t(h)]);
      const double decay = std::exp(-std::exp(double(a_log_[size_t(h)])) *
                                    (std::max(open, 0.0) + std::log1p(std::exp(-std::abs(open)))));
      const double beta = 1 / (1 + std::exp(-double(b_.row(first + i)[h])));
      double meet = 0, meet_size = 0;
      for (int n = 0; n < dk; ++n) {
        meet += q[size_t(n)] * k[size_t(n)] / root;
        meet_size += std::abs(q[size_t(n)] * k[size_t(n)]) / root;
      }
      for (int j = 0; j < dv; ++j) {
        double known = 0, known_size = 0, asked = 0, asked_size = 0, length = 0;
        for (int n = 0; n < dk; ++n) {
          const double s = state[size_t(n * dv + j)];
          known += k[size_t(n)] * s;
          known_size += std::abs(k[size_t(n)] * s);
          asked += q[size_t(n)] * s / root;
          asked_size += std::abs(q[size_t(n)] * s) / root;
          length += s * s;
        }
        length = std::sqrt(length);
        const double v = double(row[2 * keys + h * dv + j]), learnt = beta * (v - decay * known);
        const double learnt_error = beta * (decay * (sum + turned) * known_size + gate * decay * std::abs(known) +
                                            2 * u * (std::abs(v) + decay * std::abs(known))) +
                                    (gate + u) * std::abs(learnt);
        double& e = error[size_t(j)];
        if (i >= p.past) {
          bound[(size_t(out_row + i - p.past) * size_t(s_.value_heads) + size_t(h)) * size_t(dv) + size_t(j)] =
              1.01 *
                  (decay * e / root + decay * (sum + turned) * asked_size + (gate + 2 * u) * decay * std::abs(asked) +
                   std::abs(meet) * learnt_error + (sum + 2 * turned) * meet_size * std::abs(learnt) +
                   3 * u * (std::abs(meet * learnt) + decay * std::abs(asked))) +
              0x1p-120;
        }
        e = decay * e + (gate + 2 * u) * decay * length + learnt_error + (turned + 2 * u) * std::abs(learnt);
        for (int n = 0; n < dk; ++n) {
          double& s = state[size_t(n * dv + j)];
          s = decay * s + k[size_t(n)] * learnt;
        }
      }
    }
  }

  DeltaSpec s_;
  HostMatrix qkv_, a_, b_;
  std::vector<float> a_log_, dt_bias_;
};

const std::vector<Span> kMixedSpans = {{0, 7}, {33, 1}, {1, 16}, {0, 1}, {5, 70}, {2, 2}, {3, 1}};

}  // namespace

void add_split(Cases& cases) {
  const auto add = [&](const std::string& variant, int rows, const SplitParams& split) {
    cases.push_back(std::make_unique<SplitCase>(variant, rows, split));
  };
  add("one", 1, {1, {{3, 0}}});
  add("halves", 3, {4, {{16, 0}, {16, 1}}});
  add("interleaved", 5, {3, {{8, 0}, {8, 0}, {17, 0}, {17, 1}}});
  add("three", 2, {2, {{1, 2}, {5, 0}, {3, 1}}});
  add("many_rows", 40, {16, {{16, 0}, {16, 0}, {32, 0}, {32, 1}}});
}

void add_causal_conv(Cases& cases) {
  for (const bool silu : {true, false}) {
    const auto add = [&](const std::string& variant, int kernel, int cols, const std::vector<Span>& pieces) {
      cases.push_back(std::make_unique<ConvCase>(variant + (silu ? "" : "_plain"), kernel, cols, pieces, silu));
    };
    add("first_row", 4, 1, {{0, 1}});
    for (const int cols : {15, 16, 17, 100}) add("cols" + std::to_string(cols), 4, cols, {{0, 6}, {2, 3}});
    for (const int kernel : {2, 3, 5, 16}) add("kernel" + std::to_string(kernel), kernel, 24, kMixedSpans);
    for (const int past : {1, 2, 3, 4})
      add("past" + std::to_string(past), 4, 32, {{past, 1}, {past, 1}, {past, 2}, {past, 5}});
    add("segments", 4, 48, kMixedSpans);
    add("many_rows", 4, 1024, {{0, 40}, {9, 30}});
  }
}

void add_delta_rule(Cases& cases) {
  const auto add = [&](const std::string& variant, const DeltaSpec& spec) {
    cases.push_back(std::make_unique<DeltaCase>(variant, spec));
  };
  add("first_row", {});
  for (const auto& [keys, values] : {std::pair(1, 1), {2, 2}, {2, 6}, {4, 8}})
    add("heads" + std::to_string(keys) + "_" + std::to_string(values),
        {.key_heads = keys, .value_heads = values, .pieces = {{0, 3}, {4, 1}}});
  for (const int dim : {1, 8, 17, 64, 128})
    add("keys" + std::to_string(dim), {.key_dim = dim, .pieces = {{0, 5}, {7, 2}}});
  for (const int dim : {1, 15, 17, 31, 32, 33, 48, 128})
    add("values" + std::to_string(dim), {.value_dim = dim, .pieces = {{0, 5}, {7, 2}}});
  add("segments", {.key_heads = 2, .value_heads = 4, .key_dim = 32, .value_dim = 32, .pieces = kMixedSpans});
  add("forgets", {.pieces = {{0, 40}, {20, 3}}, .memory = 6});
  add("remembers", {.pieces = {{0, 200}, {300, 3}}, .memory = -8});
  add("many_rows",
      {.key_heads = 2, .value_heads = 4, .key_dim = 128, .value_dim = 128, .pieces = {{0, 150}, {64, 40}}});
}

}  // namespace bumblebee::op_cases
