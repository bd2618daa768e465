// Loops that are unrolled before the compiler decides what lives in registers: arrays of vectors indexed by plain loops
// would stay in memory. Included first inside an instruction set's own namespace.
#pragma once

#define BB_INLINE inline __attribute__((always_inline))
#define BB_BODY(...) [&](auto __VA_ARGS__) __attribute__((always_inline))

template <int I>
struct Index {
  constexpr operator int() const { return I; }  // NOLINT: an int that is known when compiling
};

/// body(0), body(1), ... body(N - 1)
template <int N, int I = 0, class Body>
BB_INLINE void unroll(const Body& body) {
  if constexpr (I < N) {
    body(Index<I>());
    unroll<N, I + 1>(body);
  }
}
