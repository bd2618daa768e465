// Reading what an adapter file holds, and refusing what no module could use.
#include "lora/tensor_set.h"

#include <cmath>
#include <set>

#include "base/error.h"
#include "io/quote.h"
#include "quant/elements.h"

namespace bumblebee::lora {
void TensorSet::fail(const TensorEntry& tensor, std::string_view what) const {
  throw Error(ErrorCode::bad_file, where(), cat("tensor ", in_quotes(tensor.name), ": ", what));
}

void TensorSet::expect_matrix(const TensorEntry& tensor, std::string_view axes) const {
  const auto& shape = tensor.shape;
  if (shape.size() == 3) {
    throw Error(ErrorCode::unsupported, where(),
                cat("tensor ", in_quotes(tensor.name), ": a stack of experts is not supported here: expected ", axes,
                    ", got ", shape_text(shape)));
  }
  if (shape.size() != 2 || shape[0] == 0 || shape[1] == 0) {
    fail(tensor, cat("shape: expected ", axes, ", got ", shape_text(shape)));
  }
  if (shape[0] > INT32_MAX || shape[1] > INT32_MAX) fail(tensor, cat("too large: got ", shape_text(shape)));
}

void TensorSet::expect_stack(const TensorEntry& tensor, std::string_view axes) const {
  const auto& shape = tensor.shape;
  if (shape.size() != 3 || shape[0] == 0 || shape[1] == 0 || shape[2] == 0)
    fail(tensor, cat("shape: expected ", axes, ", got ", shape_text(shape)));
  if (shape[0] > INT32_MAX || shape[1] > INT32_MAX / shape[0] || shape[2] > INT32_MAX)
    fail(tensor, cat("too large: got ", shape_text(shape)));
}

std::vector<float> TensorSet::values(const TensorEntry& tensor) const {
  if (!is_float(tensor.dtype)) {
    fail(tensor, cat("type: expected F32, F16 or BF16, got ", safetensors_name(tensor.dtype)));
  }
  const auto bytes = file_->bytes(tensor);
  std::vector<float> values(bytes.size() / size_t(size_of(tensor.dtype)));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = load_float(bytes, tensor.dtype, i);
    if (!std::isfinite(values[i])) fail(tensor, cat("element ", i, ": expected a finite number, got ", values[i]));
  }
  return values;
}

Matrix TensorSet::matrix(const TensorEntry& tensor, bool is_transposed) const {
  Matrix stored{int(tensor.shape[0]), int(tensor.shape[1]), values(tensor)};
  return is_transposed ? transposed(stored) : stored;
}

Matrix TensorSet::stacked(const TensorEntry& tensor) const {
  return {int(tensor.shape[0] * tensor.shape[1]), int(tensor.shape[2]), values(tensor)};
}

std::vector<float> TensorSet::vector(const TensorEntry& tensor) const {
  if (tensor.shape.size() != 1 || tensor.shape[0] == 0 || tensor.shape[0] > INT32_MAX)
    fail(tensor, cat("shape: expected one axis, got ", shape_text(tensor.shape)));
  return values(tensor);
}

Matrix TensorSet::parameter(const TensorEntry& tensor) const {
  if (tensor.shape.size() == 1) {
    std::vector<float> row = vector(tensor);
    return {1, int(row.size()), std::move(row)};
  }
  expect_matrix(tensor, "[out, in] or one axis");
  return matrix(tensor);
}

std::map<std::string, ModuleTensors> sort_tensors(const TensorSet& tensors, std::string_view prefix,
                                                  const std::vector<Leaf>& leaves) {
  std::map<std::string, ModuleTensors> modules;
  std::vector<std::string> unknown, foreign;
  for (const TensorEntry& tensor : tensors.entries()) {
    std::string_view name = tensor.name;
    if (!name.starts_with(prefix)) {
      foreign.push_back(tensor.name);
      continue;
    }
    name.remove_prefix(prefix.size());
    const Leaf* leaf = nullptr;
    for (const Leaf& candidate : leaves) {
      if (name.size() > candidate.ending.size() && name.ends_with(candidate.ending)) {
        leaf = &candidate;
        break;
      }
    }
    if (leaf == nullptr) {
      unknown.push_back(tensor.name);
      continue;
    }
    name.remove_suffix(leaf->ending.size());
    if (name.size() > kLongestPath) {
      tensors.fail(tensor, cat("module path: expected at most ", kLongestPath, " bytes, got ", name.size()));
    }
    ModuleTensors& module = modules[std::string(name)];
    const TensorEntry*& part = module.*(leaf->part);
    if (part != nullptr) tensors.fail(tensor, cat("expected one tensor for this, got ", in_quotes(part->name), " too"));
    part = &tensor;
    module.embedding |= leaf->embedding;
  }
  const std::string& where = tensors.where();
  if (!foreign.empty()) {
    throw Error(ErrorCode::bad_file, where,
                cat("names: expected '", prefix, "...', got ", foreign.size(), ": ", list_names(foreign)));
  }
  if (!unknown.empty()) {
    throw Error(
        ErrorCode::bad_file, where,
        cat("tensors that are no part of an adapter: expected none, got ", unknown.size(), ": ", list_names(unknown)));
  }
  if (modules.empty()) throw Error(ErrorCode::bad_file, where, "expected tensors, got none");
  if (modules.size() > kMostModules) {
    throw Error(ErrorCode::bad_file, where, cat("modules: expected at most ", kMostModules, ", got ", modules.size()));
  }
  std::vector<std::string> halves;
  for (const auto& [path, module] : modules) {
    if ((module.a == nullptr) == (module.b == nullptr) && (module.a != nullptr || module.b_bias == nullptr) &&
        (module.a != nullptr || module.magnitude == nullptr)) {
      continue;
    }
    halves.push_back(path);
  }
  if (!halves.empty()) {
    throw Error(
        ErrorCode::bad_file, where,
        cat("half pairs: expected both factors of each module, got one of ", halves.size(), ": ", list_names(halves)));
  }
  return modules;
}

void check_cost(const std::map<std::string, ModuleTensors>& modules, size_t steps, std::string_view where) {
  constexpr size_t kMostSteps = 500'000'000;
  size_t bytes = 0;
  for (const auto& [path, module] : modules) bytes += path.size() + 1;
  if (steps > kMostSteps / bytes) {
    throw Error(ErrorCode::bad_config, where,
                cat("names of modules: too many, or too large patterns, for ", modules.size(), " modules"));
  }
}

}  // namespace bumblebee::lora
