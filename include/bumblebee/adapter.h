// Adapters: low-rank (LoRA, DoRA) and full fine-tunes, applied while a model runs. The base's weights are never
// changed, so any number of adapters serve one loaded model, each request with its own.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bumblebee/repository.h"

namespace bumblebee {

class Model;

struct AdapterOptions {
  std::optional<float> scale;  // instead of the adapter's own, in every module
  std::string name;            // for messages; empty: the directory's
};

/// What an adapter does to one module.
struct AdapterModule {
  std::string name;     // module path, for instance "model.layers.0.self_attn.q_proj"
  int rank = 0;         // 0: no low-rank part
  float scale = 0;      // multiplies B(A x)
  bool dora = false;    // rows are rescaled to learned magnitudes
  bool weight = false;  // the weight is replaced
  bool bias = false;    // the bias is replaced
};

struct AdapterInfo {
  std::string name;
  std::string format;     // "mlx-lm" or "PEFT"
  std::string kind;       // "lora", "dora" or "full"
  std::string base;       // the base it was made for, as its config has it; may be empty
  std::string on_top_of;  // adapters that it was trained with underneath, which it needs; empty: none
  std::string id;         // 32 hexadecimal digits: a hash of tensors and scales
  int rank = 0;           // the largest of the modules
  float scale = 0;        // of the first module that has one
  uint64_t bytes = 0;     // as f32
  std::vector<AdapterModule> modules;
};

namespace api {
struct AdapterState;
}

/// An adapter that was read and checked. A handle, cheap to copy; it keeps the tensors on the host, so that a model can
/// forget and pack it again.
class Adapter {
 public:
  const AdapterInfo& info() const;

  /// Implementation access for the library itself.
  const std::shared_ptr<const api::AdapterState>& state() const { return state_; }
  explicit Adapter(std::shared_ptr<const api::AdapterState> state) : state_(std::move(state)) {}

 private:
  std::shared_ptr<const api::AdapterState> state_;
};

/// One of several adapters that a request composes: W x + Σ weight·(what the adapter adds). 0: as if it was not named.
/// Adapters that replace weights or rescale rows (DoRA) take 0 or 1 only.
struct WeightedAdapter {
  Adapter adapter;
  float weight = 1;
  WeightedAdapter(Adapter a, float w = 1) : adapter(std::move(a)), weight(w) {}  // NOLINT: {adapter} should read well
};

/// Reads the adapter in a directory that mlx-lm or PEFT wrote. Throws Error: `bad_file` and `bad_config` for broken
/// files and configs that contradict them, `unsupported` for what is named and refused. Whether it fits a model shows
/// when it is used.
Adapter load_adapter(const Repository& repository, const AdapterOptions& options = {});

/// The same, then packed for `model`: throws also what Model::prepare_adapters() throws, and the first request that
/// uses it need not wait.
Adapter load_adapter(const Model& model, const Repository& repository, const AdapterOptions& options = {});

}  // namespace bumblebee
