// Steps on a card. A step of few rows runs eagerly the first time, is recorded as a graph the second, and is replayed
// ever after; its arguments stay, and what changes is in the bound region.
#pragma once

#include <list>
#include <map>
#include <memory>
#include <vector>

#include "backend/cuda/batch_region.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/ops.h"
#include "backend/cuda/turns.h"
#include "backend/stream.h"

namespace bumblebee::cuda {

class CudaStream final : public Stream {
 public:
  CudaStream(std::shared_ptr<const Device> device, std::shared_ptr<Pool> pool, bool fast);
  ~CudaStream() override;

  void bind(const Batch& batch, const KvStore* kv, const Tensor& chosen) override;
  StepOutputs run(const StepKey& key, FunctionRef<StepOutputs()> body) override;
  void forget(const void* program) override;
  CudaOps& ops() override { return ops_; }
  std::unique_ptr<Pending> fetch(const Tensor& tensor) override;
  bool asynchronous() const override { return true; }
  int bucket(int rows, bool alone) const override { return bucket_of(rows, alone && fast_); }

  /// Of recorded steps, and what operations keep.
  size_t recorded_bytes() const { return recorded_->used_bytes() + recorded_->cached_bytes() + ops_.workspace_bytes(); }

 private:
  /// All graphs share one pool, since one runs at a time; what they leave is copied out of it at once.
  struct Recorded {
    StepKey key;
    CudaOps::BatchKind kind;
    cudaGraphExec_t graph = nullptr;
    StepOutputs outputs;
    bool eager = false;  // there was no memory to record it
  };
  /// The body of a repeatable step, whose operations may wait for each other.
  StepOutputs computed(FunctionRef<StepOutputs()> body);
  cudaGraphExec_t record(FunctionRef<StepOutputs()> body, StepOutputs& outputs);
  StepOutputs copied(const StepOutputs& outputs);
  void drop(std::list<Recorded>::iterator recorded);
  void drop_all();

  static constexpr size_t kMostRecorded = 64, kStagings = 4;
  struct Staging {
    PinnedBytes bytes;
    Event done;
  };
  const std::shared_ptr<const Device> device_;
  const std::shared_ptr<Pool> pool_, recorded_;
  const std::shared_ptr<PinnedPool> pinned_;
  CudaOps ops_;
  Turns turns_;
  std::vector<Staging> stagings_;
  size_t next_staging_ = 0;
  DeviceBytes region_;
  std::vector<const uint8_t*> pages_;
  std::vector<StateView> states_;
  std::list<Recorded> programs_;  // the last used first
  int slots_version_ = 0;
  const bool fast_, records_;
};

}  // namespace bumblebee::cuda
