// Kernels for x86-64 with AVX-512 with VNNI (Cascade Lake, Ice Lake, Zen 4 and later).
#include <immintrin.h>

#define BB_ISA avx512_vnni
#define BB_ISA_SIMD "backend/cpu/isa/simd_avx512.h"
#define BB_ISA_INT "backend/cpu/isa/int_avx512.h"
#define BB_ISA_DOT "backend/cpu/isa/dot_vnni.h"
#define BB_ISA_ROW_DOT "backend/cpu/isa/int8_row_dot_avx512_in_place.h"
#define BB_ISA_TILED_ROWS "backend/cpu/isa/int8_stream_vnni.h"
#include "backend/cpu/generic/kernels.inl.h"
