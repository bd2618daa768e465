// The contract of a device: memory, packed weights, adapters' tables, caches. What computes is its Stream. A backend
// knows no model, no text and no policy.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/kv_store.h"
#include "backend/lora.h"
#include "backend/operation.h"
#include "backend/stream.h"
#include "backend/weight.h"
#include "base/topology.h"

namespace bumblebee {

struct BackendOptions {
  int device = 0;               // of several of one kind
  int threads = 0;              // 0: one per core this process may use
  Pin pin = Pin::automatic;     // where its threads run
  bool fast = false;            // may round activations (see docs/internals/numerics.md)
  std::string instruction_set;  // force one of the kernels this machine can run; empty: the best, or BB_CPU when set
};

/// Bytes on a device. `total` is what this process may use of it, `free` what nobody has taken yet; the others are this
/// backend's own.
struct MemoryUse {
  uint64_t total = 0, free = 0;
  uint64_t weights = 0;   // packed, or mapped from their files
  uint64_t mapped = 0;    // of these: pages of files, which count as free as well
  uint64_t adapters = 0;  // low-rank factors
  uint64_t kv = 0;        // pages that have been written
  uint64_t steps = 0;     // activations, in use or kept for the next step
};

/// The largest step that will be asked for.
struct StepLimits {
  int rows = 0, logit_rows = 0, sequences = 0, pages = 0;
};

/// Rows of prompts of one step, where the device has no wish of its own.
inline constexpr int kPromptRows = 512;

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view name() const = 0;
  /// Whether it has what only some models and adapters need: what BackendEntry::lacking does not list.
  virtual bool has(Operation operation) const {
    (void)operation;
    return true;
  }

  /// Uninitialised memory for an activation of this backend's own element type.
  virtual Tensor make(int rows, int cols) = 0;
  /// Copies in and out as f32, row-major; for tensors made outside of a step, from any thread. read() waits for the
  /// computation.
  virtual Tensor upload(std::span<const float> values, int rows, int cols) = 0;
  virtual void read(const Tensor& tensor, std::span<float> values) = 0;
  /// Elements as they are, of any type.
  virtual void read_bytes(const Tensor& tensor, std::span<std::byte> out) = 0;

  /// format -> packing; the only place where a packing is born. May keep using the bytes of `weight` (which keeps them
  /// alive). Throws Error(unsupported) for a layout that it lacks, as BackendEntry::lacks says beforehand.
  virtual Weight pack(const HostWeight& weight) = 0;
  /// One weight of several packed ones of one format and size, for Ops::matmul_experts. Throws Error(unsupported) where
  /// BackendEntry::lacking has Operation::matmul_experts.
  virtual Weight stack(std::span<const Weight> experts) = 0;
  /// A norm's weight or a bias, as f32 [1, size].
  virtual Tensor pack_vector(const HostWeight& vector) = 0;
  /// pack() may return before the bytes were read; this waits for all of them, and throws what went wrong.
  virtual void finish_packing() {}
  /// Low-rank factors -> packing. May be called from any thread, also while another computes.
  virtual LowRankWeights pack_factors(const HostLowRank& factors, LowRankUse use) = 0;
  /// DoRA's magnitude[i] / |W + scale·B A|_i, f32 [1, out]: the length of row i of W [out, in], or with `by_column` of
  /// column i, [1, in]. May be called from any thread. Not finite where a length is zero.
  virtual Tensor dora_scale(const Weight& weight, const HostLowRank& factors, float scale,
                            std::span<const float> magnitude, bool by_column) = 0;
  virtual std::unique_ptr<KvStore> make_kv(const KvShape& shape) = 0;

  /// What rows of slot `slot` do to each module (null entries: nothing) from the next step on; an empty span frees the
  /// slot. Entries live until then. Between steps, under the lock of the stream.
  virtual void set_slot(int32_t slot, std::span<const LoraEntry* const> by_site) = 0;

  /// Calls body(0) to body(count - 1) on the threads that compute on the host, where there are some. Between steps,
  /// under the lock of the stream. The body must not throw.
  virtual void in_parallel(int count, FunctionRef<void(int)> body) {
    for (int i = 0; i < count; ++i) body(i);
  }

  virtual MemoryUse memory() const = 0;
  /// Reserves what steps of at most this size need. Throws Error(out_of_memory) with the figure needed and the figure
  /// free.
  virtual void expect(const StepLimits& largest) { (void)largest; }
  /// How many bytes of freed activations may wait for the next step; 0: what suits inference. Training keeps more at
  /// once than a long prefill, and would ask the system for it anew in every step.
  virtual void keep_memory(size_t bytes) { (void)bytes; }
  /// Rows of a prompt that one step computes best, where nothing else waits for it.
  virtual int prompt_rows() const { return kPromptRows; }
  /// True after an error that leaves the device useless for this process: nothing will work again.
  virtual bool lost() const { return false; }

  virtual Stream& stream() = 0;
};

/// What the registry knows about a backend without starting it. Devices of one kind are numbered from 0.
struct BackendEntry {
  std::string_view name;
  int (*count)();
  /// Empty when the device is there; otherwise why not, for people.
  std::string (*absent)(int device);
  /// Empty when it can multiply by weights of this format; otherwise the operation it lacks, for instance
  /// "matmul(affine 4-bit group 64)".
  std::string (*lacks)(int device, const Format& format);
  std::string (*describe)(int device);                       // processor or device name
  uint64_t (*memory_bytes)(int device);                      // that this process may use
  uint64_t (*free_bytes)(int device);                        // of them, what nobody has taken now
  double (*bandwidth)(int device, int threads);              // of reading, bytes/s, measured now
  std::vector<std::string> (*instruction_sets)(int device);  // best first
  std::unique_ptr<Backend> (*create)(const BackendOptions& options);
  std::vector<Operation> lacking = {};  // of those that only some models need
  /// Weights are copied into memory of the device's own: what is free there now must hold them. Where they stay in
  /// their mapped files, what the system can give must.
  bool own_memory = false;
};

}  // namespace bumblebee
