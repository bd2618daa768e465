// Codes of 2, 3, 5 and 6 bits as bytes, 32 at a time, with AVX2 (the AVX-512 sets use it too). Included inside an
// instruction set's own namespace after its simd header.
#pragma once

/// For eight codes in BITS bytes: which two bytes hold code j, and the factor that brings its last bit to the top.
template <int BITS>
struct UnpackTables {
  alignas(32) uint8_t low[32] = {}, high[32] = {};  // of codes 0..7 and 8..15 of each 16
  alignas(32) uint16_t factor[16] = {};
  constexpr UnpackTables() {
    for (int i = 0; i < 16; ++i) {
      const int j = i % 8, byte = j * BITS / 8, shift = j * BITS % 8;
      for (int half = 0; half < 2; ++half) {
        low[2 * i + half] = uint8_t(byte + half);
        high[2 * i + half] = uint8_t(byte + half + BITS);
      }
      factor[i] = uint16_t(1u << (16 - BITS - shift));
    }
  }
};
template <int BITS>
inline constexpr UnpackTables<BITS> kUnpackTables;

inline constexpr bool kUnpacks32 = true;
/// 32 codes; reads 2·BITS + 16 bytes.
template <int BITS>
inline void store_codes32(uint8_t* out, const uint8_t* p) {
  const auto bytes = [](const uint8_t* at) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at)); };
  const auto table = [](const void* at) { return _mm256_load_si256(static_cast<const __m256i*>(at)); };
  const UnpackTables<BITS>& t = kUnpackTables<BITS>;
  const __m256i both = _mm256_set_m128i(bytes(p + 2 * BITS), bytes(p)), factor = table(t.factor);
  const auto codes = [&](const uint8_t* order) {
    return _mm256_srli_epi16(_mm256_mullo_epi16(_mm256_shuffle_epi8(both, table(order)), factor), 16 - BITS);
  };
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_packus_epi16(codes(t.low), codes(t.high)));
}
