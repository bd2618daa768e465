// Low-rank factors as the kernels read them.
#pragma once

#include <vector>

#include "backend/backend.h"
#include "backend/counted_bytes.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/memory.h"

namespace bumblebee::cpu {

/// A as it is, [rank, in] (for an embedding [in, rank]: a token's column is a row). B in blocks of 16 outputs,
/// [out/16][rank][16], padded with zeros. bf16 where that loses nothing, or where fast precision rounds.
struct CpuLowRank final : PackedLowRank {
  Element a_element = Element::f32, b_element = Element::f32;
  AlignedBytes a, b;
  std::vector<float> bias;  // [out rounded up to 16] or empty
  size_t size = 0;
  CountedBytes counted;
  size_t bytes() const override { return size; }
};

inline const CpuLowRank& packed(const LowRankWeights& f) { return static_cast<const CpuLowRank&>(*f.packed); }
inline size_t size_of(Element element) { return element == Element::bf16 ? 2 : 4; }

inline constexpr int64_t kSerialProducts = 1 << 15;  // multiply-adds below which waking other threads does not pay
inline constexpr int kShrinkRows = 48;               // rows of x at once, which stay in the second-level cache

LowRankWeights pack_factors(const Kernels& kernels, const HostLowRank& factors, LowRankUse use, bool fast,
                            const ByteCounter& counter);

/// Backend::dora_scale into `result` [weight.out], or [weight.in] by column. On the caller's thread alone.
void dora_scale(const Kernels& kernels, const WeightRows& weight, int out, const HostLowRank& factors, float scale,
                std::span<const float> magnitude, bool by_column, float* result);

}  // namespace bumblebee::cpu
