// Attention of whole segments and its derivatives: every grouping of heads, windows, caps, sinks, several segments,
// blocks and their borders.
#include <algorithm>
#include <cmath>

#include "tests/ops/cases/common.h"

namespace bumblebee::op_cases {
namespace {

struct PackedSpec {
  int heads = 2, kv_heads = 1, head_dim = 16, window = 0;
  std::vector<int> lengths = {1};
  double sharpness = 1;  // of the scores
  float soft_cap = 0;
  bool sinks = false;
};

class PackedCase final : public OpCase {
 public:
  PackedCase(const std::string& op, const std::string& variant, const PackedSpec& spec)
      : OpCase(op, variant), spec_(spec) {
    Random random(seed_of(name()));
    int rows = 0;
    for (const int length : spec.lengths) rows += length;
    const auto normal = [&](int heads, double deviation) {
      const int cols = heads * spec.head_dim;
      return HostMatrix{rows, cols, random.normals(size_t(rows) * size_t(cols), deviation)};
    };
    q_ = normal(spec.heads, spec.sharpness);
    k_ = normal(spec.kv_heads, 1);
    v_ = normal(spec.kv_heads, 1);
    dout_ = normal(spec.heads, 1);
    for (int h = 0; h < spec.heads && spec.sinks; ++h) sinks_.push_back(float(random.normal(3)));
  }

  std::vector<Output> run(Backend& backend) const override {
    Batch batch;
    for (const int length : spec_.lengths)
      batch.append(std::vector<int32_t>(size_t(length), 0), 0, std::vector<int32_t>{0}, Batch::Want::none);
    backend.stream().bind(batch, nullptr);
    const auto upload = [&](const HostMatrix& m) { return backend.upload(m.values, m.rows, m.cols); };
    const Tensor q = upload(q_), k = upload(k_), v = upload(v_);
    AttentionParams attention = params();
    if (spec_.sinks) attention.sinks = backend.upload(sinks_, 1, spec_.heads);
    GradOps& grad = *backend.stream().grad_ops();
    Tensor lse;
    const Tensor out = grad.attend_packed(q, k, v, attention, lse);
    if (op() == "attend_packed") return {read_output(backend, "out", out), read_output(backend, "lse", lse)};
    Tensor dq, dk, dv;
    grad.attend_packed_dqkv(upload(dout_), q, k, v, out, lse, attention, dq, dk, dv);
    return {read_output(backend, "dq", dq), read_output(backend, "dk", dk), read_output(backend, "dv", dv)};
  }

  std::vector<std::vector<double>> bounds(const Precision& precision,
                                          const std::vector<Output>& reference) const override {
    const double half = precision.fast ? kBothBf16 : 0;
    std::vector<std::vector<double>> bounds;
    for (const Output& output : reference) {
      bounds.emplace_back();
      for (const float v : output.values) bounds.back().push_back(2 * kRoundF32 * std::abs(double(v)) + 0x1p-120);
    }
    int first = 0;
    for (const int length : spec_.lengths) {
      for (int i = 0; i < length; ++i) {
        for (int h = 0; h < spec_.heads; ++h) {
          const Query query = of_query(first, i, h, half);
          if (op() == "attend_packed") {
            forward_bound(query, bounds);
          } else {
            backward_bound(query, length, half, bounds);
          }
        }
      }
      first += length;
    }
    return bounds;
  }

 private:
  AttentionParams params() const {
    return {.heads = spec_.heads,
            .kv_heads = spec_.kv_heads,
            .head_dim = spec_.head_dim,
            .scale = float(1 / std::sqrt(double(spec_.head_dim))),
            .window = spec_.window,
            .sinks = {},
            .soft_cap = spec_.soft_cap};
  }
  size_t dim() const { return size_t(spec_.head_dim); }

  /// One query of one head: probabilities of its keys [first, first + p.size()), and errors that all bounds share.
  struct Query {
    int row = 0, first = 0;
    size_t head = 0, group = 0;                 // columns where they begin
    std::vector<double> p, slope, slope_error;  // of the cap: 1 and 0 without one
    double score_error = 0, p_error = 0;        // absolute; relative
    double out_error = 0;                       // of Σ p|v|
  };

