// Operations that only some models need and that a device may lack. A model says which it needs while it is loaded; a
// device that lacks one refuses it by name before a weight is read.
#pragma once

#include <cstdint>

namespace bumblebee {

enum class Operation : uint8_t {
  mixed_cache,    // KvShape of several groups, layers that share a cache, attend() without keys
  sinks,          // of attention: AttentionParams::sinks
  clamped_glu,    // Activation::clamped_silu
  expert_bias,    // add_expert_bias
  matmul_experts  // with route, sum_experts, gate_rows and Backend::stack
};

constexpr const char* name_of(Operation operation) {
  switch (operation) {
    case Operation::mixed_cache: return "attend(layers that differ)";
    case Operation::sinks: return "attend(sinks)";
    case Operation::clamped_glu: return "glu(clamped)";
    case Operation::expert_bias: return "add_expert_bias";
    case Operation::matmul_experts: return "matmul_experts";
  }
  return "";
}

/// Whether a model that needs it can be trained: GradOps has its derivative.
constexpr bool has_derivative(Operation operation) {
  switch (operation) {
    case Operation::mixed_cache:
    case Operation::sinks:
    case Operation::clamped_glu:
    case Operation::expert_bias:
    case Operation::matmul_experts: return false;
  }
  return false;
}

}  // namespace bumblebee
