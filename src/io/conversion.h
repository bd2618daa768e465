// What the converters share: how they tell about progress, and what they report at the end.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace bumblebee {

/// Called from the converting thread after each piece of work; counts are bytes of the source.
using ConversionProgress = std::function<void(std::string_view tensor, uint64_t done, uint64_t total)>;

/// What became of one tensor.
struct TensorReport {
  std::string name;    // in the written checkpoint: a module path for quantized ones, else the tensor's full name
  std::string source;  // "Q4_1", "bf16", "affine 4-bit group 64 (bf16)"
  std::string target;  // "affine 4-bit group 32 (f16)", "f16"
  bool exact = true;   // every weight has the value it had
  double largest_error = 0;
  uint64_t bytes = 0;  // written
};

struct ConversionReport {
  std::vector<TensorReport> tensors;
  std::vector<std::string> notes;  // what was left out or left as it was, and why
  uint64_t bytes = 0;              // of weights written
};

}  // namespace bumblebee
