// One operation with one set of inputs, for any backend: its inputs from a seed, its call through Ops, how far the
// result may be from the reference and why, and what it costs. Conformance tests, benches and fuzzers share these; they
// know no test framework.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace bumblebee::op_cases {

/// Runs operations at once, as a step that is not repeatable.
inline void eagerly(Backend& backend, FunctionRef<void()> body) {
  backend.stream().run({}, [&] {
    body();
    return StepOutputs();
  });
}

/// What a result is allowed to have rounded.
struct Precision {
  bool fast = false;  // activations of matmul rounded to int8 in groups of 64
};

/// One tensor that came out. A null buffer reads as rows = cols = 0.
struct Output {
  std::string what;
  int rows = 0, cols = 0;
  std::vector<float> values;
};

struct Cost {
  double bytes = 0, flops = 0;
};

class OpCase {
 public:
  OpCase(std::string op, std::string variant) : op_(std::move(op)), variant_(std::move(variant)) {}
  virtual ~OpCase() = default;

  const std::string& op() const { return op_; }
  std::string name() const { return op_ + "/" + variant_; }
  virtual std::vector<Output> run(Backend& backend) const = 0;
  /// For each output, for each element: the largest |got - reference| that rounding can explain. See
  /// docs/internals/numerics.md, "Tolerances".
  virtual std::vector<std::vector<double>> bounds(const Precision& precision,
                                                  const std::vector<Output>& reference) const = 0;
  virtual Cost cost() const { return {}; }
  /// What its weights are stored as: not every device has every format.
  virtual std::vector<Format> formats() const { return {}; }
  /// What a device may lack that has the operation itself.
  virtual std::optional<bumblebee::Operation> needs() const { return std::nullopt; }

 private:
  std::string op_, variant_;
};

using Cases = std::vector<std::unique_ptr<OpCase>>;

/// Names of the operations that have cases, in the order of ops.h and grad_ops.h.
const std::vector<std::string>& operations();
/// Whether it is one of grad_ops.h, which not every device has.
bool is_of_training(const std::string& operation);
/// What of bumblebee::Operation a device must not lack to have it.
std::optional<Operation> needed_operation(const std::string& operation);
/// All cases of one operation, edge shapes first.
Cases cases_of(const std::string& operation);
/// A few of them, for where all would take too long (chosen.cpp says which).
Cases chosen_cases_of(const std::string& operation);

void add_embed(Cases& cases);
void add_matmul(Cases& cases);
void add_lora(Cases& cases);
void add_lora_embed(Cases& cases);
void add_lora_norm(Cases& cases);
void add_rms_norm(Cases& cases);
void add_add_rms_norm(Cases& cases);
void add_add(Cases& cases);
void add_norm_rope(Cases& cases);
void add_attend(Cases& cases);
void add_split(Cases& cases);
void add_causal_conv(Cases& cases);
void add_delta_rule(Cases& cases);
void add_glu(Cases& cases);
void add_multiply(Cases& cases);
void add_soft_cap(Cases& cases);
void add_columns(Cases& cases);
void add_route(Cases& cases);
void add_matmul_experts(Cases& cases);
void add_add_expert_bias(Cases& cases);
void add_lora_experts(Cases& cases);
void add_lora_heads(Cases& cases);
void add_sum_experts(Cases& cases);
void add_matmul_heads(Cases& cases);
void add_gate_rows(Cases& cases);
void add_gather_rows(Cases& cases);
void add_keep_logit_rows(Cases& cases);
void add_sample(Cases& cases);
void add_copy(Cases& cases);
void add_attend_packed(Cases& cases);
void add_attend_packed_dqkv(Cases& cases);
void add_conv_packed(Cases& cases);
void add_conv_packed_dx(Cases& cases);
void add_delta_packed(Cases& cases);
void add_delta_packed_dx(Cases& cases);
void add_split_dx(Cases& cases);
void add_matmul_dx(Cases& cases);
void add_route_dx(Cases& cases);
void add_spread_rows(Cases& cases);
void add_spread_rows_dx(Cases& cases);
void add_matmul_experts_dx(Cases& cases);
void add_sum_experts_dx(Cases& cases);
void add_gate_rows_dx(Cases& cases);
void add_gemm(Cases& cases);
void add_rms_norm_dx(Cases& cases);
void add_norm_rope_dx(Cases& cases);
void add_glu_dx(Cases& cases);
void add_head_loss(Cases& cases);
void add_axpy(Cases& cases);
void add_dropout(Cases& cases);
void add_multiply_columns(Cases& cases);
void add_column_dots(Cases& cases);
void add_row_lengths(Cases& cases);
void add_add_row(Cases& cases);
void add_clear(Cases& cases);
void add_axpby(Cases& cases);
void add_scale(Cases& cases);
void add_divide(Cases& cases);
void add_adam(Cases& cases);
void add_adafactor(Cases& cases);
void add_orthogonalize(Cases& cases);
void add_sum_squares(Cases& cases);
void add_read_all(Cases& cases);
void add_write_all(Cases& cases);

}  // namespace bumblebee::op_cases
