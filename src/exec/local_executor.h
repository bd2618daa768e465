// Steps on one device.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "exec/device_model.h"
#include "exec/executor.h"

namespace bumblebee::exec {

/// How much a cache of keys and values is to hold.
struct CacheLimits {
  int sequences = 1;        // at once
  int sequence_length = 0;  // tokens of each; 0: no cache, nothing attends to a past
  int spare_pages = 0;      // for alternatives of sequences, beside their own
  DType dtype = DType::f32;
  uint64_t bytes = 0;  // of keys and values at most; 0: default_cache_bytes()
  bool fill = false;   // as many pages as `bytes` hold, also beyond what the sequences need: prompts stay for longer
};

/// Half of what the device leaves free beside the weights.
uint64_t default_cache_bytes(DeviceModel& device);
/// States for the sequences of a cache of `bytes`, of models with recurrent layers, else 0: one for each, as far as
/// half of the bytes hold them, and as many more for checkpoints as a quarter of the bytes does, up to
/// kMostCheckpoints.
inline constexpr int kMostCheckpoints = 64;
int state_count(const nn::ModelDims& dims, int sequences, uint64_t bytes);
/// Bytes of keys and values of one sequence of `tokens` tokens, with its state.
uint64_t sequence_bytes(const nn::ModelDims& dims, DType dtype, int64_t tokens);

class LocalExecutor final : public Executor {
 public:
  /// Throws Error(out_of_memory) with the bytes needed and allowed when not one sequence fits.
  LocalExecutor(std::shared_ptr<DeviceModel> device, const CacheLimits& limits);
  ~LocalExecutor() override;

  Ticket launch(const Step& step) override;
  bool asynchronous() const override { return device_->backend().stream().asynchronous(); }
  const StepResult& wait(Ticket ticket) override;
  std::shared_ptr<const lora::AdapterSet> open(std::span<const lora::AdapterCache::Part> parts) override {
    return device_->adapters().open(parts);
  }
  std::optional<std::shared_ptr<const lora::AdapterSet>> open_now(
      std::span<const lora::AdapterCache::Part> parts) override {
    return device_->adapters().open_packed(parts);
  }
  SlotLease slot(const std::shared_ptr<const lora::AdapterSet>& set) override { return device_->slot(set); }
  void release_pages(std::span<const int32_t> pages) override;
  int pages() const override { return pages_; }
  int states() const override { return states_; }
  MemoryReport memory() const override;
  bool lost() const override { return device_->backend().lost(); }
  void in_parallel(int count, FunctionRef<void(int)> body) override;
  void eagerly(const Batch& batch, FunctionRef<void(Stream& stream, KvStore* kv)> body) override;

 private:
  /// Elements on their way to the host, or there.
  struct Fetched {
    std::unique_ptr<Pending> pending;
    std::vector<float> converted;
    /// The first `count`, as they are; none when nothing was fetched.
    template <class T>
    std::span<const T> wait(size_t count);
    /// The same as f32.
    std::span<const float> wait_floats(size_t count);
  };
  struct InFlight {
    Ticket ticket = 0;
    bool done = false;
    size_t logit_rows = 0, rows = 0;
    StepOutputs outputs;
    Fetched logits, hidden, ids, logprobs, top_ids;
    int tops = 0;
    double sample_seconds = 0;
    StepResult result;
  };

  const std::shared_ptr<DeviceModel> device_;
  int pages_ = 0, states_ = 0;
  uint64_t page_bytes_ = 0, state_bytes_ = 0;
  std::unique_ptr<KvStore> kv_;
  std::array<InFlight, 2> steps_;
  Ticket last_ = 0;
};

}  // namespace bumblebee::exec
