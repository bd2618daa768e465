// Kernels for x86-64 with AVX-512 F, BW, DQ and VL (Skylake server and later).
#include <immintrin.h>

#include "backend/cpu/kernels.h"

#define KERNEL_SET "avx512"

namespace bumblebee::cpu {
namespace avx512 {
// Each builds on those before it.
// clang-format off
#include "backend/cpu/generic/unroll.inl.h"
#include "backend/cpu/generic/scalars.inl.h"
#include "backend/cpu/isa/simd_avx512.h"
#include "backend/cpu/generic/matmul.inl.h"
#include "backend/cpu/generic/elementwise.inl.h"
#include "backend/cpu/isa/int_avx512.h"
#include "backend/cpu/isa/dot_avx512.h"
#include "backend/cpu/generic/wide_dot.inl.h"
#include "backend/cpu/isa/unpack_avx2.h"
#include "backend/cpu/generic/codes.inl.h"
#include "backend/cpu/generic/quant_layout.inl.h"
#include "backend/cpu/generic/outliers_in_place.inl.h"
#include "backend/cpu/generic/quantize.inl.h"
#include "backend/cpu/generic/int8.inl.h"
#include "backend/cpu/isa/int8_row_dot_avx512.h"
#include "backend/cpu/isa/int8_row_dot_avx512_in_place.h"
#include "backend/cpu/generic/int8_direct.inl.h"
#include "backend/cpu/generic/int8_panel.inl.h"
#include "backend/cpu/generic/attention.inl.h"
#include "backend/cpu/generic/bf16_dot.inl.h"
#include "backend/cpu/generic/lora.inl.h"
#include "backend/cpu/generic/grad.inl.h"
#include "backend/cpu/generic/no_bf16_gemm.inl.h"
#include "backend/cpu/generic/table.inl.h"
// clang-format on
}  // namespace avx512

const Kernels& avx512_kernels() { return avx512::kTable; }

}  // namespace bumblebee::cpu
