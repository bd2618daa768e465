// A counter-based random generator (Philox 4x32-10, Salmon et al. 2011): the number is a pure function of key and
// counter, so a request repeats in any batch and a resumed training run continues bit for bit.
#pragma once

#include <array>
#include <cstdint>

namespace bumblebee {

/// Four random words for (key, counter).
inline std::array<uint32_t, 4> philox(uint64_t key, uint64_t counter_low, uint64_t counter_high = 0) {
  std::array<uint32_t, 4> c = {uint32_t(counter_low), uint32_t(counter_low >> 32), uint32_t(counter_high),
                               uint32_t(counter_high >> 32)};
  uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * c[2];
    c = {uint32_t(p1 >> 32) ^ c[1] ^ k0, uint32_t(p1), uint32_t(p0 >> 32) ^ c[3] ^ k1, uint32_t(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

/// A uniform double in [0, 1) with 53 random bits.
inline double uniform01(uint64_t key, uint64_t counter_low, uint64_t counter_high = 0) {
  const auto r = philox(key, counter_low, counter_high);
  return double(((uint64_t{r[0]} << 32 | r[1]) >> 11)) * 0x1p-53;
}

}  // namespace bumblebee
