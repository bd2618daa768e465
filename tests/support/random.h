// Test data from a seed: the same on every machine, whatever the standard library.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace bumblebee::testing_support {

/// A seed from a name, so that a case has its own stream and keeps it when others are added.
uint64_t seed_of(std::string_view name);

/// A matrix of f32, row-major.
struct HostMatrix {
  int rows = 0, cols = 0;
  std::vector<float> values;
  const float* row(int r) const { return values.data() + size_t(r) * size_t(cols); }
};

class Random {
 public:
  explicit Random(uint64_t seed) : seed_(seed) {}
  double uniform(double low, double high);
  double normal(double deviation);
  /// From low to high, both possible.
  int integer(int low, int high);
  std::vector<float> normals(size_t count, double deviation);
  /// 0..count-1 in random order.
  std::vector<int32_t> permutation(int count);

 private:
  uint64_t seed_, next_ = 0;
};

}  // namespace bumblebee::testing_support
