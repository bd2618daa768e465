// Of one row of x, on processors with AMX: one core reads a single stream at 11 to 14 GB/s, and four of them, in pages
// of their own, at 15 to 19. Measured in docs/internals/performance.md. Included after BB_ISA_ROW_DOT.
#pragma once

inline constexpr int kRowStreams = 4;
/// Bytes ahead of each stream's reads.
inline constexpr size_t kStreamAhead = 2048;
