// A tiny model with factors in it and something to learn: what the tests of gradients share.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "models/registry.h"
#include "tests/support/backends.h"
#include "tests/support/tiny_model.h"
#include "train/lora_params.h"
#include "train/tape_pass.h"

namespace bumblebee::train {

using testing_support::Random;
using testing_support::TinyModel;

inline Batch batch_of(const std::vector<std::vector<int32_t>>& rows) {
  Batch batch;
  for (const auto& row : rows) batch.append(row, 0, std::vector<int32_t>{0}, Batch::Want::none);
  return batch;
}

class Training {
 public:
  Training(std::unique_ptr<Backend> device, const TinyModel& tiny, const LoraOptions& options, uint64_t seed = 3)
      : backend(std::move(device)) {
    testing_support::MemoryWeights weights = tiny.weights();
    nn::Loader load(weights, backend.get());
    model = models::make_model(models::read_spec(tiny.config(), "tiny"), load);
    params = std::make_unique<LoraParams>(*backend, *model, options, seed);
    Random random(seed);
    for (const int length : {7, 1, 12}) {
      rows.emplace_back();
      for (int i = 0; i < length; ++i) {
        rows.back().push_back(random.integer(0, tiny.vocab - 1));
        targets.push_back(random.uniform(0, 1) < 0.2 ? -1 : random.integer(0, tiny.vocab - 1));
      }
    }
    batch = batch_of(rows);
  }

  /// B is zero at the beginning, which would leave A without a gradient.
  void stir(uint64_t seed, double deviation = 0.05) {
    Random random(seed);
    std::vector<std::vector<float>> all = values();
    for (size_t i = 0; i < all.size(); ++i) {
      const std::string& name = params->parameters()[i].name;
      if (name.ends_with(".lora_b")) all[i] = random.normals(all[i].size(), deviation);
      if (name.ends_with(".m")) {
        for (float& m : all[i]) m *= float(random.uniform(0.8, 1.2));
      }
    }
    params->write(all);
  }

  std::vector<std::vector<float>> values() const {
    return read_values(*backend->stream().grad_ops(), values_of(params->parameters()));
  }

  double loss(TapeOptions options = {}) {
    backend->stream().bind(batch, nullptr);
    TapePass pass(*backend, *params, targets, options);
    return pass.forward(*model);
  }

  /// Gradients of each parameter.
  std::vector<std::vector<float>> gradients_of_each(TapeOptions options = {}) {
    clear_gradients(*backend->stream().grad_ops(), params->parameters());
    backend->stream().bind(batch, nullptr);
    TapePass pass(*backend, *params, targets, options);
    pass.forward(*model);
    pass.backward();
    return read_values(*backend->stream().grad_ops(), gradients_of(params->parameters()));
  }

  /// One after the other.
  std::vector<float> gradients(TapeOptions options = {}) {
    std::vector<float> all;
    for (const std::vector<float>& one : gradients_of_each(options)) all.insert(all.end(), one.begin(), one.end());
    return all;
  }

  std::unique_ptr<Backend> backend;
  std::unique_ptr<nn::Model> model;
  std::unique_ptr<LoraParams> params;
  std::vector<std::vector<int32_t>> rows;
  Batch batch;
  std::vector<int32_t> targets;
};

}  // namespace bumblebee::train