  /// Scores are sums of head_dim products, rounded a few times more, which a log-sum of them shares; the exponent is a
  /// difference of two such numbers, and its exponential is good to 4 roundings. The log-sum adds a sum over keys.
  /// `half` is what rounding both factors of every product to bf16 adds. A cap has slopes of at most one and nine
  /// roundings; its slope, 1 - t² with t a quotient, moves by 2t times what t does. A sink is what it is.
  Query of_query(int first_row, int i, int h, double half) const {
    Query query;
    const int seen = spec_.window > 0 ? std::min(spec_.window, i + 1) : i + 1;
    query.row = first_row + i;
    query.first = query.row + 1 - seen;
    query.head = size_t(h) * dim();
    query.group = size_t(h * spec_.kv_heads / spec_.heads) * dim();
    double highest = -INFINITY, largest = 0, total = 0;
    for (int j = 0; j < seen; ++j) {
      double score = 0, size = 0;
      for (size_t d = 0; d < dim(); ++d) {
        const double product = double(q_.row(query.row)[query.head + d]) *
                               double(k_.row(query.first + j)[query.group + d]) * double(params().scale);
        score += product;
        size += std::abs(product);
      }
      double error = (sum_error(spec_.head_dim, 6) + half) * size, t = 0;
      if (spec_.soft_cap > 0) {
        const double cap = double(spec_.soft_cap);
        t = std::tanh(score / cap);
        score = cap * t;
        error += 9 * kRoundF32 * std::abs(score);
        t = std::abs(t);
        query.slope_error.push_back(2 * t * (error / cap + 2 * kRoundF32 * t) + 3 * kRoundF32);
      } else {
        query.slope_error.push_back(0);
      }
      query.slope.push_back(1 - t * t);
      query.score_error = std::max(query.score_error, error);
      highest = std::max(highest, score);
      largest = std::max(largest, std::abs(score));
      query.p.push_back(score);
    }
    if (spec_.sinks) {
      const double sink = double(sinks_[size_t(h)]);
      highest = std::max(highest, sink);
      total = std::exp(sink - highest);
    }
    for (double& p : query.p) total += (p = std::exp(p - highest));
    for (double& p : query.p) p /= total;
    const double lse_size = std::abs(highest + std::log(total));
    query.p_error =
        (std::expm1(2 * query.score_error) + sum_error(seen + 1, 12) + 4 * kRoundF32 * (largest + lse_size)) *
        (1 + 0x1p-10);
    query.out_error = query.p_error * (1 + half) + sum_error(seen, 4) + half;
    return query;
  }

  void forward_bound(const Query& query, std::vector<std::vector<double>>& bounds) const {
    for (size_t d = 0; d < dim(); ++d) {
      double size = 0;
      for (size_t j = 0; j < query.p.size(); ++j)
        size += query.p[j] * std::abs(double(v_.row(query.first + int(j))[query.group + d]));
      bounds[0][size_t(query.row) * size_t(q_.cols) + query.head + d] += query.out_error * size;
    }
    bounds[1][size_t(query.row) * size_t(spec_.heads) + query.head / dim()] += query.p_error;
  }

