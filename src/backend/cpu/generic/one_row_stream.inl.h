// One row of x reads one weight row after the other: processors that follow a stream as fast as memory gives it.
#pragma once

inline constexpr int kRowStreams = 1;
inline constexpr size_t kStreamAhead = 0;
