// Fusing: an adapter's change written into the weights of a checkpoint, and what that loses. A quantized base is
// quantized again, which rounds most of a small change away: the report says how much, module by module.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "io/quantize_checkpoint.h"
#include "lora/bind_to_base.h"

namespace bumblebee::lora {

/// The modules of a checkpoint that an adapter may change, by the names that its model has for them; no weight is
/// read.
Base base_of(const Checkpoint& checkpoint, const std::string& name);

struct FuseOptions {
  bool dequantize = false;          // write dense weights instead of the base's format
  std::optional<DType> dtype = {};  // of dense weights; as stored when empty
  AffineVariant variant = AffineVariant::cpu;
  int threads = 0;
  std::map<std::string, int> inputs = {};  // of the base's modules, where the model is known: Checkpoint::set_inputs
};

/// What became of one module's change. Norms are Frobenius norms over the module.
struct FuseLoss {
  std::string module;
  double weight = 0;  // |W|
  double change = 0;  // |W' - W|, W' what run-time application computes with
  double error = 0;   // |stored(W') - W'|
  double relative() const { return change > 0 ? error / change : 0; }
};

struct FuseReport {
  ConversionReport conversion;
  std::vector<FuseLoss> losses;  // by module
};

/// Writes `source` with `adapter` fused into `target`, which must not hold a model yet. Throws what bind_to_base()
/// throws, and Error(unsupported) for what a fused checkpoint has no place for: a bias where the base has none, and a
/// tied head that is changed otherwise than its embedding.
FuseReport fuse_checkpoint(const std::filesystem::path& source, const std::filesystem::path& target,
                           const Adapter& adapter, const FuseOptions& options, const ConversionProgress& progress = {});

}  // namespace bumblebee::lora
