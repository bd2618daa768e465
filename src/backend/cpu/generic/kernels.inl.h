// All kernels of one instruction set, which names itself and its headers before it includes this: BB_ISA (the set's
// name and namespace), BB_ISA_SIMD, BB_ISA_INT, BB_ISA_DOT and BB_ISA_ROW_DOT, and, where it has better than the
// generic ones, BB_ISA_LOOKUP, BB_ISA_ROW_STREAMS, BB_ISA_OUTLIERS, BB_ISA_PANEL_OUTLIERS, BB_ISA_PANEL,
// BB_ISA_TILED_ROWS, BB_ISA_BF16_DOT and BB_ISA_BF16_GEMM. What each header must supply is in contract.inl.h.
#pragma once

#include "backend/cpu/kernels.h"

#ifndef BB_ISA_LOOKUP
#define BB_ISA_LOOKUP "backend/cpu/generic/lookup.inl.h"
#endif
#ifndef BB_ISA_OUTLIERS
#define BB_ISA_OUTLIERS "backend/cpu/generic/outliers_in_place.inl.h"
#endif
#ifndef BB_ISA_ROW_STREAMS
#define BB_ISA_ROW_STREAMS "backend/cpu/generic/one_row_stream.inl.h"
#endif
#ifndef BB_ISA_PANEL_OUTLIERS
#define BB_ISA_PANEL_OUTLIERS "backend/cpu/generic/panel_outliers.inl.h"
#endif
#ifndef BB_ISA_TILED_ROWS
#define BB_ISA_TILED_ROWS "backend/cpu/generic/no_tiled_rows.inl.h"
#endif
#ifndef BB_ISA_PANEL
#define BB_ISA_PANEL "backend/cpu/generic/int8_panel.inl.h"
#endif
#ifndef BB_ISA_BF16_DOT
#define BB_ISA_BF16_DOT "backend/cpu/generic/bf16_dot.inl.h"
#endif
#ifndef BB_ISA_BF16_GEMM
#define BB_ISA_BF16_GEMM "backend/cpu/generic/no_bf16_gemm.inl.h"
#endif

#define BB_TEXT_OF(name) #name
#define BB_TEXT(name) BB_TEXT_OF(name)
#define BB_JOIN_OF(a, b) a##b
#define BB_JOIN(a, b) BB_JOIN_OF(a, b)

namespace bumblebee::cpu {
namespace BB_ISA {
// Each builds on those before it.
// clang-format off
#include "backend/cpu/generic/unroll.inl.h"
#include "backend/cpu/generic/scalars.inl.h"
#include BB_ISA_SIMD
#include "backend/cpu/generic/matmul.inl.h"
#include "backend/cpu/generic/elementwise.inl.h"
#include BB_ISA_INT
#include BB_ISA_DOT
#include "backend/cpu/generic/wide_dot.inl.h"
#include BB_ISA_LOOKUP
#include "backend/cpu/generic/codes.inl.h"
#include "backend/cpu/generic/quant_layout.inl.h"
#include BB_ISA_OUTLIERS
#include BB_ISA_PANEL_OUTLIERS
#include "backend/cpu/generic/quantize.inl.h"
#include "backend/cpu/generic/int8.inl.h"
#include BB_ISA_ROW_DOT
#include BB_ISA_ROW_STREAMS
#include "backend/cpu/generic/contract.inl.h"
#include "backend/cpu/generic/int8_direct.inl.h"
#include "backend/cpu/generic/panel_parts.inl.h"
#include BB_ISA_PANEL
#include "backend/cpu/generic/attention.inl.h"
#include "backend/cpu/generic/attention_words.inl.h"
#include "backend/cpu/generic/delta.inl.h"
#include BB_ISA_BF16_DOT
#include "backend/cpu/generic/lora.inl.h"
#include "backend/cpu/generic/grad.inl.h"
#include BB_ISA_BF16_GEMM
#include "backend/cpu/generic/table.inl.h"
// clang-format on
}  // namespace BB_ISA

const Kernels& BB_JOIN(BB_ISA, _kernels)() { return BB_ISA::kTable; }

}  // namespace bumblebee::cpu
