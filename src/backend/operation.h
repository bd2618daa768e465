// Operations that only some models need and that a device may lack. A model says which it needs while it is loaded; a
// device that lacks one refuses it by name before a weight is read.
#pragma once

#include <cstdint>

namespace bumblebee {

enum class Operation : uint8_t {
  gelu,            // Activation::gelu
  soft_cap,        // of rows and of attention's scores
  norm_runs,       // rms_norm over runs of a row
  multiply,        // with columns
  mixed_cache,     // KvShape of several groups, layers that share a cache, attend() without keys, keep_logit_rows()
  sinks,           // of attention: AttentionParams::sinks
  clamped_glu,     // Activation::clamped_silu
  expert_bias,     // add_expert_bias
  latent_keys,     // values within keys, a rotation that begins within a head, matmul_heads
  matmul_experts,  // with route, sum_experts, gate_rows and Backend::stack
  split,           // columns dealt out
  delta_rule,      // with causal_conv, Activation::sigmoid and states
  short_conv,      // causal_conv without silu, Activation::identity and states
  query_growth,    // RopeParams::query_growth
  long_rope,       // RopeParams::long_inv_freq
  rope_pairs,      // RopeParams::interleaved
  lora_experts,    // of adapters, not of models: Backend::has() says it before one is packed
  lora_heads       // the same of kv_b_proj, with latent_keys
};

constexpr const char* name_of(Operation operation) {
  switch (operation) {
    case Operation::gelu: return "glu(gelu)";
    case Operation::soft_cap: return "soft_cap";
    case Operation::norm_runs: return "rms_norm(runs)";
    case Operation::multiply: return "multiply";
    case Operation::mixed_cache: return "attend(layers that differ)";
    case Operation::sinks: return "attend(sinks)";
    case Operation::clamped_glu: return "glu(clamped)";
    case Operation::expert_bias: return "add_expert_bias";
    case Operation::latent_keys: return "attend(latent keys)";
    case Operation::matmul_experts: return "matmul_experts";
    case Operation::split: return "split";
    case Operation::delta_rule: return "delta_rule";
    case Operation::short_conv: return "causal_conv(plain)";
    case Operation::query_growth: return "norm_rope(growing queries)";
    case Operation::long_rope: return "norm_rope(stretched)";
    case Operation::rope_pairs: return "norm_rope(pairs)";
    case Operation::lora_experts: return "lora_experts";
    case Operation::lora_heads: return "lora_heads";
  }
  return "";
}

/// Whether a model that needs it can be trained: GradOps has its derivative.
constexpr bool has_derivative(Operation operation) {
  switch (operation) {
    case Operation::gelu:
    case Operation::soft_cap:
    case Operation::norm_runs:
    case Operation::multiply:
    case Operation::mixed_cache:
    case Operation::sinks:
    case Operation::clamped_glu:
    case Operation::expert_bias:
    case Operation::matmul_experts:
    case Operation::split:
    case Operation::query_growth:
    case Operation::long_rope:
    case Operation::rope_pairs:
    case Operation::delta_rule:
    case Operation::short_conv: return true;
    case Operation::latent_keys:
    case Operation::lora_experts:
    case Operation::lora_heads: return false;
  }
  return false;
}

}  // namespace bumblebee
