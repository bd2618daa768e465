// MLX's bit streams as bytes: eight consecutive codes (an octet, `bits` bytes) become four even and four odd ones, the
// order in which activations are stored too (digits.h). The same text on host and device, so that it is tested without
// a card.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define BB_BOTH __host__ __device__ __forceinline__
#else
#define BB_BOTH inline
#endif

namespace bumblebee::cuda {

/// Byte j of `even` is code 2j of the octet, byte j of `odd` code 2j + 1.
struct Octet {
  uint32_t even, odd;
};

/// Bytes 0, 2 of a and 0, 2 of b.
BB_BOTH uint32_t even_bytes(uint32_t a, uint32_t b) {
#if defined(__CUDA_ARCH__)
  return __byte_perm(a, b, 0x6420);
#else
  return (a & 0xffu) | ((a >> 8) & 0xff00u) | ((b & 0xffu) << 16) | ((b & 0xff0000u) << 8);
#endif
}

/// Bits [shift, shift + 32) of the 64 that low and high make; shift below 32.
BB_BOTH uint32_t funnel(uint32_t low, uint32_t high, int shift) {
#if defined(__CUDA_ARCH__)
  return __funnelshift_r(low, high, shift);
#else
  return shift == 0 ? low : (low >> shift) | (high << (32 - shift));
#endif
}

/// Codes 0..7 from the low `bits` bytes of `low` and `high`; what lies above them may be anything.
template <int Bits>
BB_BOTH Octet unpack_octet(uint32_t low, uint32_t high) {
  static_assert(Bits == 2 || Bits == 3 || Bits == 4 || Bits == 5 || Bits == 6 || Bits == 8);
  constexpr uint32_t kMask = ((1u << Bits) - 1u) * 0x01010101u;
  if constexpr (Bits == 4) return {low & kMask, (low >> 4) & kMask};
  if constexpr (Bits == 8) return {even_bytes(low, high), even_bytes(low >> 8, high >> 8)};
  if constexpr (Bits < 4) {  // a pair of codes fits a byte: four pairs are spread to four bytes, then split
    constexpr uint32_t kPair = (1u << (2 * Bits)) - 1u, kPairs = (1u << (4 * Bits)) - 1u;
    const uint32_t halves = (low & kPairs) | ((low << (16 - 4 * Bits)) & (kPairs << 16));
    const uint32_t pairs = (halves & (kPair * 0x00010001u)) | ((halves << (8 - 2 * Bits)) & (kPair * 0x01000100u));
    return {pairs & kMask, (pairs >> Bits) & kMask};
  } else {  // a pair of codes fits half a word
    constexpr uint32_t kPair = (1u << (2 * Bits)) - 1u;
    const uint32_t upper = funnel(low, high, (4 * Bits) % 32);
    const uint32_t a = (low & kPair) | ((low << (16 - 2 * Bits)) & (kPair << 16));
    const uint32_t b = (upper & kPair) | ((upper << (16 - 2 * Bits)) & (kPair << 16));
    return {even_bytes(a, b) & kMask, even_bytes(a >> Bits, b >> Bits) & kMask};
  }
}

}  // namespace bumblebee::cuda
