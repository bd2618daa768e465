// The operations of experts in the reference: loops around expert_math.h.
#pragma once

#include <algorithm>
#include <span>

#include "backend/ops.h"
#include "backend/ref/expert_math.h"
#include "backend/ref/ref_tensor.h"

namespace bumblebee::ref {

inline Routing route(const Tensor& logits, const RouterParams& router) {
  const int rows = logits.rows(), top_k = router.top_k;
  Routing routing{make_ints(rows, top_k, 0), make_tensor(rows, top_k), make_ints(rows, top_k, 0)};
  const auto of = [](const Tensor& t) { return t ? std::span<const double>(row(t, 0)) : std::span<const double>(); };
  for (int r = 0; r < rows; ++r) {
    const auto chosen = route<double>(row(logits, r), router, of(router.bias), of(router.expert_scale));
    std::copy(chosen.experts.begin(), chosen.experts.end(), ints(routing.experts, r).begin());
    std::copy(chosen.weights.begin(), chosen.weights.end(), row(routing.weights, r).begin());
  }
  int32_t next = 0;
  for (int32_t e = 0; e < router.experts; ++e) {
    for (int r = 0; r < rows; ++r) {
      for (size_t j = 0; j < size_t(top_k); ++j)
        if (ints(routing.experts, r)[j] == e) ints(routing.order, r)[j] = next++;
    }
  }
  return routing;
}

/// multiply(weight, x, y) is one row's product.
template <class Multiply>
void matmul_experts(const Tensor& x, ExpertRows rows, const Routing& routing, std::span<const Weight* const> stacks,
                    std::span<Tensor> y, const Multiply& multiply) {
  const int count = routing.experts.rows(), top_k = routing.experts.cols();
  for (size_t t = 0; t < stacks.size(); ++t) {
    y[t] = make_tensor(count * top_k, stacks[t]->out);
    for (int r = 0; r < count; ++r) {
      for (size_t j = 0; j < size_t(top_k); ++j) {
        const int assignment = ints(routing.order, r)[j];
        const size_t expert = size_t(ints(routing.experts, r)[j]);
        multiply(static_cast<const RefStack&>(*stacks[t]->packed).experts[expert],
                 row(x, rows == ExpertRows::batch ? r : assignment), row(y[t], assignment));
      }
    }
  }
}

/// multiply(weight, x, y) is one head's product, transposed or not.
template <class Multiply>
Tensor matmul_heads(const Tensor& x, const Weight& heads, bool transposed, int rest, const Multiply& multiply) {
  const auto& stack = static_cast<const RefStack&>(*heads.packed).experts;
  const size_t in = size_t(transposed ? heads.out : heads.in), out = size_t(transposed ? heads.in : heads.out);
  Tensor y = make_tensor(x.rows(), heads.experts * int(out + size_t(rest)));
  for (int r = 0; r < x.rows(); ++r) {
    for (size_t h = 0; h < stack.size(); ++h) {
      const std::span<double> from = row(x, r).subspan(h * (in + size_t(rest)), in + size_t(rest)),
                              to = row(y, r).subspan(h * (out + size_t(rest)), out + size_t(rest));
      multiply(stack[h], from.first(in), to.first(out));
      std::copy_n(from.begin() + int64_t(in), rest, to.begin() + int64_t(out));
    }
  }
  return y;
}

inline void add_expert_bias(Tensor& y, const Routing& routing, const Tensor& bias) {
  y = make_writable(y);
  const size_t cols = size_t(y.cols());
  for (int r = 0; r < routing.experts.rows(); ++r) {
    for (size_t j = 0; j < size_t(routing.experts.cols()); ++j) {
      const size_t expert = size_t(ints(routing.experts, r)[j]);
      add<double>(row(y, ints(routing.order, r)[j]), row(bias, 0).subspan(expert * cols, cols));
    }
  }
}

inline Tensor sum_experts(const Tensor& y, const Routing& routing) {
  Tensor sum = make_tensor(routing.experts.rows(), y.cols());
  for (int r = 0; r < sum.rows(); ++r) {
    for (size_t j = 0; j < size_t(routing.experts.cols()); ++j) {
      const double weight = row(routing.weights, r)[j];
      const std::span<const double> term = row(y, ints(routing.order, r)[j]);
      for (size_t c = 0; c < term.size(); ++c) row(sum, r)[c] += weight * term[c];
    }
  }
  return sum;
}

inline Tensor gate_rows(Tensor y, const Tensor& gate) {
  y = make_writable(y);
  for (int r = 0; r < y.rows(); ++r) {
    const double factor = sigmoid(row(gate, r)[0]);
    for (double& v : row(y, r)) v *= factor;
  }
  return y;
}

}  // namespace bumblebee::ref