  /// ds = scale·slope·p·(dp - mean), mean = dout·out: the parts of the difference count by their size. What a query
  /// adds to dk and dv is one of at most length·heads/kv_heads terms.
  void backward_bound(const Query& query, int length, double half, std::vector<std::vector<double>>& bounds) const {
    const float* dout = dout_.row(query.row) + query.head;
    const int64_t terms = int64_t{length} * spec_.heads / spec_.kv_heads;
    std::vector<double> dp, dp_error;
    double mean = 0, mean_error = 0;
    for (size_t j = 0; j < query.p.size(); ++j) {
      double sum = 0, size = 0;
      for (size_t d = 0; d < dim(); ++d) {
        const double product = double(dout[d]) * double(v_.row(query.first + int(j))[query.group + d]);
        sum += product;
        size += std::abs(product);
      }
      dp.push_back(sum);
      dp_error.push_back((sum_error(spec_.head_dim, 2) + half) * size);
      mean += query.p[j] * sum;
      mean_error += query.p[j] * size * (query.out_error + sum_error(spec_.head_dim, 2));
    }
    for (size_t j = 0; j < query.p.size(); ++j) {
      const double p = query.p[j], scale = double(params().scale);
      const double slope_of_cap = query.slope[j], ds = std::abs(p * (dp[j] - mean) * slope_of_cap * scale);
      const double ds_error = scale * p *
                              (slope_of_cap * (query.p_error * std::abs(dp[j] - mean) + dp_error[j] + mean_error +
                                               6 * kRoundF32 * (std::abs(dp[j]) + std::abs(mean))) +
                               query.slope_error[j] * (std::abs(dp[j] - mean) + dp_error[j] + mean_error));
      const size_t key_row = size_t(query.first) + j;
      for (size_t d = 0; d < dim(); ++d) {
        const double key = std::abs(double(k_.row(int(key_row))[query.group + d])),
                     own = std::abs(double(q_.row(query.row)[query.head + d])), slope = std::abs(double(dout[d]));
        bounds[0][size_t(query.row) * size_t(q_.cols) + query.head + d] +=
            (ds_error * (1 + half) + (sum_error(int64_t(query.p.size()), 2) + half) * ds) * key;
        bounds[1][key_row * size_t(k_.cols) + query.group + d] +=
            (ds_error * (1 + half) + (sum_error(terms, 2) + half) * ds) * own;
        bounds[2][key_row * size_t(k_.cols) + query.group + d] +=
            (query.p_error * (1 + half) + sum_error(terms, 2) + half) * p * slope;
      }
    }
  }

  PackedSpec spec_;
  HostMatrix q_, k_, v_, dout_;
  std::vector<float> sinks_;
};

void add_packed(Cases& cases, const std::string& op) {
  const auto add = [&](const std::string& variant, const PackedSpec& spec) {
    cases.push_back(std::make_unique<PackedCase>(op, variant, spec));
  };
  add("one_row", {});
  for (const int rows : {2, 15, 16, 17, 63, 64, 65, 130}) add("rows" + std::to_string(rows), {.lengths = {rows}});
  for (const auto& [heads, kv_heads] : {std::pair(1, 1), {4, 4}, {4, 1}, {6, 2}, {9, 3}, {14, 2}})
    add("heads" + std::to_string(heads) + "_" + std::to_string(kv_heads),
        {.heads = heads, .kv_heads = kv_heads, .lengths = {20, 3}});
  for (const int dim : {2, 8, 18, 32, 64, 80, 128})
    add("dim" + std::to_string(dim), {.heads = 4, .kv_heads = 2, .head_dim = dim, .lengths = {18, 4}});
  for (const int window : {1, 2, 5, 16, 33, 64, 70, 1000})
    add("window" + std::to_string(window), {.heads = 4, .kv_heads = 2, .window = window, .lengths = {100, 3, 16}});
  add("segments", {.heads = 4, .kv_heads = 2, .lengths = {7, 33, 64, 1, 17, 129, 1}});
  add("sharp", {.heads = 4, .kv_heads = 2, .head_dim = 64, .lengths = {40, 8}, .sharpness = 12});
  add("soft_cap", {.heads = 4, .kv_heads = 2, .head_dim = 32, .lengths = {40, 70}, .sharpness = 8, .soft_cap = 5});
  add("soft_cap_window",
      {.heads = 4, .kv_heads = 1, .head_dim = 18, .window = 9, .lengths = {33, 1}, .sharpness = 3, .soft_cap = 2});
  add("sinks", {.heads = 8, .kv_heads = 2, .head_dim = 32, .lengths = {40, 1, 70}, .sinks = true});
  add("sinks_window", {.heads = 4, .kv_heads = 2, .head_dim = 64, .window = 5, .lengths = {100, 3}, .sinks = true});
  add("sinks_soft_cap", {.heads = 4, .kv_heads = 4, .lengths = {20}, .sharpness = 4, .soft_cap = 3, .sinks = true});
  add("long", {.heads = 4, .kv_heads = 2, .head_dim = 32, .lengths = {300, 70}});
}

}  // namespace

void add_attend_packed(Cases& cases) { add_packed(cases, "attend_packed"); }
void add_attend_packed_dqkv(Cases& cases) { add_packed(cases, "attend_packed_dqkv"); }

}  // namespace bumblebee::op_cases
