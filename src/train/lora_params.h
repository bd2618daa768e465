// The trained factors and their gradients, which live on the device as long as the run: passes read and add to them,
// optimizers write them, and only adapters and checkpoints bring them back. Frozen adapters under the new one are here
// too, as terms without a gradient.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/grad_ops.h"
#include "bumblebee/train.h"
#include "lora/bind_to_base.h"
#include "nn/model.h"
#include "train/parameter.h"

namespace bumblebee::train {

/// scale·B(A x) on the device, without a gradient.
struct FrozenTerm {
  Tensor a, b;  // [rank, in] [out, rank]
  float scale = 0;
};

/// Factors of one module: the tensors of its parameters. Of a stack of experts those of each, one below the other.
struct TrainedModule {
  int site = -1;
  int experts = 1;
  int first = -1;     // number of the parameter a; b follows it, and DoRA's magnitude m
  Tensor a, b, m;     // [rank, in] [out, rank] [1, out]; m is empty without DoRA
  Tensor da, db, dm;  // gradients are added to these
  Tensor dora_scale;  // DoRA: m/|W + scale·BA| [1, out]
};

class LoraParams {
 public:
  /// A ~ U(-1/√in, 1/√in) from counters, B = 0, m = |W|, as mlx-lm begins. `backend` and `model` outlive this. Throws
  /// what select_modules() throws, Error(bad_request) for a rank, scale or dropout out of range, and Error(bad_file)
  /// for a row of zeros under DoRA, by whose length it divides.
  LoraParams(Backend& backend, const nn::Model& model, const LoraOptions& options, uint64_t seed);

  /// Puts an adapter of the kind lora under the trained one, its scale multiplied by `weight`. It must fit the model.
  /// Throws Error(unsupported) for what is more than factors of linear modules in layers.
  void freeze(const lora::BoundAdapter& adapter, float weight);

  /// Takes the factors of `adapter` as the values to begin with. Throws Error(bad_request) when its modules, rank or
  /// scale are others.
  void begin_with(const lora::Adapter& adapter);

  /// After every change of values: makes anew what follows from them.
  void refresh();
  /// Takes `values`, one array for each parameter.
  void write(std::span<const std::vector<float>> values);

  /// Without adapters at all, as long as it is set: the base alone.
  void hide(bool hidden) { hidden_ = hidden; }

  std::vector<Parameter>& parameters() { return parameters_; }
  const std::vector<Parameter>& parameters() const { return parameters_; }
  TrainedModule* at(int site) { return hidden_ ? nullptr : find(site); }
  std::span<const FrozenTerm> frozen(int site) const;
  float scale() const { return scale_; }
  float dropout() const { return options_.dropout; }
  const LoraOptions& options() const { return options_; }
  int first_layer() const { return first_layer_; }
  int modules() const { return int(modules_.size()); }
  uint64_t count() const;  // of trained values

  /// Brings the values to the host.
  lora::Adapter adapter(const std::string& name, const std::string& base) const;

 private:
  TrainedModule* find(int site);
  void add_module(int site, uint64_t seed);
  Tensor lengths(const TrainedModule& module) const;
  void check_factors(const std::string& where) const;

  Backend& backend_;
  GradOps& grad_;
  const nn::Model& model_;
  LoraOptions options_;
  float scale_ = 0;
  int first_layer_ = 0;
  bool hidden_ = false;
  std::vector<Parameter> parameters_;
  std::vector<TrainedModule> modules_;
  std::vector<int> place_;  // [target modules] in modules_, -1 for none
  std::map<int, std::vector<FrozenTerm>> frozen_;
};

}  // namespace bumblebee::train
