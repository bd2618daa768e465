// The contract of a device. A backend owns memory, packs weights and computes; it knows no model, no text and no
// policy.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/batch.h"
#include "backend/grad_ops.h"
#include "backend/kv_store.h"
#include "backend/ops.h"
#include "backend/weight.h"
#include "base/thread_pool.h"

namespace bumblebee {

struct BackendOptions {
  int threads = 0;              // 0: one per core this process may use
  Pin pin = Pin::automatic;     // where its threads run
  bool fast = false;            // may round activations (see docs/numerics.md)
  std::string instruction_set;  // force one of the kernels this machine can run; empty: the best, or BB_CPU when set
};

/// Identifies steps that may share a captured graph; a backend that captures nothing ignores it.
struct StepKey {
  int rows = 0, wanted = 0;
  bool adapters = false;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view name() const = 0;

  /// Uninitialised memory for an activation of this backend's own element type.
  virtual Tensor make(int rows, int cols) = 0;
  /// Copies in and out as f32, row-major; read() waits for the computation.
  virtual Tensor upload(std::span<const float> values, int rows, int cols) = 0;
  virtual void read(const Tensor& tensor, std::span<float> values) = 0;
  /// Elements as they are, of any type.
  virtual void read_bytes(const Tensor& tensor, std::span<std::byte> out) = 0;

  /// format -> packing; the only place where a packing is born. May keep using the bytes of `weight` (which keeps them
  /// alive).
  virtual Weight prepare(const HostWeight& weight) = 0;
  /// A norm's weight or a bias, as f32 [1, size].
  virtual Tensor prepare_vector(const HostWeight& vector) = 0;
  /// Low-rank factors -> packing. May be called from any thread, also while another computes.
  virtual Factors prepare_factors(const HostFactors& factors, FactorUse use) = 0;
  /// DoRA's magnitude[i] / |W + scale·B A|_i, f32 [1, out]: the length of row i of W [out, in], or with `by_column` of
  /// column i, [1, in]. May be called from any thread. Not finite where a length is zero.
  virtual Tensor dora_factor(const Weight& weight, const HostFactors& factors, float scale,
                             std::span<const float> magnitude, bool by_column) = 0;
  virtual std::unique_ptr<KvStore> make_kv(const KvShape& shape) = 0;

  /// Makes `batch` the one that operations read. `kv` may be null for batches that never attend.
  virtual void bind(const Batch& batch, const KvStore* kv) = 0;
  /// Runs one step: CPU calls `body`; a device with graphs captures it once per key and replays it after.
  virtual void run(const StepKey& key, FunctionRef<void()> body) = 0;
  virtual Ops& ops() = 0;
  /// How many bytes of freed activations may wait for the next step; 0: what suits inference. Training keeps more at
  /// once than a long prefill, and would ask the system for it anew in every step.
  virtual void keep_memory(size_t bytes) { (void)bytes; }
  /// Null: this backend cannot train.
  virtual GradOps* grad_ops() { return nullptr; }
};

/// What the registry knows about a backend without starting it.
struct BackendEntry {
  std::string_view name;
  /// Empty when the device is there; otherwise why not, for people.
  std::string (*absent)();
  /// Empty when it can multiply by weights of this format; otherwise the operation it lacks, for instance
  /// "matmul(affine 4-bit group 64)".
  std::string (*lacks)(const Format& format);
  std::string (*describe)();                       // processor or device name
  std::vector<std::string> (*instruction_sets)();  // best first
  std::unique_ptr<Backend> (*create)(const BackendOptions& options);
};

}  // namespace bumblebee
