// The few lines of Pass that are the same for every interpreter.
#include "nn/pass.h"

#include <utility>

namespace bumblebee::nn {

Residual& Residual::operator+=(Tensor delta) {
  if (pending) pass->flush_residual(*this);
  pending = std::move(delta);
  return *this;
}

Tensor Pass::linear(const Tensor& x, const Linear& w) {
  const Linear* one = &w;
  Tensor y;
  linear(x, std::span<const Linear* const>(&one, 1), std::span<Tensor>(&y, 1));
  return y;
}

bool Pass::keep_logit_rows(Residual&) { return true; }

void Pass::scale_residual(Residual& residual, float factor) {
  flush_residual(residual);
  residual.x = scale(std::move(residual.x), factor);
}

}  // namespace bumblebee::nn
