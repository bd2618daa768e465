// Where no instruction multiplies bf16, products of gradients and with bf16 pages stay in f32.
#pragma once

inline constexpr decltype(Kernels::decode_pairs) kDecodePairs = nullptr;
inline constexpr decltype(Kernels::transpose_pairs) kTransposePairs = nullptr;
inline constexpr decltype(Kernels::gemm_bf16) kGemmBf16 = nullptr;
inline constexpr decltype(Kernels::pair_gemm) kPairGemm = nullptr;
inline constexpr decltype(Kernels::split_bf16) kSplitBf16 = nullptr;
