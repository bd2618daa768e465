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

LowRankWeights pack_factors(const Kernels& kernels, const HostLowRank& factors, LowRankUse use, bool fast,
                            const ByteCounter& counter);

/// Backend::dora_scale into `result` [weight.out], or [weight.in] by column. On the caller's thread alone.
void dora_scale(const Kernels& kernels, const WeightRows& weight, int out, const HostLowRank& factors, float scale,
                std::span<const float> magnitude, bool by_column, float* result);

}  // namespace bumblebee::cpu
