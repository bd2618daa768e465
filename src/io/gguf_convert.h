// GGUF in, MLX out: a whole model file becomes a checkpoint directory. Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0 become affine
// groups of 32 with the same codes and no loss; F16, BF16 and F32 stay as they are; other types are decoded to a dense
// type or quantized again.
#pragma once

#include <filesystem>
#include <optional>

#include "io/conversion.h"
#include "io/hf_config.h"
#include "quant/affine.h"

namespace bumblebee {

struct GgufConvertOptions {
  DType dense = DType::f16;  // of matrices that must be decoded (K-quants); also the checkpoint's stated dtype
  std::optional<QuantSpec> requantize;  // quantize what is not an affine grid already, where the width divides
  AffineVariant variant = AffineVariant::cpu;
  int threads = 0;  // 0: every core
};

/// Converts the file `source` into the directory `target`, which must not hold a model yet. Throws Error naming the
/// metadata key or tensor; the report says for each tensor whether it was exact.
ConversionReport convert_gguf(const std::filesystem::path& source, const std::filesystem::path& target,
                              const GgufConvertOptions& options, const ConversionProgress& progress = {});

}  // namespace bumblebee
