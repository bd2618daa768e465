// How work is divided among threads: the one formula that loops and the placement of memory share.
#pragma once

#include <algorithm>
#include <cstdint>

namespace bumblebee {

/// Indices [first, last).
struct Range {
  int64_t first = 0, last = 0;
  int64_t size() const { return last - first; }
  bool operator==(const Range&) const = default;
};

/// What parts [first, last) of `parts` take of [0, count): whole multiples of `grain`, but for the end of the last.
/// Neighbours meet, and parts differ by at most one grain.
inline Range share(int64_t count, int64_t grain, int64_t first, int64_t last, int64_t parts) {
  const int64_t units = (count + grain - 1) / grain;
  return {std::min(count, units * first / parts * grain), std::min(count, units * last / parts * grain)};
}

}  // namespace bumblebee
