// What an optimizer sees: named values on the device with their gradient, and what is done to all of them at once.
// Knows no model.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/grad_ops.h"
#include "tensor/tensor.h"

namespace bumblebee::train {

/// Both tensors stay where they are as long as a run lasts, and are written in place.
struct Parameter {
  std::string name = {};    // as mlx-lm names it: "model.layers.0.self_attn.q_proj.lora_a"
  bool transposed = false;  // mlx-lm stores the transpose: matters where an optimizer tells rows from columns
  int experts = 1;          // of a stack: so many matrices, one below the other
  float rate_ratio = 1;     // multiplies the learning rate (LoRA+)
  Tensor value = {};        // [rows, cols]; one row for a vector
  Tensor gradient = {};     // [rows, cols] summed over what was scored since the last update

  int rows() const { return value.rows(); }
  int cols() const { return value.cols(); }
  size_t size() const { return size_t(rows()) * size_t(cols()); }
  bool is_matrix() const { return rows() > 1; }
};

/// The backend's derivatives. Throws Error(device) when it has none.
GradOps& require_grad_ops(Backend& backend);

/// With these values and a gradient of zero.
Parameter make_parameter(Backend& backend, const std::string& name, std::span<const float> values, int rows, int cols);

/// Values of each, all of them in one copy.
std::vector<std::vector<float>> read_values(GradOps& ops, std::span<const Tensor> tensors);

/// Takes values of each, all of them in one copy.
void write_values(GradOps& ops, std::span<const std::vector<float>> values, std::span<const Tensor> tensors);

std::vector<Tensor> values_of(std::span<const Parameter> parameters);
std::vector<Tensor> gradients_of(std::span<const Parameter> parameters);
void clear_gradients(GradOps& ops, std::span<const Parameter> parameters);
void scale_gradients(GradOps& ops, std::span<const Parameter> parameters, float factor);
/// The length of all gradients as one vector.
double gradient_norm(GradOps& ops, std::span<const Parameter> parameters);
/// Scales the gradients so that their norm is at most `max_norm`, as mlx's clip_grad_norm does. Returns the norm
/// before.
double clip_gradients(GradOps& ops, std::span<const Parameter> parameters, float max_norm);

}  // namespace bumblebee::train
