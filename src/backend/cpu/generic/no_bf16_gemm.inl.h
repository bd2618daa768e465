// Where no instruction multiplies bf16, products of gradients stay in f32.
#pragma once

inline constexpr decltype(Kernels::decode_pairs) kDecodePairs = nullptr;
inline constexpr decltype(Kernels::transpose_pairs) kTransposePairs = nullptr;
inline constexpr decltype(Kernels::gemm_bf16) kGemmBf16 = nullptr;
