// Adapter directories for tests, written tensor by tensor so that they can be wrong in any of them, and small ones that
// are right.
#pragma once

#include <nlohmann/json.hpp>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/json.h"
#include "io/safetensors.h"
#include "lora/read_adapter.h"
#include "quant/affine.h"
#include "quant/elements.h"
#include "tests/io/files.h"
#include "tests/support/golden_file.h"
#include "tests/support/random.h"

namespace bumblebee::lora::testing {

/// A tensor with values from its name, so that every reader of the same name sees the same numbers.
struct Tensor {
  std::string name;
  std::vector<uint64_t> shape;
  DType dtype = DType::f32;
  std::vector<float> values;  // empty: random ones

  size_t size() const {
    size_t n = 1;
    for (const uint64_t axis : shape) n *= size_t(axis);
    return n;
  }
  const std::vector<float>& filled() {
    if (values.empty()) values = testing_support::Random(testing_support::seed_of(name)).normals(size(), 0.5);
    return values;
  }
};

struct Directory {
  std::string file;  // of the tensors
  Json config;
  std::vector<Tensor> tensors;
  bool with_config = true;

  Tensor& at(const std::string& name) {
    for (Tensor& tensor : tensors) {
      if (tensor.name == name) return tensor;
    }
    throw std::runtime_error("no tensor " + name);
  }
  void remove(const std::string& name) {
    std::erase_if(tensors, [&](const Tensor& t) { return t.name == name; });
  }
  void rename(const std::string& from, const std::string& to) { at(from).name = to; }

  void write(const std::filesystem::path& path) {
    std::filesystem::create_directories(path);
    std::vector<std::vector<std::byte>> bytes;
    std::vector<TensorView> views;
    for (Tensor& tensor : tensors) {
      const size_t width = size_t(size_of(tensor.dtype));
      std::vector<std::byte> data(tensor.size() * width);
      if (is_float(tensor.dtype)) {
        const std::vector<float>& values = tensor.filled();
        for (size_t i = 0; i < tensor.size(); ++i) store_float(data, tensor.dtype, i, values.at(i));
      }
      bytes.push_back(std::move(data));
    }
    for (size_t i = 0; i < tensors.size(); ++i)
      views.push_back({{tensors[i].name, tensors[i].dtype, tensors[i].shape}, bytes[i]});
    write_safetensors(path / file, views);
    if (with_config) test::write_bytes(path / "adapter_config.json", config.dump(1));
  }

  Adapter read(const ReadOptions& options = {}) {
    const test::TemporaryDirectory scratch;
    write(scratch.path() / "adapter");
    return read_adapter(scratch.path() / "adapter", options);
  }
};

inline std::string layer(int i, const std::string& module) { return cat("model.layers.", i, ".", module); }
inline const std::string kQ0 = layer(0, "self_attn.q_proj"), kQ1 = layer(1, "self_attn.q_proj");

/// One of tests/data/goldens/adapters.
inline Adapter golden_adapter(const std::string& name) {
  return read_adapter(testing_support::golden_path("adapters/" + name));
}

/// mlx-lm, rank 2, two layers of q_proj [6, 4] and down_proj [4, 5].
inline Directory mlx_directory() {
  Directory d{"adapters.safetensors",
              Json{{"fine_tune_type", "lora"},
                   {"num_layers", 2},
                   {"lora_parameters",
                    {{"rank", 2}, {"scale", 1.5}, {"dropout", 0.0}, {"keys", {"self_attn.q_proj", "mlp.down_proj"}}}},
                   {"model", "some/base"},
                   {"batch_size", 4},
                   {"learning_rate", 1e-5}},
              {},
              true};
  for (int i = 0; i < 2; ++i) {
    d.tensors.push_back({layer(i, "self_attn.q_proj.lora_a"), {4, 2}, DType::f32, {}});
    d.tensors.push_back({layer(i, "self_attn.q_proj.lora_b"), {2, 6}, DType::f32, {}});
    d.tensors.push_back({layer(i, "mlp.down_proj.lora_a"), {5, 2}, DType::f32, {}});
    d.tensors.push_back({layer(i, "mlp.down_proj.lora_b"), {2, 4}, DType::f32, {}});
  }
  return d;
}

inline const std::string kPeft = "base_model.model.";

/// PEFT, the same shapes; alpha 3 at rank 2, a scale of 1.5.
inline Directory peft_directory() {
  Directory d{"adapter_model.safetensors",
              Json{{"peft_type", "LORA"},
                   {"r", 2},
                   {"lora_alpha", 3},
                   {"lora_dropout", 0.1},
                   {"target_modules", {"q_proj", "down_proj"}},
                   {"bias", "none"},
                   {"base_model_name_or_path", "some/base"},
                   {"task_type", "CAUSAL_LM"},
                   {"init_lora_weights", true},
                   {"inference_mode", true}},
              {},
              true};
  for (int i = 0; i < 2; ++i) {
    d.tensors.push_back({kPeft + layer(i, "self_attn.q_proj.lora_A.weight"), {2, 4}, DType::f32, {}});
    d.tensors.push_back({kPeft + layer(i, "self_attn.q_proj.lora_B.weight"), {6, 2}, DType::f32, {}});
    d.tensors.push_back({kPeft + layer(i, "mlp.down_proj.lora_A.weight"), {2, 5}, DType::f32, {}});
    d.tensors.push_back({kPeft + layer(i, "mlp.down_proj.lora_B.weight"), {4, 2}, DType::f32, {}});
  }
  return d;
}

}  // namespace bumblebee::lora::testing
