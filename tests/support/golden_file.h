// Reads the safetensors files under tests/data/goldens without the io layer, so that kernel tests need nothing above
// the backends and io is not judged by itself. Trusts its input: goldens are ours.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tensor/dtype.h"

namespace bumblebee::testing_support {

struct GoldenTensor {
  DType dtype = DType::f32;
  std::vector<int> shape;
  std::span<const std::byte> bytes;

  size_t size() const;
  int rows() const { return shape.size() < 2 ? 1 : shape[0]; }
  int cols() const { return shape.empty() ? 1 : shape.back(); }
  /// All elements, exactly, whatever the stored type (floats and 32-bit integers).
  std::vector<double> doubles() const;
  std::vector<float> floats() const;
  std::vector<int32_t> ints() const;
};

class GoldenFile {
 public:
  /// `name` is relative to tests/data/goldens. Throws std::runtime_error when it cannot be read.
  explicit GoldenFile(const std::string& name);
  /// Throws when there is no such tensor.
  const GoldenTensor& at(const std::string& name) const;
  bool has(const std::string& name) const { return tensors_.contains(name); }
  const std::map<std::string, GoldenTensor>& tensors() const { return tensors_; }
  const std::string& metadata(const std::string& key) const;
  const std::shared_ptr<const std::string>& keep() const { return file_; }

 private:
  std::string name_;
  std::shared_ptr<const std::string> file_;
  std::map<std::string, GoldenTensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

/// Absolute path of a file or folder under tests/data/goldens.
std::string golden_path(const std::string& name);

}  // namespace bumblebee::testing_support
