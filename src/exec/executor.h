// The one place where a step of a model runs. Whoever has steps to run (the engine, Model::logits, benchmarks, the
// trainer) holds an executor and sees no lock, no stream and no key; several devices that act as one, a scripted list
// of tokens and a recorder in the tests are executors too.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "backend/batch.h"
#include "backend/kv_store.h"
#include "backend/stream.h"
#include "exec/slots.h"
#include "lora/adapter_cache.h"

namespace bumblebee::exec {

/// Tokens of one page of keys and values.
inline constexpr int kPageSize = 64;

/// What a step leaves on the host beside the chosen tokens. Logits of a large vocabulary are worth not asking for.
struct Wants {
  bool logits = false;  // of the logit rows, as f32
  bool hidden = false;  // of all rows, after the final norm
};

struct Step {
  Batch batch;
  std::vector<PageCopy> copies;  // done before the step
  Wants wants;
};

struct StepResult {
  std::span<const int32_t> ids;      // [logit_rows] as Ops::sample gives them; empty where the batch samples nothing
  std::span<const double> logprobs;  // [logit_rows, 1 + tops] where a row asked: the chosen and the likeliest tokens
  std::span<const int32_t> top_ids;  // [logit_rows, tops]
  int tops = 0;
  std::span<const float> logits;  // [logit_rows, vocab]
  std::span<const float> hidden;  // [rows, d_model]
  double sample_seconds = 0;      // of the step, where the host chose the tokens
};

/// Names a step that was launched.
using Ticket = uint64_t;

/// Bytes on the device: what it has, what this process uses of it, and what this executor may use.
struct MemoryReport {
  MemoryUse device;
  uint64_t page_bytes = 0;   // of keys and values, over all layers
  int pages = 0;             // that the cache may have at most
  uint64_t state_bytes = 0;  // of one sequence's state, of models with recurrent layers
  int states = 0;            // of these, at most
};

/// Runs steps of one model, in the order in which they are launched. Executors of one model may be used from different
/// threads and take turns; each has one caller at a time.
class Executor {
 public:
  virtual ~Executor() = default;

  /// Returns once the device has the step; on the CPU, once it is computed. A row's token may be Batch::chosen(i).
  /// Throws Error(out_of_memory or device) when it cannot be computed; nothing is changed but pages that the step
  /// writes.
  virtual Ticket launch(const Step& step) = 0;
  /// Whether launch() returns before a step is computed, so that the next one is worth launching before this one is
  /// waited for.
  virtual bool asynchronous() const { return false; }
  /// Waits for one of the last two steps; what it returns is valid until the second next launch.
  virtual const StepResult& wait(Ticket ticket) = 0;

  /// The set of these adapters, as AdapterCache::open() gives it: from any thread.
  virtual std::shared_ptr<const lora::AdapterSet> open(std::span<const lora::AdapterCache::Part> parts) = 0;
  /// The same, or nothing where that would take a while.
  virtual std::optional<std::shared_ptr<const lora::AdapterSet>> open_now(
      std::span<const lora::AdapterCache::Part> parts) = 0;
  /// What rows name to be computed with `set` (null: -1, the base), until the lease ends. Waits for a running step.
  virtual SlotLease slot(const std::shared_ptr<const lora::AdapterSet>& set) = 0;

  /// Pages that hold nothing any more: their memory may go back to the system.
  virtual void release_pages(std::span<const int32_t> pages) = 0;
  virtual int pages() const = 0;
  /// States that sequences and checkpoints may have; 0 without recurrent layers.
  virtual int states() const { return 0; }
  int page_size() const { return kPageSize; }
  virtual MemoryReport memory() const = 0;
  /// After an error that leaves the device useless for this process: no step will be computed any more.
  virtual bool lost() const { return false; }

  /// Calls body(0) to body(count - 1) on the threads that compute on the host, between steps. It must not throw.
  virtual void in_parallel(int count, FunctionRef<void(int)> body) {
    for (int i = 0; i < count; ++i) body(i);
  }

  /// A step that is not repeatable, whose operations run as they are called and whose tensors may be read at once: a
  /// pass that remembers or shows what it does. `kv` is this executor's cache, null where it has none.
  virtual void eagerly(const Batch& batch, FunctionRef<void(Stream& stream, KvStore* kv)> body) = 0;
};

}  // namespace bumblebee::exec
