// Loading a model: from an MLX checkpoint or a dense one, onto a device, checked before the first weight is read.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "bumblebee/adapter.h"
#include "bumblebee/device.h"
#include "bumblebee/repository.h"

namespace bumblebee {

/// How weights should be held. On a dense checkpoint intN quantizes while loading (MLX's algorithm); on a checkpoint
/// that already has this width it changes nothing; on another width it is an error that names both.
enum class Quantization : uint8_t { as_stored, int2, int3, int4, int5, int6, int8 };

/// fast: inside products, activations are rounded to int8 per 64 values for quantized weights, to bf16 for dense ones
/// (docs/internals/fidelity.md says what that costs). exact: they stay f32.
enum class Precision : uint8_t { exact, fast };

/// Element type of cached keys and values. by_precision is bf16 in fast precision and f32 in exact; int8 has one scale
/// per token and head.
enum class KvType : uint8_t { by_precision, f32, f16, bf16, int8 };

/// Called while a model loads, with bytes done and in all; return false to cancel (the load throws Error(cancelled)).
using Progress = std::function<bool(uint64_t done, uint64_t total)>;

struct ModelOptions {
  Quantization quantization = Quantization::as_stored;
  int group_size = 64;         // for quantization at load: 32, 64 or 128
  std::string device = "cpu";  // a name from devices(), or "auto": a card that can run it, else the processor
  int threads = 0;             // 0: one per core this process may use, within its quota
  Pinning pinning = Pinning::automatic;
  Precision precision = Precision::fast;
  KvType kv_type = KvType::by_precision;  // a loaded model's options say what was chosen
  uint64_t max_adapter_bytes = 0;         // of packed adapters; 0: half of what the device has free
  Progress progress;
};

/// One weight matrix as stored, or a stack of them.
struct ModuleInfo {
  std::string name;  // module path, for instance "model.layers.0.self_attn.q_proj"
  int experts = 1;   // matrices in a stack, one for each expert
  int out = 0, in = 0;
  std::string mode;  // "affine", "mxfp4", "mxfp8", "nvfp4", or "dense"
  int bits = 0, group_size = 0;
  std::string dtype;  // of the elements, or of the scales
  uint64_t bytes = 0;
};

struct ModelInfo {
  std::string architecture;  // the family that runs it: "qwen3", "qwen3_moe", "llama"
  uint64_t parameters = 0;
  uint64_t weight_bytes = 0;
  int layers = 0, hidden = 0, heads = 0, kv_heads = 0, head_dim = 0, intermediate = 0, vocab = 0;
  int context = 0;  // max_position_embeddings, or what yarn and linear scaling make of it
  bool tied_head = false;
  /// Mixtures of experts: how many a layer has, how many of them a token passes, and their inner width; else 0.
  int experts = 0, experts_per_token = 0, expert_intermediate = 0;
  std::string without_derivative;    // an operation that keeps the model from being trained; empty where none does
  uint64_t active_weight_bytes = 0;  // of the matrices that a token is multiplied by: of experts those that it passes
  /// Keys and values over all layers that keep their own: heads, and their features.
  int64_t cached_heads = 0, cached_features = 0;
  /// Bytes of the state that recurrent layers keep of a sequence, however long it is; 0: there are none.
  uint64_t state_bytes = 0;
  int bits = 0, group_size = 0;  // of most quantized modules; 0 for a dense model
  std::string mode = "dense";    // of those modules, as in ModuleInfo
  std::vector<ModuleInfo> modules;

  /// Bytes of keys and values for `tokens` tokens of one sequence; by_precision counts as for fast.
  uint64_t kv_bytes(int tokens, KvType type = KvType::by_precision) const;
};

namespace api {
struct ModelState;
}

/// Packed adapters of one model.
struct AdapterMemory {
  uint64_t bytes = 0;       // also of unloaded ones that running requests still use
  uint64_t host_bytes = 0;  // of the values of all adapters of this process, on the host: while a handle lives
  uint64_t limit = 0;
  int adapters = 0;  // that a request can use without packing them first
};

/// A loaded model. A handle: copies share the weights, which live until the last copy and the last serving are gone.
class Model {
 public:
  const ModelInfo& info() const;
  const ModelOptions& options() const;

  /// Predictions for every position of `tokens`, in order: row i is f32 [vocab] and predicts token i + 1. Throws
  /// Error(bad_request) for an empty list, an id outside the vocabulary, or more tokens than the context; with
  /// adapters, what prepare_adapters() throws.
  void logits(std::span<const int32_t> tokens, const std::function<void(int row, std::span<const float> logits)>& each,
              const std::vector<WeightedAdapter>& adapters = {}) const;

  /// Packs adapters for this model, checks them against it and that they can be composed. Requests do the same when
  /// they need to; adapters that no request uses leave, the longest unused first, when others need the memory. From any
  /// thread, while others generate. Throws Error: `bad_request` for an adapter that does not fit, for one given twice,
  /// for a weight that is not finite and for compositions without a meaning; `bad_file` for DoRA on a row of length 0;
  /// `out_of_memory` when adapters in use and these take more than ModelOptions::max_adapter_bytes.
  void prepare_adapters(const std::vector<WeightedAdapter>& adapters) const;
  /// Forgets a packed adapter; false when it is not there. Requests that use it go on to their end. The handle stays
  /// good: using it again packs it again.
  bool unload_adapter(const Adapter& adapter) const;
  AdapterMemory adapter_memory() const;

  /// Implementation access for the library itself.
  const std::shared_ptr<api::ModelState>& state() const { return state_; }
  explicit Model(std::shared_ptr<api::ModelState> state) : state_(std::move(state)) {}

 private:
  std::shared_ptr<api::ModelState> state_;
};

/// Loads a model. Throws Error: `device` when the device is absent or cannot run this checkpoint (before any weight is
/// read, naming operation, device and the devices that can), `unsupported` for architectures, formats and settings that
/// are not implemented, `bad_file` and `bad_config` for checkpoints that are broken.
Model load_model(const Repository& repository, const ModelOptions& options = {});

/// The same checks and facts without reading weights or needing a device.
ModelInfo inspect_model(const Repository& repository);

}  // namespace bumblebee
