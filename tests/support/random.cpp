// Philox streams shaped into what tests need.
#include "tests/support/random.h"

#include <cmath>
#include <numbers>
#include <numeric>
#include <utility>

#include "base/rng.h"

namespace bumblebee::testing_support {

uint64_t seed_of(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const char c : name) hash = (hash ^ uint8_t(c)) * 0x100000001b3u;
  return hash;
}

double Random::uniform(double low, double high) { return low + (high - low) * uniform01(seed_, next_++); }

double Random::normal(double deviation) {
  const double radius = std::sqrt(-2 * std::log(1 - uniform(0, 1)));
  return deviation * radius * std::cos(2 * std::numbers::pi * uniform(0, 1));
}

int Random::integer(int low, int high) { return low + int(uniform(0, 1) * (double(high) - low + 1)); }

std::vector<float> Random::normals(size_t count, double deviation) {
  std::vector<float> values(count);
  for (float& v : values) v = float(normal(deviation));
  return values;
}

std::vector<int32_t> Random::permutation(int count) {
  std::vector<int32_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  for (int i = count - 1; i > 0; --i) std::swap(order[size_t(i)], order[size_t(integer(0, i))]);
  return order;
}

}  // namespace bumblebee::testing_support
