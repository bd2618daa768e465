// Derivatives of what is gathered by expert. The rows of one expert lie together, so that each product with its weight
// is one of a weight of all rows.
#include <algorithm>
#include <cmath>

#include "backend/cpu/grad_ops.h"

namespace bumblebee::cpu {

Tensor CpuGradOps::route_dx(const Tensor& dweights, const Tensor& logits, const Routing& routing,
                            const RouterParams& router) {
  const int experts = router.experts, top_k = router.top_k;
  const bool softmax = router.score == RouterParams::Score::softmax;
  const int32_t* const chosen = elements<int32_t>(routing.experts);
  Tensor dx = ops_.memory_->make(logits.rows(), experts);
  ops_.for_rows(logits.rows(), experts * 32, [&](int r) {
    thread_local std::vector<double> scores, slopes;
    const float* const z = row(logits, r);
    const int32_t* const own = chosen + size_t(r) * size_t(top_k);
    scores.resize(size_t(experts));
    double highest = -INFINITY, total = 0;
    for (int e = 0; e < experts; ++e) highest = std::max(highest, double(z[e]));
    for (int e = 0; e < experts; ++e) {
      double& s = scores[size_t(e)];
      s = softmax ? std::exp(double(z[e]) - highest) : 1 / (1 + std::exp(-double(z[e])));
      total += s;
    }
    if (softmax) {
      for (double& s : scores) s /= total;
    }
    // With S the sum of the chosen scores: w = c·s/S, hence ds = c/S·(dw - Σ dw·s/S); or w = c·s.
    const auto dw = [&](int j) {
      return double(row(dweights, r)[j]) * (router.expert_scale ? double(data(router.expert_scale)[own[j]]) : 1);
    };
    double sum = 1, mean = 0;
    if (router.normalise) {
      sum = router.beside_sum;
      for (int j = 0; j < top_k; ++j) sum += scores[size_t(own[j])];
      for (int j = 0; j < top_k; ++j) mean += dw(j) * scores[size_t(own[j])] / sum;
    }
    slopes.assign(size_t(experts), 0.0);
    double mixed = 0;
    for (int j = 0; j < top_k; ++j) {
      const size_t e = size_t(own[j]);
      slopes[e] = double(router.scale) / sum * (dw(j) - mean);
      mixed += slopes[e] * scores[e];
    }
    for (int e = 0; e < experts; ++e) {
      const double s = scores[size_t(e)], slope = slopes[size_t(e)];
      row(dx, r)[e] = float(softmax ? s * (slope - mixed) : s * (1 - s) * slope);
    }
  });
  return dx;
}

Tensor CpuGradOps::spread_rows(const Tensor& x, const Routing& routing) {
  const int top_k = routing.experts.cols();
  const int32_t* const order = elements<int32_t>(routing.order);
  Tensor y = ops_.memory_->make(x.rows() * top_k, x.cols());
  ops_.for_rows(x.rows(), x.cols() * top_k, [&](int r) {
    for (int j = 0; j < top_k; ++j)
      std::copy_n(row(x, r), x.cols(), row(y, order[size_t(r) * size_t(top_k) + size_t(j)]));
  });
  return y;
}

Tensor CpuGradOps::spread_rows_dx(const Tensor& dy, const Routing& routing) {
  const int rows = routing.experts.rows(), top_k = routing.experts.cols();
  const int32_t* const order = elements<int32_t>(routing.order);
  Tensor dx = ops_.memory_->make(rows, dy.cols());
  ops_.for_rows(rows, dy.cols() * top_k, [&](int r) {
    for (int j = 0; j < top_k; ++j) {
      const float* const term = row(dy, order[size_t(r) * size_t(top_k) + size_t(j)]);
      if (j == 0) {
        std::copy_n(term, dy.cols(), row(dx, r));
      } else {
        k_.add(row(dx, r), term, dy.cols());
      }
    }
  });
  return dx;
}

Tensor CpuGradOps::matmul_experts_dx(std::span<const Tensor> dy, std::span<const Weight* const> stacks,
                                     const Routing& routing) {
  BB_CHECK(dy.size() == stacks.size() && !dy.empty());
  const CpuOps::ExpertPlan plan = ops_.plan_experts(routing, stacks[0]->experts);
  Tensor dx = ops_.memory_->make(dy[0].rows(), stacks[0]->in);
  std::vector<Tensor> own(dy.size());
  std::vector<const Weight*> weights(dy.size());
  for (const CpuOps::ExpertRun& run : plan.runs) {
    for (size_t t = 0; t < dy.size(); ++t) {
      own[t] = dy[t].slice_rows(run.first, run.count);
      weights[t] = &static_cast<const CpuStack&>(*stacks[t]->packed).experts[size_t(run.expert)];
    }
    const Tensor part = matmul_dx(own, weights);
    std::copy_n(data(part), size_t(run.count) * size_t(dx.cols()), row(dx, run.first));
  }
  return dx;
}

void CpuGradOps::sum_experts_dx(const Tensor& dsum, const Tensor& y, const Routing& routing, Tensor& dy,
                                Tensor& dweights) {
  const int rows = routing.experts.rows(), top_k = routing.experts.cols(), cols = y.cols();
  const int32_t* const order = elements<int32_t>(routing.order);
  dy = ops_.memory_->make(y.rows(), cols);
  dweights = ops_.memory_->make(rows, top_k);
  ops_.for_rows(rows, cols * top_k, [&](int r) {
    for (int j = 0; j < top_k; ++j) {
      const int assignment = order[size_t(r) * size_t(top_k) + size_t(j)];
      row(dweights, r)[j] = k_.dot(row(dsum, r), row(y, assignment), cols);
      std::copy_n(row(dsum, r), cols, row(dy, assignment));
      k_.scale(row(dy, assignment), row(routing.weights, r)[j], cols);
    }
  });
}

void CpuGradOps::gate_rows_dx(const Tensor& dout, const Tensor& y, const Tensor& gate, Tensor& dy, Tensor& dgate) {
  dy = ops_.memory_->make(y.rows(), y.cols());
  dgate = ops_.memory_->make(y.rows(), 1);
  ops_.for_rows(y.rows(), y.cols(), [&](int r) {
    const double factor = 1 / (1 + std::exp(-double(*row(gate, r))));
    *row(dgate, r) = float(factor * (1 - factor) * double(k_.dot(row(dout, r), row(y, r), y.cols())));
    std::copy_n(row(dout, r), y.cols(), row(dy, r));
    k_.scale(row(dy, r), float(factor), y.cols());
  });
}

}  // namespace bumblebee::cpu
