// The trained factors: f32 masters on the host, their copies on the device for one step, and the gradients that come
// back. Frozen adapters under the new one are here too, as terms without a gradient.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/grad_ops.h"
#include "bumblebee/train.h"
#include "lora/adapter.h"
#include "nn/model.h"
#include "train/parameter.h"

namespace bumblebee::train {

/// scale·B(A x) on the device, without a gradient.
struct FrozenTerm {
  Tensor a, b;  // [rank, in] [out, rank]
  float scale = 0;
};

/// Factors of one module on the device. Gradients are made by a backward pass and fetched by LoraParams::collect().
struct TrainedSite {
  int site = -1;
  int a = -1, b = -1, m = -1;  // numbers of parameters; m is DoRA's magnitude, -1 for none
  Tensor a_device, b_device;   // [rank, in] [out, rank]
  Tensor factor;               // DoRA: m/|W + scale·BA| [1, out]
  Tensor da, db, dots;         // [rank, in] [out, rank]; DoRA: Σ dy·y [1, out], m times the gradient of m
};

class LoraParams {
 public:
  /// A ~ U(-1/√in, 1/√in) from counters, B = 0, m = |W|, as mlx-lm begins. `backend` and `model` outlive this. Throws
  /// what select_sites() throws, and Error(bad_request) for a rank, scale or dropout out of range.
  LoraParams(Backend& backend, const nn::Model& model, const LoraOptions& options, uint64_t seed);

  /// Puts an adapter of the kind lora under the trained one, its scale multiplied by `weight`. It must fit the model.
  /// Throws Error(unsupported) for what is more than factors of linear modules in layers.
  void freeze(const lora::Adapter& adapter, float weight);

  /// Takes the factors of `adapter` as the values to begin with. Throws Error(bad_request) when its modules, rank or
  /// scale are others.
  void begin_with(const lora::Adapter& adapter);

  /// Copies the masters to the device: after the constructor and after every change of values.
  void upload();
  /// Adds the gradients of a backward pass to the parameters' and drops them on the device.
  void collect();
  void zero_gradients();

  /// Without adapters at all, as long as it is set: the base alone.
  void hide(bool hidden) { hidden_ = hidden; }

  std::vector<Parameter>& parameters() { return parameters_; }
  const std::vector<Parameter>& parameters() const { return parameters_; }
  TrainedSite* at(int site) { return hidden_ ? nullptr : find(site); }
  std::span<const FrozenTerm> frozen(int site) const;
  float scale() const { return scale_; }
  float dropout() const { return options_.dropout; }
  const LoraOptions& options() const { return options_; }
  int first_layer() const { return first_layer_; }
  int modules() const { return int(sites_.size()); }
  uint64_t count() const;  // of trained values

  lora::Adapter adapter(const std::string& name, const std::string& base) const;

 private:
  TrainedSite* find(int site);
  void add_site(int site, uint64_t seed);
  Tensor device(const Parameter& parameter) const;

  Backend& backend_;
  GradOps& grad_;
  const nn::Model& model_;
  LoraOptions options_;
  float scale_ = 0;
  int first_layer_ = 0;
  bool hidden_ = false;
  std::vector<Parameter> parameters_;
  std::vector<TrainedSite> sites_;
  std::vector<int> place_;  // [model sites] in sites_, -1 for none
  std::map<int, std::vector<FrozenTerm>> frozen_;
};

/// The backend's derivatives. Throws Error(device) when it has none.
GradOps& require_grad_ops(Backend& backend);

}  // namespace bumblebee::train
