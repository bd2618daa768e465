// Where a model's weights come from, as the loader sees it. io implements this for safetensors checkpoints; tests
// implement it in memory.
#pragma once

#include <string>
#include <vector>

#include "quant/format.h"

namespace bumblebee {

class WeightSource {
 public:
  virtual ~WeightSource() = default;

  /// The matrix [out, in] of module `path` (its `.weight`, with `.scales` and `.biases` when quantized), claimed.
  /// Throws Error(bad_file or bad_config) when it is missing, misshapen, or half of its parts are.
  virtual HostWeight matrix(const std::string& path, int out, int in) = 0;

  /// A stack of `experts` such matrices, [experts, out, in] under one name, claimed. Throws like matrix().
  virtual HostWeight experts(const std::string& path, int experts, int out, int in) = 0;

  /// The same for a product of each head of attention: none of them is chosen, all are read.
  virtual HostWeight heads(const std::string& path, int heads, int out, int in) {
    return experts(path, heads, out, in);
  }

  /// The float vector [size] stored under the full name `name` (for instance `model.norm.weight`), claimed, as a dense
  /// HostWeight with out = 1. Throws like matrix().
  virtual HostWeight vector(const std::string& name, int size) = 0;

  /// `count` such vectors, stored as [count, size] under one name; out = 1, in = count·size. Throws like matrix().
  virtual HostWeight vectors(const std::string& name, int count, int size) = 0;
  /// The weights of a convolution of columns apart, stored under the full name as [cols, kernel, 1] or, `by_torch`, as
  /// [cols, 1, kernel], claimed, as a dense HostWeight [cols, kernel]. Throws like matrix().
  virtual HostWeight depthwise(const std::string& name, int cols, int kernel, bool& by_torch) = 0;

  /// Whether a tensor of this full name exists.
  virtual bool has(const std::string& name) const = 0;
  /// Whether there is a weight of the module, whatever its tensors are called.
  virtual bool has_module(const std::string& path) const { return has(path + ".weight"); }

  /// Marks a tensor as known and not needed (for instance a stray `lm_head.weight` of a tied model); absent is fine.
  virtual void ignore(const std::string& name) = 0;

  /// The same for all whose names begin so; unclaimed() notes them.
  virtual void leave_out(const std::string& prefix) = 0;

  /// Names nobody asked for.
  virtual std::vector<std::string> unclaimed() const = 0;
};

}  // namespace bumblebee
