// What lies beside an adapter: mlx-lm's config with every key that it writes, and a record of what it was made of.
#include "train/settings.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/mapped_file.h"
#include "lora/read_adapter.h"
#include "tests/train/training_run.h"

namespace bumblebee::train {
namespace {

Json json_of(const std::filesystem::path& path) { return parse_json(read_text_file(path, 1 << 20), path.string()); }

TEST(Settings, TheConfigHasEveryKeyThatMlxLmWrites) {
  const test::TemporaryDirectory scratch;
  World world;
  TrainOptions options = small_run(scratch.path());
  options.iters = 2;
  options.lora.dropout = 0.05f;
  options.optimizer.kind = OptimizerKind::adamw;
  options.optimizer.weight_decay = 0.5f;
  options.schedule = {.name = "cosine_decay", .arguments = {1e-3, 10}, .warmup = 2, .warmup_init = 0};
  options.base_model = "org/base";
  world.source.directory = "my/data";
  world.source.mask_prompt = true;
  world.train(options);
  const Json config = json_of(options.adapter_path / "adapter_config.json");
  // CONFIG_DEFAULTS of mlx_lm/lora.py, 0.32.2
  for (const char* key : {"model",
                          "train",
                          "fine_tune_type",
                          "optimizer",
                          "optimizer_config",
                          "data",
                          "seed",
                          "num_layers",
                          "batch_size",
                          "iters",
                          "val_batches",
                          "learning_rate",
                          "steps_per_report",
                          "steps_per_eval",
                          "resume_adapter_file",
                          "adapter_path",
                          "save_every",
                          "test",
                          "test_batches",
                          "max_seq_length",
                          "config",
                          "grad_checkpoint",
                          "grad_accumulation_steps",
                          "clear_cache_threshold",
                          "lr_schedule",
                          "lora_parameters",
                          "mask_prompt",
                          "report_to",
                          "project_name",
                          "trust_remote_code"})
    EXPECT_TRUE(config.contains(key)) << key;
  EXPECT_EQ(config["model"], "org/base");
  EXPECT_EQ(config["data"], "my/data");
  EXPECT_EQ(config["mask_prompt"], true);
  EXPECT_EQ(config["optimizer"], "adamw");
  EXPECT_EQ(config["optimizer_config"]["adamw"]["weight_decay"], 0.5);
  EXPECT_TRUE(config["optimizer_config"]["adam"].empty());
  EXPECT_EQ(config["lr_schedule"]["arguments"], Json({1e-3, 10.0}));
  EXPECT_NEAR(config["lora_parameters"]["dropout"].get<double>(), 0.05, 1e-7);
  EXPECT_EQ(lora::read_adapter(options.adapter_path).facts.at("dropout"), "0.05");
}

TEST(Settings, TheRecordNamesBaseDataSettingsAndMetrics) {
  const test::TemporaryDirectory scratch;
  World world;
  TrainOptions options = small_run(scratch.path());
  options.base_model = "org/base";
  const TrainResult result = world.train(options);
  for (const std::filesystem::path& folder : {options.adapter_path, options.adapter_path / "best"}) {
    const Json record = json_of(folder / kRecordName);
    EXPECT_EQ(record["base"]["model"], "org/base");
    EXPECT_EQ(record["base"]["hash"], result.base_hash);
    EXPECT_EQ(record["data"]["train"]["hash"], world.data.train.hash());
    EXPECT_EQ(record["data"]["train"]["rows"], 21);
    EXPECT_EQ(record["data"]["valid"]["hash"], world.data.valid.hash());
    EXPECT_EQ(record["settings"]["rank"], 4);
    EXPECT_EQ(record["settings"]["iters"], 12);
    EXPECT_EQ(record["metrics"]["first_val_loss"], *result.first_val_loss);
    EXPECT_EQ(record["metrics"]["best_val_loss"], *result.best_val_loss);
  }
  EXPECT_EQ(json_of(options.adapter_path / kRecordName)["metrics"]["iterations"], 12);
  EXPECT_EQ(json_of(options.adapter_path / "best" / kRecordName)["metrics"]["iterations"], result.best_iteration);
  EXPECT_LT(*result.best_val_loss, *result.first_val_loss);
}

}  // namespace
}  // namespace bumblebee::train
