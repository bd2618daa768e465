// Checkpoint directory to checkpoint directory: quantize as mlx-lm does, take quantization away, or change the dense
// type. What `bumblebee quantize` and `bumblebee convert` on a directory do.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>

#include "io/conversion.h"
#include "io/hf_config.h"
#include "quant/affine.h"

namespace bumblebee {

/// Changes to make on the way, such as an adapter's. Called from several threads.
class WeightChanges {
 public:
  virtual ~WeightChanges() = default;
  /// Whether the module (its path when it is quantized, else the tensor's full name) is changed at all.
  virtual bool touches(const std::string& name) const = 0;
  /// `values` holds a row of the module and becomes the one to write. `target` says how it will be stored: in `spec`
  /// with scales of `dtype`, or as dense `dtype`.
  virtual void apply(const std::string& name, uint64_t row, std::span<float> values, DType dtype,
                     const std::optional<QuantSpec>& spec) const = 0;
};

struct RewriteOptions {
  std::optional<QuantSpec> quantize;  // every matrix whose width the group divides, embeddings and head included
  bool dequantize = false;            // make every quantized module dense
  std::optional<DType> dtype;         // of dense tensors and of new scales; as they are when empty
  AffineVariant variant = AffineVariant::cpu;
  int threads = 0;                         // 0: every core
  const WeightChanges* changes = nullptr;  // a module that was quantized is quantized again, as it was
  std::map<std::string, int> inputs;       // of modules, where the model is known: Checkpoint::set_inputs
};

/// Rewrites the checkpoint in `source` into `target`, which must not hold a model yet; tokenizer files, templates and
/// other text files are copied. Throws Error(bad_request) when the options contradict each other or the checkpoint
/// (quantizing what is quantized: both widths are named).
ConversionReport rewrite_checkpoint(const std::filesystem::path& source, const std::filesystem::path& target,
                                    const RewriteOptions& options, const ConversionProgress& progress = {});

}  // namespace bumblebee
