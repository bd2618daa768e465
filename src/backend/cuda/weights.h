// Weights and factors as the card holds them: MLX's bytes, unrepacked, and factors in the order that kernels read them.
#pragma once

#include "backend/cuda/kernels/views.h"
#include "backend/cuda/memory.h"
#include "backend/lora.h"
#include "backend/weight.h"

namespace bumblebee::cuda {

struct CudaWeight final : PackedWeight {
  DeviceBytes bytes;
  WeightView view;
};

struct CudaLowRank final : PackedLowRank {
  DeviceBytes memory;
  LowRankView view;  // without the scale
  size_t bytes() const override { return memory.size(); }
};

inline const WeightView& view_of(const Weight& weight) { return static_cast<const CudaWeight&>(*weight.packed).view; }

Weight upload_weight(const std::shared_ptr<const Device>& device, Uploader& uploader, const HostWeight& weight,
                     const ByteCounter& counter);
/// One after the other in memory of their own; their handles may go. All have one format and size.
Weight stack_weights(const std::shared_ptr<const Device>& device, std::span<const Weight> experts,
                     const ByteCounter& counter);
/// `fast`: rounded to bf16.
LowRankWeights upload_factors(const std::shared_ptr<const Device>& device, Uploader& uploader,
                              const HostLowRank& factors, LowRankUse use, bool fast, const ByteCounter& counter);

}  // namespace bumblebee::cuda
