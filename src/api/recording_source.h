// A weight source that writes down what a model takes from a checkpoint.
#pragma once

#include <string>
#include <vector>

#include "bumblebee/model.h"
#include "quant/weight_source.h"

namespace bumblebee::api {

/// Passes everything on and remembers the matrices that were claimed, and the bytes of all tensors.
class RecordingSource final : public WeightSource {
 public:
  explicit RecordingSource(WeightSource& source) : source_(source) {}
  HostWeight matrix(const std::string& path, int out, int in) override;
  HostWeight experts(const std::string& path, int experts, int out, int in) override;
  HostWeight heads(const std::string& path, int heads, int out, int in) override;
  HostWeight vector(const std::string& name, int size) override;
  HostWeight vectors(const std::string& name, int count, int size) override;
  HostWeight depthwise(const std::string& name, int cols, int kernel, bool& by_torch) override;
  bool has(const std::string& name) const override { return source_.has(name); }
  bool has_module(const std::string& path) const override { return source_.has_module(path); }
  void ignore(const std::string& name) override { source_.ignore(name); }
  void leave_out(const std::string& prefix) override { source_.leave_out(prefix); }
  std::vector<std::string> unclaimed() const override { return source_.unclaimed(); }

  const std::vector<ModuleInfo>& modules() const { return modules_; }
  uint64_t parameters() const { return parameters_; }
  uint64_t bytes() const { return bytes_; }

 private:
  void record(const std::string& path, const HostWeight& weight);
  WeightSource& source_;
  std::vector<ModuleInfo> modules_;
  uint64_t parameters_ = 0, bytes_ = 0;
};

}  // namespace bumblebee::api
