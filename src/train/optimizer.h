// The optimizers of mlx.optimizers, in f32 and in its order of operations, so that a run takes the steps that it takes
// there. What each step costs is on the device (backend/grad_ops.h); here are its scalars. State is plain named arrays,
// which a checkpoint stores as they are.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "backend/grad_ops.h"
#include "bumblebee/train.h"
#include "train/parameter.h"

namespace bumblebee::train {

class Optimizer {
 public:
  /// Moments of one parameter by mlx's names: "m", "v", "exp_avg_sq_row", ...
  using State = std::map<std::string, Tensor>;
  using StoredState = std::map<std::string, std::vector<float>>;

  /// `backend` outlives this.
  explicit Optimizer(Backend& backend);
  virtual ~Optimizer() = default;

  /// One step along the gradients, each parameter with the rate `rate` times its own ratio. Gradients may be used up.
  void update(std::span<Parameter> parameters, float rate);

  uint64_t step() const { return step_; }
  /// One for each parameter; none before the first update.
  const std::vector<State>& states() const { return states_; }
  /// Goes on from a checkpoint; names and sizes are checked. Throws Error(bad_file) with `where`.
  void restore(uint64_t step, std::span<const StoredState> states, std::span<const Parameter> parameters,
               const std::string& where);
  /// Values of state for the parameters: what a checkpoint of them takes.
  uint64_t state_size(std::span<const Parameter> parameters) const;

 protected:
  /// Rows and columns of the parts of a parameter's state.
  using Layout = std::map<std::string, std::pair<int, int>>;
  virtual Layout layout(const Parameter& parameter) const = 0;
  virtual void apply(std::span<Parameter> parameters, std::span<State> states, float rate) = 0;

  GradOps& ops_;
  uint64_t step_ = 0;  // of the update being made, from 1

 private:
  void make_states(std::span<const Parameter> parameters);

  Backend& backend_;
  std::vector<State> states_;
};

/// Throws Error(bad_request) for settings out of range and for those that another kind has.
std::unique_ptr<Optimizer> make_optimizer(const OptimizerOptions& options, Backend& backend);

std::unique_ptr<Optimizer> make_adam(const OptimizerOptions& options, Backend& backend);
std::unique_ptr<Optimizer> make_sgd(const OptimizerOptions& options, Backend& backend);
std::unique_ptr<Optimizer> make_adafactor(const OptimizerOptions& options, Backend& backend);
std::unique_ptr<Optimizer> make_muon(const OptimizerOptions& options, Backend& backend);

/// 1 - beta of a float as the decimal number it was written as: mlx subtracts before it rounds.
float complement(float beta);

std::string_view to_string(OptimizerKind kind);  // "adam", "adamw", "muon", "sgd", "adafactor"

}  // namespace bumblebee::train
