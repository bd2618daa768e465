// Fisher-Yates with the counter-based generator: the order is a function of seed and epoch alone.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "base/rng.h"

namespace bumblebee::dataset {

/// What is shuffled, so that no two uses of one seed share their numbers.
enum class ShuffleOf : uint64_t { batches = 0x6261746368, packs = 0x7061636B73, posts = 0x706F737473 };

template <class T>
void shuffle(std::vector<T>& list, uint64_t seed, uint64_t epoch, ShuffleOf use) {
  for (size_t i = list.size(); i > 1; --i) {
    const auto words = philox(seed ^ uint64_t(use), i, epoch);
    const uint64_t random = uint64_t{words[0]} << 32 | words[1];
    // Lemire's multiplication: uniform in [0, i) but for a bias below i / 2^64.
    const auto other = size_t((static_cast<unsigned __int128>(random) * i) >> 64);
    std::swap(list[i - 1], list[other]);
  }
}

}  // namespace bumblebee::dataset
