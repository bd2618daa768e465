// The tensors of one adapter file, checked one by one as they are taken: types, axes, sizes, finite values. Internal to
// the readers.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "io/safetensors.h"
#include "lora/adapter.h"

namespace bumblebee::lora {

inline constexpr size_t kMostModules = 65536;
inline constexpr size_t kLongestPath = 256;

class TensorSet {
 public:
  explicit TensorSet(std::shared_ptr<const SafetensorsFile> file) : file_(std::move(file)) {}

  const std::vector<TensorEntry>& entries() const { return file_->tensors(); }
  const std::string& where() const { return file_->where(); }

  /// Throws Error(bad_file) "tensor 'x': what" in this file.
  [[noreturn]] void fail(const TensorEntry& tensor, std::string_view what) const;

  /// Two axes, both at least 1; `axes` names them for messages ("[in, rank]"). Three axes are refused as experts.
  void expect_matrix(const TensorEntry& tensor, std::string_view axes) const;
  /// Three axes, each at least 1.
  void expect_stack(const TensorEntry& tensor, std::string_view axes) const;
  /// f32 values of a matrix, as stored or transposed. Throws for other types and for values that are not finite.
  Matrix matrix(const TensorEntry& tensor, bool is_transposed = false) const;
  /// The same of a stack of matrices, one below the other.
  Matrix stacked(const TensorEntry& tensor) const;
  /// f32 values of a tensor of one axis.
  std::vector<float> vector(const TensorEntry& tensor) const;
  /// A whole parameter: a matrix, or a vector as [1, size].
  Matrix parameter(const TensorEntry& tensor) const;

 private:
  std::vector<float> values(const TensorEntry& tensor) const;

  std::shared_ptr<const SafetensorsFile> file_;
};

/// The tensors of one module, as a file's names group them.
struct ModuleTensors {
  const TensorEntry *a = nullptr, *b = nullptr, *b_bias = nullptr, *magnitude = nullptr, *weight = nullptr,
                    *bias = nullptr;
  bool embedding = false;  // by the tensors' names (PEFT)
};

/// What a tensor's name ends in, and which tensor of a module that is.
struct Leaf {
  std::string_view ending;
  const TensorEntry* ModuleTensors::*part;
  bool embedding = false;
};

/// Sorts a file's tensors into modules by the endings of their names, after taking `prefix` away. Throws
/// Error(bad_file) listing the names that have no known ending or lack the prefix, half pairs, and two tensors for one
/// part; naming the file when there is no tensor at all, or more modules or longer paths than any model has.
std::map<std::string, ModuleTensors> sort_tensors(const TensorSet& tensors, std::string_view prefix,
                                                  const std::vector<Leaf>& leaves);

/// Throws Error(bad_config) when matching every module's path, at `steps` per byte, would take longer than about a
/// second.
void check_cost(const std::map<std::string, ModuleTensors>& modules, size_t steps, std::string_view where);

}  // namespace bumblebee::lora
