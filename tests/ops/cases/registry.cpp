// The table of operations.
#include <algorithm>
#include <array>
#include <string_view>

#include "base/error.h"
#include "tests/ops/cases/op_case.h"

namespace bumblebee::op_cases {
namespace {

struct Named {
  const char* name;
  void (*add)(Cases&);
};

constexpr std::array<Named, 64> kOperations = {{{"embed", add_embed},
                                                {"matmul", add_matmul},
                                                {"lora", add_lora},
                                                {"lora_embed", add_lora_embed},
                                                {"lora_norm", add_lora_norm},
                                                {"rms_norm", add_rms_norm},
                                                {"add_rms_norm", add_add_rms_norm},
                                                {"add", add_add},
                                                {"norm_rope", add_norm_rope},
                                                {"attend", add_attend},
                                                {"split", add_split},
                                                {"causal_conv", add_causal_conv},
                                                {"delta_rule", add_delta_rule},
                                                {"glu", add_glu},
                                                {"multiply", add_multiply},
                                                {"soft_cap", add_soft_cap},
                                                {"columns", add_columns},
                                                {"route", add_route},
                                                {"matmul_experts", add_matmul_experts},
                                                {"lora_experts", add_lora_experts},
                                                {"lora_heads", add_lora_heads},
                                                {"add_expert_bias", add_add_expert_bias},
                                                {"sum_experts", add_sum_experts},
                                                {"matmul_heads", add_matmul_heads},
                                                {"gate_rows", add_gate_rows},
                                                {"gather_rows", add_gather_rows},
                                                {"keep_logit_rows", add_keep_logit_rows},
                                                {"sample", add_sample},
                                                {"copy", add_copy},
                                                {"attend_packed", add_attend_packed},
                                                {"attend_packed_dqkv", add_attend_packed_dqkv},
                                                {"conv_packed", add_conv_packed},
                                                {"conv_packed_dx", add_conv_packed_dx},
                                                {"delta_packed", add_delta_packed},
                                                {"delta_packed_dx", add_delta_packed_dx},
                                                {"split_dx", add_split_dx},
                                                {"matmul_dx", add_matmul_dx},
                                                {"route_dx", add_route_dx},
                                                {"spread_rows", add_spread_rows},
                                                {"spread_rows_dx", add_spread_rows_dx},
                                                {"matmul_experts_dx", add_matmul_experts_dx},
                                                {"sum_experts_dx", add_sum_experts_dx},
                                                {"gate_rows_dx", add_gate_rows_dx},
                                                {"gemm", add_gemm},
                                                {"rms_norm_dx", add_rms_norm_dx},
                                                {"norm_rope_dx", add_norm_rope_dx},
                                                {"glu_dx", add_glu_dx},
                                                {"head_loss", add_head_loss},
                                                {"axpy", add_axpy},
                                                {"dropout", add_dropout},
                                                {"multiply_columns", add_multiply_columns},
                                                {"column_dots", add_column_dots},
                                                {"row_lengths", add_row_lengths},
                                                {"add_row", add_add_row},
                                                {"clear", add_clear},
                                                {"axpby", add_axpby},
                                                {"scale", add_scale},
                                                {"divide", add_divide},
                                                {"adam", add_adam},
                                                {"adafactor", add_adafactor},
                                                {"orthogonalize", add_orthogonalize},
                                                {"sum_squares", add_sum_squares},
                                                {"read_all", add_read_all},
                                                {"write_all", add_write_all}}};

}  // namespace

const std::vector<std::string>& operations() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> list;
    for (const Named& operation : kOperations) list.emplace_back(operation.name);
    return list;
  }();
  return names;
}

bool is_of_training(const std::string& operation) {
  const auto named = [](std::string_view name) { return [name](const Named& o) { return name == o.name; }; };
  return std::find_if(kOperations.begin(), kOperations.end(), named(operation)) >=
         std::find_if(kOperations.begin(), kOperations.end(), named("attend_packed"));
}

std::optional<Operation> needed_operation(const std::string& operation) {
  if (operation == "route" || operation == "matmul_experts" || operation == "sum_experts" || operation == "gate_rows")
    return Operation::matmul_experts;
  if (operation == "add_expert_bias") return Operation::expert_bias;
  if (operation == "split" || operation == "split_dx") return Operation::split;
  for (const char* recurrent :
       {"causal_conv", "delta_rule", "conv_packed", "conv_packed_dx", "delta_packed", "delta_packed_dx"}) {
    if (operation == recurrent) return Operation::delta_rule;
  }
  if (operation == "matmul_heads") return Operation::latent_keys;
  for (const char* derivative :
       {"route_dx", "spread_rows", "spread_rows_dx", "matmul_experts_dx", "sum_experts_dx", "gate_rows_dx"}) {
    if (operation == derivative) return Operation::matmul_experts;
  }
  if (operation == "lora_experts") return Operation::lora_experts;
  if (operation == "lora_heads") return Operation::lora_heads;
  return std::nullopt;
}

Cases cases_of(const std::string& wanted) {
  Cases cases;
  for (const Named& operation : kOperations) {
    if (wanted == operation.name) operation.add(cases);
  }
  BB_CHECK(!cases.empty(), "no operation '", wanted, "'");
  return cases;
}

}  // namespace bumblebee::op_cases
