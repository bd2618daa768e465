// Lists of tensors, handed to the device at once.
#include "train/parameter.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace bumblebee::train {

GradOps& require_grad_ops(Backend& backend) {
  GradOps* grad = backend.stream().grad_ops();
  if (grad == nullptr)
    throw Error(ErrorCode::device, "train", cat("the device '", backend.name(), "' has no derivatives to train with"));
  return *grad;
}

Parameter make_parameter(Backend& backend, const std::string& name, std::span<const float> values, int rows, int cols) {
  Parameter p{.name = name, .value = backend.upload(values, rows, cols), .gradient = backend.make(rows, cols)};
  require_grad_ops(backend).clear({&p.gradient, 1});
  return p;
}

std::vector<std::vector<float>> read_values(GradOps& ops, std::span<const Tensor> tensors) {
  std::vector<std::vector<float>> values;
  size_t total = 0;
  for (const Tensor& t : tensors) total += values.emplace_back(size_t(t.rows()) * size_t(t.cols())).size();
  std::vector<float> flat(total);
  ops.read_all(tensors, flat);
  auto from = flat.cbegin();
  for (std::vector<float>& one : values) {
    std::copy_n(from, one.size(), one.begin());
    from += int64_t(one.size());
  }
  return values;
}

void write_values(GradOps& ops, std::span<const std::vector<float>> values, std::span<const Tensor> tensors) {
  std::vector<float> flat;
  for (const std::vector<float>& one : values) flat.insert(flat.end(), one.begin(), one.end());
  ops.write_all(flat, tensors);
}

std::vector<Tensor> values_of(std::span<const Parameter> parameters) {
  std::vector<Tensor> values;
  for (const Parameter& p : parameters) values.push_back(p.value);
  return values;
}

std::vector<Tensor> gradients_of(std::span<const Parameter> parameters) {
  std::vector<Tensor> gradients;
  for (const Parameter& p : parameters) gradients.push_back(p.gradient);
  return gradients;
}

void clear_gradients(GradOps& ops, std::span<const Parameter> parameters) { ops.clear(gradients_of(parameters)); }

void scale_gradients(GradOps& ops, std::span<const Parameter> parameters, float factor) {
  std::vector<ScaleTerm> terms;
  for (const Parameter& p : parameters) terms.push_back({p.gradient, factor});
  ops.scale(terms);
}

double gradient_norm(GradOps& ops, std::span<const Parameter> parameters) {
  std::vector<double> squares(parameters.size());
  ops.sum_squares(gradients_of(parameters), squares);
  double sum = 0;
  for (const double own : squares) sum += own;
  return std::sqrt(sum);
}

double clip_gradients(GradOps& ops, std::span<const Parameter> parameters, float max_norm) {
  const double norm = gradient_norm(ops, parameters);
  if (max_norm > 0) {
    const float factor = std::min(max_norm / (float(norm) + 1e-6f), 1.0f);
    if (factor < 1) scale_gradients(ops, parameters, factor);
  }
  return norm;
}

}  // namespace bumblebee::train
