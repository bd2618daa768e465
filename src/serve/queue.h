// The serving's queue as the head of a request sees it: whether it is full, and when it is worth asking again. Pure
// logic over one look at the serving's counters.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "bumblebee/serving.h"

namespace bumblebee::serve {

/// As the engine counts: what runs and waits together, since one may wait for a moment though it can run.
struct QueueLimits {
  int64_t most_requests = 0, max_waiting_tokens = 0;

  /// Where nothing waits, tokens refuse nobody.
  bool full(const text::ServingStats& stats) const {
    return int64_t(stats.running) + stats.waiting >= most_requests ||
           (stats.waiting_tokens > 0 && stats.waiting_tokens >= max_waiting_tokens);
  }
};

/// Seconds until what waits now has had its turn, at the pace of the last seconds: 1 to 60.
inline int retry_after(const text::ServingStats& stats, double ends_per_second) {
  const double waiting = stats.waiting + 1;
  return int(std::clamp(std::ceil(waiting / std::max(ends_per_second, 1e-3)), 1.0, 60.0));
}

}  // namespace bumblebee::serve
