// Kernels for 64-bit ARM.
#include <arm_neon.h>

#define BB_ISA neon
#define BB_ISA_SIMD "backend/cpu/isa/simd_neon.h"
#define BB_ISA_INT "backend/cpu/isa/int_neon.h"
#define BB_ISA_DOT "backend/cpu/isa/dot_neon.h"
#define BB_ISA_ROW_DOT "backend/cpu/isa/int8_row_dot_neon.h"
#include "backend/cpu/generic/kernels.inl.h"
