// Kernels for x86-64 with AVX-512 with VNNI, BF16 and VBMI (Sapphire Rapids, Zen 4 and later).
#include <immintrin.h>

#include "backend/cpu/kernels.h"

#define KERNEL_SET "avx512_bf16"

namespace bumblebee::cpu {
namespace avx512_bf16 {
// Each builds on those before it.
// clang-format off
#include "backend/cpu/generic/unroll.inl.h"
#include "backend/cpu/generic/scalars.inl.h"
#include "backend/cpu/isa/simd_avx512.h"
#include "backend/cpu/generic/matmul.inl.h"
#include "backend/cpu/generic/elementwise.inl.h"
#include "backend/cpu/isa/int_avx512.h"
#include "backend/cpu/isa/dot_vnni.h"
#include "backend/cpu/isa/unpack_avx2.h"
#include "backend/cpu/generic/codes.inl.h"
#include "backend/cpu/generic/quant_layout.inl.h"
#include "backend/cpu/isa/outliers_vbmi.h"
#include "backend/cpu/generic/quantize.inl.h"
#include "backend/cpu/generic/int8.inl.h"
#include "backend/cpu/isa/int8_row_dot_avx512.h"
#include "backend/cpu/isa/int8_row_dot_vbmi.h"
#include "backend/cpu/generic/int8_direct.inl.h"
#include "backend/cpu/generic/int8_panel.inl.h"
#include "backend/cpu/generic/attention.inl.h"
#include "backend/cpu/isa/bf16_dot_avx512.h"
#include "backend/cpu/generic/lora.inl.h"
#include "backend/cpu/generic/grad.inl.h"
#include "backend/cpu/isa/bf16_gemm_avx512.h"
#include "backend/cpu/generic/table.inl.h"
// clang-format on
}  // namespace avx512_bf16

const Kernels& avx512_bf16_kernels() { return avx512_bf16::kTable; }

}  // namespace bumblebee::cpu
