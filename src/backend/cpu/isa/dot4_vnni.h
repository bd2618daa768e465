// Sums of four u8·s8 products per 32-bit lane in one instruction.
#pragma once

inline __m256i dot4(__m256i u, __m256i s) { return _mm256_dpbusd_epi32(_mm256_setzero_si256(), u, s); }
