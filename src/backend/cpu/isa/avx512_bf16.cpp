// Kernels for x86-64 with AVX-512 with VNNI, BF16, VBMI and GFNI (Sapphire Rapids, Zen 4 and later).
#include <immintrin.h>

#define BB_ISA avx512_bf16
#define BB_ISA_SIMD "backend/cpu/isa/simd_avx512.h"
#define BB_ISA_INT "backend/cpu/isa/int_avx512.h"
#define BB_ISA_DOT "backend/cpu/isa/dot_vnni.h"
#define BB_ISA_ROW_DOT "backend/cpu/isa/int8_row_dot_vbmi.h"
#define BB_ISA_LOOKUP "backend/cpu/isa/lookup_vbmi.h"
#define BB_ISA_OUTLIERS "backend/cpu/isa/outliers_vbmi.h"
#define BB_ISA_BF16_DOT "backend/cpu/isa/bf16_dot_avx512.h"
#define BB_ISA_BF16_GEMM "backend/cpu/isa/bf16_gemm_avx512.h"
#define BB_ISA_TILED_ROWS "backend/cpu/isa/int8_stream_vnni.h"
#include "backend/cpu/generic/kernels.inl.h"
