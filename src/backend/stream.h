// Where a backend computes: one step after the other, each over the batch that is bound. A device that records steps
// replays them by their key, so everything a step leaves behind is returned by its body and nothing is read inside.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "backend/batch.h"
#include "backend/grad_ops.h"
#include "backend/kv_store.h"
#include "backend/ops.h"
#include "base/function_ref.h"
#include "tensor/tensor.h"

namespace bumblebee {

/// What a step leaves behind; valid until the second next run() of the stream, whoever runs it, but for the chosen ids,
/// which a later step of their owner may name: they are valid as long as they are held. What is to be read later is
/// fetched at once.
struct StepOutputs {
  Tensor logits;    // [logit_rows, vocab]
  Tensor hidden;    // [rows, d_model] after the final norm; empty where not asked for
  Sampled sampled;  // of the rows of logits; empty where nobody asked
};

/// What a step computes, as far as it is not data of the batch. Equal keys promise the same operations in the same
/// order on the same long-lived tensors, so that a device may record the first and replay it for the others.
struct StepKey {
  /// Whose operations these are: executors pass themselves. Null: not repeatable; the body runs every time, at once,
  /// and may read what it computes.
  const void* program = nullptr;
  int rows = 0, logit_rows = 0;  // of the bound batch, padding included
  uint32_t adapters = 0;         // LoraShape::id
  bool logits = false;           // StepOutputs::logits is asked for
  bool hidden = false;           // StepOutputs::hidden
  bool sample = false;           // StepOutputs::sampled
  int logprobs = -1;             // Batch::most_logprobs()
  friend auto operator<=>(const StepKey&, const StepKey&) = default;
};

/// A copy to the host that has begun.
class Pending {
 public:
  virtual ~Pending() = default;
  /// Blocks until the bytes are there. Throws Error(device) when the computation failed.
  virtual void wait() = 0;
  /// After wait(): the tensor's elements, row-major, in its own dtype; valid while this lives.
  virtual std::span<const std::byte> bytes() const = 0;
  virtual DType dtype() const = 0;
};

/// Waits, and converts to f32.
void read_floats(Pending& pending, std::span<float> values);

/// One caller at a time; exec::DeviceModel holds the lock.
class Stream {
 public:
  virtual ~Stream() = default;

  /// Makes `batch` the one that operations read. `kv` may be null for batches that never attend. `chosen` are the ids
  /// [rows, 1] that Batch::chosen(i) names, of one of the last two steps; empty where no token is named so. Aborts
  /// (BB_CHECK) on a batch whose arrays contradict each other or the cache's pages.
  virtual void bind(const Batch& batch, const KvStore* kv, const Tensor& chosen = {}) = 0;

  /// Runs one step and returns what it left. With a program, operations may be delayed until run() ends and the body
  /// may not run at all: its tensors are handles only, and reading one inside is a mistake of ours. Memory made inside
  /// is the step's: what is not returned may not be used after. Memory made outside (upload, pack, make) lives until
  /// its last handle.
  virtual StepOutputs run(const StepKey& key, FunctionRef<StepOutputs()> body) = 0;
  /// Forgets what was recorded under a program: it is about to be destroyed.
  virtual void forget(const void* program) { (void)program; }

  virtual Ops& ops() = 0;
  /// Null: this backend cannot train.
  virtual GradOps* grad_ops() { return nullptr; }

  /// Begins a copy to the host, in order after what computes the tensor and before the steps that follow.
  virtual std::unique_ptr<Pending> fetch(const Tensor& tensor) = 0;

  /// Whether run() may return before the step is computed.
  virtual bool asynchronous() const { return false; }

  /// How many rows a step of `rows` is padded to: devices that record steps have few sizes. At least `rows`. `alone`:
  /// Batch::rows_are_alone().
  virtual int bucket(int rows, bool alone) const {
    (void)alone;
    return rows;
  }
};

}  // namespace bumblebee
