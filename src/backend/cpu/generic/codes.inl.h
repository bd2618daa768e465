// How the int8 products take codes, apart from their width. Four bits are used as they lie, two to a byte; eight bits
// too, one to a byte; every other width is unpacked to bytes on the way, and then goes the way of bytes. Codes of
// floats of four bits become whole numbers through a table in low() and high().
// Included inside an instruction set's own namespace after its int and dot headers.
#pragma once

/// Even inputs are the low halves of bytes, odd ones the high halves.
struct NibbleCodes {
  static constexpr bool kNibbles = true;
  static constexpr int kBits = 4;
  static constexpr int kChunkInputs = kNibbleChunk;  // of 64 bytes
  static constexpr bool kFloats = false;
  static I32x16 low(I32x16 line) { return low_nibbles(line); }
  static I32x16 high(I32x16 line) { return high_nibbles(line); }
};

/// The same with e2m1, as whole numbers from 0 to 24.
struct E2m1Codes {
  static constexpr bool kNibbles = true;
  static constexpr int kBits = kE2m1Bits;
  static constexpr int kChunkInputs = kNibbleChunk;
  static constexpr bool kFloats = true;
  static I32x16 low(I32x16 line) { return lookup_low(kE2m1Bytes, line); }
  static I32x16 high(I32x16 line) { return lookup_high(kE2m1Bytes, line); }
};

/// Bytes in the order of inputs. NARROW ones hold codes of kNarrowBits bits at most, others any.
template <bool NARROW>
struct ByteCodes {
  static constexpr bool kNibbles = false;
  static constexpr int kBits = NARROW ? kNarrowBits : 8;
  static constexpr int kChunkInputs = 64;
  static constexpr bool kFloats = false;
};

inline bool used_as_they_lie(int bits) { return bits == 4 || bits == 8; }

template <int BITS>
inline void unpack_bits(const uint8_t* p, int count, uint8_t* out) {
  int i = 0;
  if constexpr (kUnpacks32) {
    for (; i + 16 + 128 / BITS <= count; i += 32) store_codes32<BITS>(out + i, p + size_t(i) * BITS / 8);
  }
  for (; i < count; i += 16) store_codes<BITS>(out + i, p + size_t(i) * BITS / 8);
}

/// `count` codes (a multiple of 16) as bytes.
[[gnu::noinline]] inline void unpack_codes(const uint8_t* p, int bits, int count, uint8_t* out) {
  switch (bits) {
    case 2: return unpack_bits<2>(p, count, out);
    case 3: return unpack_bits<3>(p, count, out);
    case 5: return unpack_bits<5>(p, count, out);
    case 6: return unpack_bits<6>(p, count, out);
    default: __builtin_memcpy(out, p, size_t(count) * size_t(bits) / 8);
  }
}

template <bool WIDE>
struct DotChoice {
  using Type = Dot;
};
template <>
struct DotChoice<true> {
  using Type = WideDot;
};
/// The dot product that takes codes of so many bits.
template <int BITS>
using DotOf = typename DotChoice<(BITS > Dot::kBits)>::Type;
