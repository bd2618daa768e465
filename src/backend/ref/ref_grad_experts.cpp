// Derivatives of what is gathered by expert, each as it is written on paper.
#include "backend/ref/expert_math.h"
#include "backend/ref/grad_math.h"
#include "backend/ref/ref_grad_ops.h"
#include "backend/ref/ref_tensor.h"
#include "quant/elements.h"

namespace bumblebee::ref {

Tensor RefGradOps::route_dx(const Tensor& dweights, const Tensor& logits, const Routing& routing,
                            const RouterParams& router) {
  Tensor dx = make_tensor(logits.rows(), logits.cols());
  for (int r = 0; r < logits.rows(); ++r)
    ref::route_dx(row(dweights, r), row(logits, r), ints(routing.experts, r), router, row(dx, r));
  return dx;
}

Tensor RefGradOps::spread_rows(const Tensor& x, const Routing& routing) {
  const int top_k = routing.experts.cols();
  Tensor y = make_tensor(x.rows() * top_k, x.cols());
  for (int r = 0; r < x.rows(); ++r) {
    for (const int32_t assignment : ints(routing.order, r))
      std::copy_n(row(x, r).begin(), x.cols(), row(y, assignment).begin());
  }
  return y;
}

Tensor RefGradOps::spread_rows_dx(const Tensor& dy, const Routing& routing) {
  Tensor dx = make_tensor(routing.experts.rows(), dy.cols());
  for (int r = 0; r < dx.rows(); ++r) {
    for (const int32_t assignment : ints(routing.order, r)) add<double>(row(dx, r), row(dy, assignment));
  }
  return dx;
}

Tensor RefGradOps::matmul_experts_dx(std::span<const Tensor> dy, std::span<const Weight* const> stacks,
                                     const Routing& routing) {
  BB_CHECK(dy.size() == stacks.size() && !dy.empty());
  Tensor dx = make_tensor(dy[0].rows(), stacks[0]->in);
  std::vector<double> w(size_t(dx.cols()));
  for (size_t t = 0; t < dy.size(); ++t) {
    const auto& experts = static_cast<const RefStack&>(*stacks[t]->packed).experts;
    for (int r = 0; r < routing.experts.rows(); ++r) {
      for (size_t j = 0; j < size_t(routing.experts.cols()); ++j) {
        const int assignment = ints(routing.order, r)[j];
        const HostWeight& weight = host(experts[size_t(ints(routing.experts, r)[j])]);
        for (int n = 0; n < weight.out; ++n) {
          decode_row<double>(weight, n, w);
          for (size_t k = 0; k < w.size(); ++k) row(dx, assignment)[k] += row(dy[t], assignment)[size_t(n)] * w[k];
        }
      }
    }
  }
  return dx;
}

void RefGradOps::sum_experts_dx(const Tensor& dsum, const Tensor& y, const Routing& routing, Tensor& dy,
                                Tensor& dweights) {
  dy = make_tensor(y.rows(), y.cols());
  dweights = make_tensor(routing.weights.rows(), routing.weights.cols());
  for (int r = 0; r < dsum.rows(); ++r) {
    for (size_t j = 0; j < size_t(dweights.cols()); ++j) {
      const int assignment = ints(routing.order, r)[j];
      const double weight = row(routing.weights, r)[j];
      for (size_t c = 0; c < size_t(y.cols()); ++c) row(dy, assignment)[c] = weight * row(dsum, r)[c];
      row(dweights, r)[j] = dot<double, double>(row(dsum, r), row(y, assignment));
    }
  }
}

void RefGradOps::gate_rows_dx(const Tensor& dout, const Tensor& y, const Tensor& gate, Tensor& dy, Tensor& dgate) {
  dy = make_tensor(y.rows(), y.cols());
  dgate = make_tensor(y.rows(), 1);
  for (int r = 0; r < y.rows(); ++r) {
    const double factor = sigmoid(row(gate, r)[0]);
    for (size_t c = 0; c < size_t(y.cols()); ++c) row(dy, r)[c] = factor * row(dout, r)[c];
    row(dgate, r)[0] = factor * (1 - factor) * dot<double, double>(row(dout, r), row(y, r));
  }
}

}  // namespace bumblebee::ref
