// A weight source that stands before a checkpoint and quantizes its dense matrices on the way.
#pragma once

#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "io/hf_config.h"
#include "quant/weight_source.h"

namespace bumblebee {

/// Quantizes dense matrices whose rows are whole groups, as mlx-lm's convert does (others stay dense). Without a pool
/// it only says which format they would get, and reads nothing.
class QuantizingSource final : public WeightSource {
 public:
  QuantizingSource(WeightSource& source, const HfConfig& config, int bits, int group, ThreadPool* pool)
      : source_(source), config_(config), bits_(bits), group_(group), pool_(pool) {}
  HostWeight matrix(const std::string& path, int out, int in) override;
  HostWeight experts(const std::string& path, int experts, int out, int in) override;
  HostWeight vector(const std::string& name, int size) override { return source_.vector(name, size); }
  HostWeight vectors(const std::string& name, int count, int size) override {
    return source_.vectors(name, count, size);
  }
  HostWeight depthwise(const std::string& name, int cols, int kernel, bool& by_torch) override {
    return source_.depthwise(name, cols, kernel, by_torch);
  }
  bool has(const std::string& name) const override { return source_.has(name); }
  bool has_module(const std::string& path) const override { return source_.has_module(path); }
  void ignore(const std::string& name) override { source_.ignore(name); }
  void leave_out(const std::string& prefix) override { source_.leave_out(prefix); }
  std::vector<std::string> unclaimed() const override { return source_.unclaimed(); }

 private:
  HostWeight quantized(const std::string& path, HostWeight dense) const;
  WeightSource& source_;
  const HfConfig& config_;
  int bits_, group_;
  ThreadPool* pool_;
};

}  // namespace bumblebee
