// Kernels for x86-64 with AVX2 and AVX-VNNI but without AVX-512 (Alder Lake, Sierra Forest and later).
#include <immintrin.h>

#define BB_ISA avx2_vnni
#define BB_ISA_SIMD "backend/cpu/isa/simd_avx2.h"
#define BB_ISA_INT "backend/cpu/isa/int_avx2.h"
#define BB_ISA_DOT "backend/cpu/isa/dot_avx_vnni.h"
#define BB_ISA_ROW_DOT "backend/cpu/isa/int8_row_dot_avx_vnni.h"
#define BB_ISA_TILED_ROWS "backend/cpu/isa/int8_stream_avx2.h"
#include "backend/cpu/generic/kernels.inl.h"
