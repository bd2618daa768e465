// The two shapes in which factors of experts come: mlx-lm's, a stack for all of a layer ("mlp.switch_mlp.gate_proj"),
// and a module for each ("mlp.experts.3.gate_proj"), as PEFT sees a model whose experts are linears.
#pragma once

#include <string>
#include <string_view>

#include "lora/adapter.h"

namespace bumblebee::lora {

/// One of a stack's experts.
struct ExpertPath {
  std::string each;  // the module's path with '#' for the number
  int expert = -1;   // -1: the path has no number
};
/// By the last number of the path.
ExpertPath expert_path(std::string_view path);

/// mlx-lm's name of the stack whose experts have the names `each`; empty where it has none.
std::string stack_name(std::string_view each);
/// The inverse: '#' stands for the number.
std::string each_name(std::string_view stack);

/// Whether the factors of this path are those of a parameter with a matrix for each expert (`target_parameters`), which
/// only PEFT's format has a place for.
bool is_parameter(const Adapter& adapter, std::string_view path);

bool has_stacks(const Adapter& adapter);
bool has_single_experts(const Adapter& adapter);

/// The adapter with its single experts as stacks. Throws Error(unsupported) naming the module where a stack would have
/// a gap, or experts of other ranks and scales, and for what is more than factors.
Adapter stack_experts(const Adapter& adapter);
/// The adapter with a module for each expert of its stacks, but for what is_parameter(). Throws Error(unsupported) for
/// stacks whose experts have no names.
Adapter split_experts(const Adapter& adapter);

}  // namespace bumblebee::lora
