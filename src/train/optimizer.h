// The optimizers of mlx.optimizers, in f32 and in its order of operations, so that a run takes the steps that it takes
// there. State is plain named arrays, which a checkpoint stores as they are.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "bumblebee/train.h"
#include "train/parameter.h"

namespace bumblebee::train {

class Optimizer {
 public:
  /// Moments of one parameter by mlx's names: "m", "v", "exp_avg_sq_row", ...; empty before the first update.
  using State = std::map<std::string, std::vector<float>>;

  virtual ~Optimizer() = default;

  /// One step along the gradients, each parameter with the rate `rate` times its own ratio.
  void update(std::span<Parameter> parameters, float rate);

  uint64_t step() const { return step_; }
  const std::vector<State>& states() const { return states_; }
  /// Goes on from a checkpoint; names and sizes are checked. Throws Error(bad_file) with `where`.
  void restore(uint64_t step, std::vector<State> states, std::span<const Parameter> parameters,
               const std::string& where);
  /// Values of state for the parameters: what a checkpoint of them takes.
  uint64_t state_size(std::span<const Parameter> parameters) const;

 protected:
  /// Sizes of the state of a parameter.
  virtual std::map<std::string, size_t> layout(const Parameter& parameter) const = 0;
  virtual void apply(Parameter& parameter, State& state, float rate) = 0;

  uint64_t step_ = 0;  // of the update being made, from 1

 private:
  std::vector<State> states_;
};

/// Throws Error(bad_request) for settings out of range and for those that another kind has.
std::unique_ptr<Optimizer> make_optimizer(const OptimizerOptions& options);

std::unique_ptr<Optimizer> make_adam(const OptimizerOptions& options);
std::unique_ptr<Optimizer> make_sgd(const OptimizerOptions& options);
std::unique_ptr<Optimizer> make_adafactor(const OptimizerOptions& options);
std::unique_ptr<Optimizer> make_muon(const OptimizerOptions& options);

/// 1 - beta of a float as the decimal number it was written as: mlx subtracts before it rounds.
float complement(float beta);

std::string_view to_string(OptimizerKind kind);  // "adam", "adamw", "muon", "sgd", "adafactor"

/// The length of all gradients as one vector.
double gradient_norm(std::span<const Parameter> parameters);
void scale_gradients(std::span<Parameter> parameters, float factor);
/// Scales the gradients so that their norm is at most `max_norm`, as mlx's clip_grad_norm does. Returns the norm
/// before.
double clip_gradients(std::span<Parameter> parameters, float max_norm);

}  // namespace bumblebee::train
