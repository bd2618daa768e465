// The loop: batches to gradients, gradients to updates, and what happens around them at their cadence. Whatever it
// depends on is in RunState, the parameters and the optimizer, so that a run that was killed goes on bit for bit.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "dataset/dataset.h"
#include "lora/bind_to_base.h"
#include "train/checkpoint.h"
#include "train/optimizer.h"
#include "train/run_batch.h"
#include "train/run_state.h"
#include "train/save_adapter.h"
#include "train/schedule.h"

namespace bumblebee::train {

/// A frozen adapter that fits the model, with its weight and identity.
struct FrozenAdapter {
  const lora::BoundAdapter* adapter = nullptr;
  float weight = 1;
  std::string name, id;  // the first for people
};

struct TrainerInputs {
  TrainDevice device;
  const dataset::Splits& data;
  const TrainData& source;  // where they come from, for the adapter's record
  const TrainOptions& options;
  std::filesystem::path base_directory;  // whose weight files are hashed; empty: only what the model computes
  std::string precision;                 // of the device: another one gives other bits
  std::string program;                   // which one trains, for the adapter's record
  std::vector<FrozenAdapter> frozen;
  std::string date;                          // at which rows were rendered that name it (run_date.h); else empty
  std::vector<std::filesystem::path> files;  // of data and frozen adapters: the new adapter may not lie over them
  /// Answers options.sample_prompts with the adapter; may be empty.
  std::function<std::vector<TrainSample>(lora::Adapter adapter)> sample;
};

/// Throws Error(bad_request) naming the first option that means nothing.
void check_options(const TrainOptions& options);

class Trainer {
 public:
  /// Checks and prepares everything but the first step. `inputs` must outlive it.
  explicit Trainer(const TrainerInputs& inputs);

  /// Throws Error(bad_request) where options.adapter_path holds an adapter that nobody asked to replace, or lies over
  /// what is read. run() begins with it.
  void check_directory() const;

  /// Tells the listener what was cut, left out or changed in the rows. run() does too.
  void note_data() const;

  const TrainPlan& plan() const { return plan_; }
  TrainPlan& plan() { return plan_; }
  LoraParams& params() { return params_; }
  BatchStream& stream() { return stream_; }
  /// Seconds of the whole run, by two batches that are learned and forgotten. Not after a step.
  double measure();
  uint64_t state_values() const { return optimizer_->state_size(params_.parameters()); }

  TrainResult run();

 private:
  lora::Adapter adapter() const;
  bool open_checkpoints();
  void begin();
  void resume(const Snapshot& snapshot);
  Snapshot snapshot() const;
  void check_loss(const TrainBatch& batch, double mean) const;
  std::string name_rows(const TrainBatch& batch) const;
  bool validation_is_due() const;
  void validate();
  void keep_best();
  void step();
  void update(const TrainBatch& batch);
  void update_parameters(const TrainBatch& batch);
  void report();
  AdapterNotes notes() const;
  void save(bool numbered);
  void note(const std::string& text) const;
  std::optional<double> test();
  double passes() const;
  void note_what_will_disappoint() const;
  using Clock = std::chrono::steady_clock;
  TrainResult finish(Clock::time_point start);

  const TrainerInputs& in_;
  const TrainOptions& options_;
  GradOps& grad_;
  std::unique_ptr<LoraParams> params_holder_;
  LoraParams& params_;
  std::unique_ptr<Optimizer> optimizer_;
  Schedule schedule_;
  BatchStream stream_;
  const std::string mlx_prefix_;  // what mlx-lm's names of the base's modules begin with
  std::unique_ptr<BatchStream> valid_;
  std::unique_ptr<CheckpointStore> store_;
  TrainPlan plan_;
  Json identity_;
  RunState state_;
  TrainEnd end_ = TrainEnd::finished;
  std::string base_hash_;
  std::filesystem::path replaced_;  // where an earlier run's adapters are until this one has saved one; empty: none
  std::filesystem::path best_;
  // of this process, for its speed
  double window_seconds_ = 0, run_seconds_ = 0;
  int64_t window_tokens_ = 0;
  int window_iterations_ = 0, run_iterations_ = 0;
};

}  // namespace bumblebee::train
