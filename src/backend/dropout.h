// The mask of GradOps::dropout, element by element: what every backend computes, however it does.
#pragma once

#include "backend/grad_ops.h"
#include "base/rng.h"

namespace bumblebee {

/// An element is dropped when its bits are below this.
inline uint32_t dropout_threshold(float p) {
  BB_CHECK(p >= 0 && p < 1, "p ", p);
  const auto steps = uint32_t(double(p) * 65536 + 0.5);
  return steps < 65536 ? steps : 65535;
}

/// What an element that stays is multiplied by, so that the expectation is x.
inline float dropout_scale(uint32_t threshold) { return float(65536.0 / (65536.0 - double(threshold))); }

/// 16 random bits for element `index`. Eight elements share a counter, those 16 apart within 128: sixteen counters
/// side by side then give runs of sixteen elements.
inline uint32_t dropout_bits(const DropoutKey& key, uint64_t index) {
  const uint64_t counter = index / 128 * 16 + index % 16;
  const auto words = philox(key.seed, counter, uint64_t{key.site} << 32 | key.step);
  const uint32_t eighth = uint32_t(index % 128 / 16);
  return words[eighth / 2] >> 16 * (eighth % 2) & 0xffffu;
}

}  // namespace bumblebee
