// A whole run of the trainer in a few lines: a tiny model in memory, rows of tokens, a directory.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "exec/local_executor.h"
#include "models/registry.h"
#include "tests/io/files.h"
#include "tests/support/backends.h"
#include "tests/support/replay_backend.h"
#include "tests/support/tiny_model.h"
#include "train/trainer.h"

namespace bumblebee::train {

/// Rows that a small model can learn: each counts on from its first token.
inline dataset::Dataset counting_rows(const std::string& name, int rows, int vocab, uint64_t seed) {
  dataset::Dataset data;
  data.name = name;
  data.format = dataset::DataFormat::text;
  testing_support::Random random(seed);
  for (int i = 0; i < rows; ++i) {
    dataset::DataRow row;
    row.line = i + 1;
    const int first = random.integer(0, vocab - 1), length = random.integer(4, 12);
    for (int k = 0; k < length; ++k) row.tokens.push_back(int32_t((first + k) % vocab));
    data.longest = std::max(data.longest, length);
    data.rows.push_back(std::move(row));
  }
  return data;
}

class World {
 public:
  explicit World(const std::string& name = "cpu", bool fast = true, int threads = 2,
                 const testing_support::TinyModel& base = {})
      : tiny(base) {
    tiny.format = Format::affine(4, 32, DType::bf16, DType::bf16);
    testing_support::register_replay_backend();
    std::unique_ptr<Backend> backend =
        require_device(name, {}).entry->create({.threads = threads, .fast = fast, .instruction_set = {}});
    weights = tiny.weights();
    nn::Loader load(weights, backend.get());
    std::unique_ptr<nn::Model> model = models::make_model(models::read_spec(tiny.config(), "tiny"), load);
    device = std::make_shared<exec::DeviceModel>(std::move(backend), std::move(model), "tiny", uint64_t{1} << 30);
    executor = std::make_unique<exec::LocalExecutor>(device, exec::CacheLimits());
    data.train = counting_rows("train.jsonl", 21, tiny.vocab, 1);
    data.valid = counting_rows("valid.jsonl", 6, tiny.vocab, 2);
  }

  TrainerInputs inputs(const TrainOptions& options) {
    return {.device = {*executor, device->backend(), device->model()},
            .data = data,
            .source = source,
            .options = options,
            .base_directory = {},
            .precision = "test",
            .program = "test",
            .frozen = {},
            .date = {},
            .files = {},
            .sample = {}};
  }
  TrainResult train(const TrainOptions& options) {
    const TrainerInputs in = inputs(options);
    return Trainer(in).run();
  }

  testing_support::TinyModel tiny;
  testing_support::MemoryWeights weights;
  std::shared_ptr<exec::DeviceModel> device;
  std::unique_ptr<exec::Executor> executor;
  dataset::Splits data;
  TrainData source;
};

inline TrainOptions small_run(const std::filesystem::path& directory) {
  TrainOptions options;
  options.lora.num_layers = -1;
  options.lora.rank = 4;
  options.lora.scale = 4;
  options.learning_rate = 2e-3;
  options.iters = 12;
  options.batch_size = 3;
  options.steps_per_report = 4;
  options.steps_per_eval = 5;
  options.save_every = 4;
  options.seed = 7;
  options.adapter_path = directory / "adapters";
  return options;
}

}  // namespace bumblebee::train
