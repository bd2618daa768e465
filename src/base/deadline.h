// Moments that lie a time ahead, whatever time a caller names.
#pragma once

#include <algorithm>
#include <chrono>

namespace bumblebee {

/// What is longer counts as this: milliseconds::max() from now is beyond the clock's last moment.
inline constexpr std::chrono::milliseconds kLongestWait = std::chrono::hours(24 * 365);

inline std::chrono::steady_clock::time_point from_now(std::chrono::milliseconds time) {
  return std::chrono::steady_clock::now() + std::clamp(time, std::chrono::milliseconds(0), kLongestWait);
}

}  // namespace bumblebee
