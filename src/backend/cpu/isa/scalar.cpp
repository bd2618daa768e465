// Kernels for any processor.
#include "backend/cpu/kernels.h"

#define KERNEL_SET "scalar"

namespace bumblebee::cpu {
namespace scalar {
// Each builds on those before it.
// clang-format off
#include "backend/cpu/generic/unroll.inl.h"
#include "backend/cpu/generic/scalars.inl.h"
#include "backend/cpu/isa/simd_scalar.h"
#include "backend/cpu/generic/matmul.inl.h"
#include "backend/cpu/generic/elementwise.inl.h"
#include "backend/cpu/isa/int_scalar.h"
#include "backend/cpu/isa/dot_scalar.h"
#include "backend/cpu/generic/codes.inl.h"
#include "backend/cpu/generic/quant_layout.inl.h"
#include "backend/cpu/generic/outliers_in_place.inl.h"
#include "backend/cpu/generic/quantize.inl.h"
#include "backend/cpu/generic/int8.inl.h"
#include "backend/cpu/isa/int8_row_dot_scalar.h"
#include "backend/cpu/generic/int8_direct.inl.h"
#include "backend/cpu/generic/int8_panel.inl.h"
#include "backend/cpu/generic/attention.inl.h"
#include "backend/cpu/generic/bf16_dot.inl.h"
#include "backend/cpu/generic/lora.inl.h"
#include "backend/cpu/generic/grad.inl.h"
#include "backend/cpu/generic/no_bf16_gemm.inl.h"
#include "backend/cpu/generic/table.inl.h"
// clang-format on
}  // namespace scalar

const Kernels& scalar_kernels() { return scalar::kTable; }

}  // namespace bumblebee::cpu
