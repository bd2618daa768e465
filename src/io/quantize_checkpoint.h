// Checkpoint directory to checkpoint directory: quantize as mlx-lm does, take quantization away, or change the dense
// type. What `bumblebee quantize` and `bumblebee convert` on a directory do.
#pragma once

#include <filesystem>
#include <optional>

#include "io/conversion.h"
#include "io/hf_config.h"
#include "quant/affine.h"

namespace bumblebee {

struct RewriteOptions {
  std::optional<AffineSpec> quantize;  // every matrix whose width the group divides, embeddings and head included
  bool dequantize = false;             // make every quantized module dense
  std::optional<DType> dtype;          // of dense tensors and of new scales; as they are when empty
  AffineVariant variant = AffineVariant::cpu;
  int threads = 0;  // 0: every core
};

/// Rewrites the checkpoint in `source` into `target`, which must not hold a model yet; tokenizer files, templates and
/// other text files are copied. Throws Error(bad_request) when the options contradict each other or the checkpoint
/// (quantizing what is quantized: both widths are named).
ConversionReport rewrite_checkpoint(const std::filesystem::path& source, const std::filesystem::path& target,
                                    const RewriteOptions& options, const ConversionProgress& progress = {});

}  // namespace bumblebee
