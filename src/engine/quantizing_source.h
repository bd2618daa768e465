// Weight sources that stand before a checkpoint: one writes down what a model takes from it, one quantizes dense
// matrices on the way.
#pragma once

#include <vector>

#include "base/thread_pool.h"
#include "bumblebee/model.h"
#include "quant/weight_source.h"

namespace bumblebee::engine {

/// Passes everything on and remembers the matrices that were claimed, and the bytes of all tensors.
class RecordingSource final : public WeightSource {
 public:
  explicit RecordingSource(WeightSource& source) : source_(source) {}
  HostWeight matrix(const std::string& path, int out, int in) override;
  HostWeight vector(const std::string& name, int size) override;
  bool has(const std::string& name) const override { return source_.has(name); }
  void ignore(const std::string& name) override { source_.ignore(name); }
  std::vector<std::string> unclaimed() const override { return source_.unclaimed(); }

  const std::vector<ModuleInfo>& modules() const { return modules_; }
  uint64_t parameters() const { return parameters_; }
  uint64_t bytes() const { return bytes_; }

 private:
  WeightSource& source_;
  std::vector<ModuleInfo> modules_;
  uint64_t parameters_ = 0, bytes_ = 0;
};

/// Quantizes dense matrices whose rows are whole groups, as mlx-lm's convert does (others stay dense). Without a pool
/// it only says which format they would get, and reads nothing.
class QuantizingSource final : public WeightSource {
 public:
  QuantizingSource(WeightSource& source, int bits, int group, ThreadPool* pool)
      : source_(source), bits_(bits), group_(group), pool_(pool) {}
  HostWeight matrix(const std::string& path, int out, int in) override;
  HostWeight vector(const std::string& name, int size) override { return source_.vector(name, size); }
  bool has(const std::string& name) const override { return source_.has(name); }
  void ignore(const std::string& name) override { source_.ignore(name); }
  std::vector<std::string> unclaimed() const override { return source_.unclaimed(); }

 private:
  WeightSource& source_;
  int bits_, group_;
  ThreadPool* pool_;
};

}  // namespace bumblebee::engine
