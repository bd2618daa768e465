// Weights without files: matrices that own their bytes, and a WeightSource over a map of them, as strict as a
// checkpoint.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "quant/affine.h"
#include "quant/float_codes.h"
#include "quant/weight_source.h"
#include "tests/support/random.h"

namespace bumblebee::testing_support {

/// Where the bytes of a weight begin relative to an aligned address; a mapped file promises nothing.
struct Misalignment {
  size_t codes = 0, scales = 0, biases = 0;
};

/// Copies `bytes` to `shift` past a multiple of eight, with an unmapped page at the first multiple of eight behind
/// them: a kernel that reads further dies. (In a file, nothing may follow.)
std::span<const std::byte> place(std::span<const std::byte> bytes, size_t shift, std::shared_ptr<void>& keep);

/// W [out, in] of normal numbers rounded to `dtype`.
HostWeight random_dense(Random& random, int out, int in, DType dtype, double deviation, Misalignment shift = {});

/// W [out, in] with uniformly random codes (every code occurs), scales of both signs and biases that centre most groups
/// on zero.
HostWeight random_affine(Random& random, int out, int in, const Format& format, double deviation,
                         Misalignment shift = {});

/// W [out, in] of float codes, with groups of different sizes and codes near zero; without global scales.
HostWeight random_floats(Random& random, int out, int in, const Format& format, double deviation,
                         Misalignment shift = {});

/// One of them, as `format` says.
HostWeight random_weight(Random& random, int out, int in, const Format& format, double deviation,
                         Misalignment shift = {});

/// f32 values as a dense weight [out, in] of another type (rounded), or quantized the way MLX's CPU does it.
HostWeight dense_weight(std::span<const float> values, int out, int in, DType dtype, Misalignment shift = {});

class MemoryWeights : public WeightSource {
 public:
  /// `path` is a module, without `.weight`.
  void add_matrix(const std::string& path, HostWeight weight);
  /// `weight` [experts·out, in] as a stack.
  void add_stack(const std::string& path, HostWeight weight, int experts);
  /// `name` is the full name.
  void add_vector(const std::string& name, HostWeight vector);
  /// `weight` [cols, kernel]; as it would be stored by_torch or not.
  void add_depthwise(const std::string& name, HostWeight weight, bool by_torch);
  void remove(const std::string& name_or_path);

  HostWeight matrix(const std::string& path, int out, int in) override;
  HostWeight experts(const std::string& path, int experts, int out, int in) override;
  HostWeight vector(const std::string& name, int size) override;
  HostWeight vectors(const std::string& name, int count, int size) override { return vector(name, count * size); }
  HostWeight depthwise(const std::string& name, int cols, int kernel, bool& by_torch) override;
  bool has(const std::string& name) const override;
  void ignore(const std::string& name) override;
  void leave_out(const std::string& prefix) override;
  std::vector<std::string> unclaimed() const override;
  /// Forgets what was claimed: the same weights may be loaded again.
  void rewind() { claimed_.clear(); }

 private:
  const HostWeight& claim(const std::string& name, const std::map<std::string, HostWeight>& from);
  std::map<std::string, HostWeight> matrices_, vectors_;
  std::set<std::string> by_torch_;
  std::set<std::string> claimed_;
};

}  // namespace bumblebee::testing_support
