// Kernels for any processor.
#define BB_ISA scalar
#define BB_ISA_SIMD "backend/cpu/isa/simd_scalar.h"
#define BB_ISA_INT "backend/cpu/isa/int_scalar.h"
#define BB_ISA_DOT "backend/cpu/isa/dot_scalar.h"
#define BB_ISA_ROW_DOT "backend/cpu/isa/int8_row_dot_scalar.h"
#include "backend/cpu/generic/kernels.inl.h"
