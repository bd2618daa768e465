// YAML files of mlx_lm.lora: every key of theirs is read, noted or refused by name.
#include "config/train_config.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "bumblebee/error.h"

namespace bumblebee::cli {
namespace {

TrainConfig parsed(const std::string& text) {
  TrainConfig config;
  parse_train_config(text, "config.yaml", config);
  return config;
}

void expect_error(const std::string& text, ErrorCode code, const std::string& part) {
  try {
    parsed(text);
    ADD_FAILURE() << "accepted: " << text;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what() << "\nwithout: " << part;
  }
}

// The example of mlx-lm's documentation, with every key that is in comments there.
constexpr const char* kExample = R"(
# The path to the local model directory or Hugging Face repo.
model: "mlx-community/Llama-3.2-1B-Instruct-4bit"
# Whether or not to train (boolean)
train: true
fine_tune_type: lora
optimizer: adamw
optimizer_config:
  adamw:
    betas: [0.9, 0.98]
    eps: 1e-6
    weight_decay: 0.05
    bias_correction: true
data: "my-data"
seed: 7
num_layers: 12
batch_size: 2
iters: 500
val_batches: -1
learning_rate: 2e-5
# report_to: "wandb"
report_to: wandb
project_name: my-project
steps_per_report: 5
steps_per_eval: 50
resume_adapter_file: null
adapter_path: "my-adapters"
save_every: 25
test: false
test_batches: 100
max_seq_length: 1024
grad_checkpoint: true
grad_accumulation_steps: 4
clear_cache_threshold: 0
mask_prompt: true
trust_remote_code: false
lora_parameters:
  keys: ["self_attn.q_proj", "self_attn.v_proj"]
  rank: 16
  scale: 10.0
  dropout: 0.1
lr_schedule:
  name: cosine_decay
  warmup: 100
  warmup_init: 1e-7
  arguments: [1e-5, 1000, 1e-7]
)";

TEST(TrainConfigFile, EveryKeyOfMlxLmHasItsPlace) {
  const TrainConfig config = parsed(kExample);
  const TrainOptions options = config.chosen();
  EXPECT_EQ(config.model, "mlx-community/Llama-3.2-1B-Instruct-4bit");
  EXPECT_TRUE(config.train);
  EXPECT_EQ(config.data.directory, "my-data");
  EXPECT_TRUE(config.data.mask_prompt);
  EXPECT_EQ(options.lora.type, FineTune::lora);
  EXPECT_EQ(options.lora.num_layers, 12);
  EXPECT_EQ(options.lora.rank, 16);
  EXPECT_EQ(options.lora.scale, 10.0f);
  EXPECT_EQ(options.lora.dropout, 0.1f);
  EXPECT_EQ(options.lora.keys, (std::vector<std::string>{"self_attn.q_proj", "self_attn.v_proj"}));
  EXPECT_EQ(options.optimizer.kind, OptimizerKind::adamw);
  EXPECT_EQ(options.optimizer.betas, std::pair(0.9f, 0.98f));
  EXPECT_EQ(options.optimizer.eps, 1e-6f);
  EXPECT_EQ(options.optimizer.weight_decay, 0.05f);
  EXPECT_EQ(options.optimizer.bias_correction, true);
  EXPECT_EQ(options.seed, 7u);
  EXPECT_EQ(options.batch_size, 2);
  EXPECT_EQ(options.iters, 500);
  EXPECT_EQ(options.val_batches, -1);
  EXPECT_EQ(options.learning_rate, 2e-5);
  EXPECT_EQ(options.steps_per_report, 5);
  EXPECT_EQ(options.steps_per_eval, 50);
  EXPECT_TRUE(options.resume_adapter_file.empty()) << "null is as if it were not there";
  EXPECT_EQ(options.adapter_path, "my-adapters");
  EXPECT_EQ(options.save_every, 25);
  EXPECT_FALSE(options.test);
  EXPECT_EQ(options.test_batches, 100);
  EXPECT_EQ(options.max_seq_length, 1024);
  EXPECT_TRUE(options.grad_checkpoint);
  EXPECT_EQ(options.grad_accumulation_steps, 4);
  EXPECT_EQ(options.schedule.name, "cosine_decay");
  EXPECT_EQ(options.schedule.arguments, (std::vector<double>{1e-5, 1000, 1e-7}));
  EXPECT_EQ(options.schedule.warmup, 100);
  EXPECT_EQ(options.schedule.warmup_init, 1e-7);
  EXPECT_EQ(config.notes.size(), 3u) << "report_to, project_name and clear_cache_threshold change nothing";
}

TEST(TrainConfigFile, AnEmptyFileIsTheDefaults) {
  for (const char* text : {"", "# nothing\n", "{}"}) {
    const TrainConfig config = parsed(text);
    const TrainOptions options = config.chosen();
    EXPECT_FALSE(config.train);
    EXPECT_EQ(options.iters, 1000);
    EXPECT_EQ(options.batch_size, 4);
    EXPECT_EQ(options.lora.rank, 8);
    EXPECT_EQ(options.lora.scale, 20.0f);
    EXPECT_EQ(options.lora.num_layers, 16);
    EXPECT_EQ(options.learning_rate, 1e-5);
    EXPECT_EQ(options.optimizer.kind, OptimizerKind::adam);
    EXPECT_EQ(options.optimizer.bias_correction, std::nullopt);
  }
}

TEST(TrainConfigFile, ASettingIsOfTheOptimizerThatIsChosen) {
  const std::string both = "optimizer_config:\n  adam:\n    bias_correction: true\n  sgd:\n    momentum: 0.5\n";
  EXPECT_EQ(parsed(both).chosen().optimizer.bias_correction, true);
  const TrainOptions sgd = parsed(both + "optimizer: SGD\n").chosen();
  EXPECT_EQ(sgd.optimizer.kind, OptimizerKind::sgd);
  EXPECT_EQ(sgd.optimizer.momentum, 0.5f);
  EXPECT_EQ(sgd.optimizer.bias_correction, std::nullopt);
  const TrainOptions factored =
      parsed("optimizer: adafactor\noptimizer_config: {adafactor: {eps: [1e-30, 1e-3], relative_step: false}}")
          .chosen();
  EXPECT_EQ(factored.optimizer.factored_eps, std::pair(1e-30f, 1e-3f));
  EXPECT_EQ(factored.optimizer.relative_step, false);
  EXPECT_EQ(
      parsed("optimizer: muon\noptimizer_config: {muon: {ns_steps: 3, nesterov: false}}").chosen().optimizer.ns_steps,
      3);
  EXPECT_EQ(parsed("optimizer_config: {adam: {}, adamw: null}").chosen().optimizer.eps, std::nullopt);
}

TEST(TrainConfigFile, OurOwnKeysAreThereToo) {
  const TrainConfig config = parsed(
      "packed: true\nmax_grad_norm: 1.5\nearly_stopping: 3\nkeep_checkpoints: 4\nsave_best: false\nadapter_format: "
      "peft\n"
      "sample_prompts: [one, two]\nsample_tokens: 9\nlora_parameters: {rslora: true, b_rate_ratio: 16}\nmax_loss: 50\n"
      "prompt_feature: question\ntext_feature: body\n");
  EXPECT_TRUE(config.options.packed);
  EXPECT_EQ(config.options.max_grad_norm, 1.5f);
  EXPECT_EQ(config.options.early_stopping, 3);
  EXPECT_EQ(config.options.keep_checkpoints, 4);
  EXPECT_FALSE(config.options.save_best);
  EXPECT_EQ(config.options.format, AdapterFormat::peft);
  EXPECT_EQ(config.options.sample_prompts, (std::vector<std::string>{"one", "two"}));
  EXPECT_EQ(config.options.sample_tokens, 9);
  EXPECT_TRUE(config.options.lora.rslora);
  EXPECT_EQ(config.options.lora.b_rate_ratio, 16.0f);
  EXPECT_EQ(config.options.max_loss, 50.0f);
  EXPECT_EQ(config.data.prompt_feature, "question");
  EXPECT_EQ(config.data.text_feature, "body");
}

/// Both stood in mlx-lm's own defaults until April 2025; it never read alpha.
TEST(TrainConfigFile, AnAlphaBesideAScaleIsNoted) {
  const TrainConfig config = parsed("lora_parameters:\n  rank: 8\n  alpha: 16\n  scale: 10.0\n");
  EXPECT_EQ(config.options.lora.scale, 10.0f);
  ASSERT_EQ(config.notes.size(), 1u);
  EXPECT_EQ(config.notes[0].find("config.yaml:3: lora_parameters.alpha has no effect"), 0u) << config.notes[0];
}

TEST(TrainConfigFile, OfAKeyThatIsThereTwiceTheLastValueCounts) {
  const TrainConfig config = parsed("iters: 5\nlora_parameters: {rank: 4, rank: 16}\niters: 6\n");
  EXPECT_EQ(config.options.iters, 6);
  EXPECT_EQ(config.options.lora.rank, 16);
  ASSERT_EQ(config.notes.size(), 2u);
  EXPECT_EQ(config.notes[0], "config.yaml:3: the key 'iters' again; the last value counts");
}

TEST(TrainConfigFile, UnknownKeysAreNamedWithTheirLine) {
  expect_error("iters: 5\nitres: 6\n", ErrorCode::bad_config,
               "[config.yaml:2] unknown key 'itres'; did you mean 'iters'?");
  expect_error("batchsize: 6\n", ErrorCode::bad_config, "unknown key 'batchsize'; did you mean 'batch_size'?");
  expect_error("lora_parameters: {rnak: 6}\n", ErrorCode::bad_config, "'lora_parameters.rnak'; did you mean 'rank'?");
  expect_error("lora_layers: 8\n", ErrorCode::bad_config, "num_layers");
  expect_error("use_dora: true\n", ErrorCode::bad_config, "fine_tune_type: dora");
  expect_error("lora_parameters:\n  rank: 8\n  alpha: 16\n", ErrorCode::bad_config,
               "[config.yaml:3] unknown key 'lora_parameters.alpha': mlx-lm multiplies by 'scale'");
  expect_error("lr_schedule: {name: cosine_decay, arguments: [1], cycles: 2}", ErrorCode::bad_config,
               "lr_schedule.cycles");
  expect_error("optimizer_config: {adam: {momentum: 1}}", ErrorCode::bad_config, "optimizer_config.adam.momentum");
  expect_error("optimizer_config: {adam: {learning_rate: 1}}", ErrorCode::bad_config, "a key of the file itself");
  expect_error("optimizer_config: {lion: {}}", ErrorCode::bad_config, "'lion'");
}

TEST(TrainConfigFile, ValuesOfAnotherKindAreNamed) {
  expect_error("iters: many\n", ErrorCode::bad_config, "'iters': expected an integer, got 'many'");
  expect_error("iters: 1.5\n", ErrorCode::bad_config, "'iters': expected an integer");
  expect_error("iters: [1]\n", ErrorCode::bad_config, "got a list or mapping");
  expect_error("batch_size: 0\n", ErrorCode::bad_config, "'batch_size': expected an integer from 1");
  expect_error("learning_rate: fast\n", ErrorCode::bad_config, "'learning_rate': expected a number");
  expect_error("learning_rate: .nan\n", ErrorCode::bad_config, "expected a finite number");
  expect_error("train: perhaps\n", ErrorCode::bad_config, "'train': expected true or false");
  expect_error("lora_parameters: 8\n", ErrorCode::bad_config, "expected a mapping");
  expect_error("lr_schedule: cosine_decay\n", ErrorCode::bad_config, "expected a mapping");
  expect_error("lr_schedule: {name: cosine_decay}\n", ErrorCode::bad_config, "arguments");
  expect_error("optimizer: lion\n", ErrorCode::bad_config, "got 'lion'");
  expect_error("optimizer_config: {adam: {betas: [0.9]}}", ErrorCode::bad_config, "expected two numbers");
  expect_error("- iters\n", ErrorCode::bad_config, "expected a mapping");
}

TEST(TrainConfigFile, WhatIsNotDoneHereIsRefused) {
  expect_error("fine_tune_type: full\n", ErrorCode::unsupported, "lora or dora");
  expect_error("hf_dataset: {path: org/name}\n", ErrorCode::unsupported, "not downloaded");
  expect_error("hf_dataset: [{path: a}, {path: b}]\n", ErrorCode::unsupported, "2 data sets");
  expect_error("hf_dataset: {path: a, train_split: 'train[:80%]'}\n", ErrorCode::unsupported, "train_split");
}

TEST(TrainConfigFile, ALocalDirectoryMayStandForADataSet) {
  const TrainConfig config =
      parsed("hf_dataset:\n  - path: /tmp\n    prompt_feature: question\n    completion_feature: answer\n");
  EXPECT_EQ(config.data.directory, "/tmp");
  EXPECT_EQ(config.data.prompt_feature, "question");
  EXPECT_EQ(config.data.completion_feature, "answer");
}

TEST(TrainConfigFile, WhatIsNotYamlIsABadFile) {
  expect_error("iters: [1\nseed: 2\n", ErrorCode::bad_file, "config.yaml:");
  expect_error("a: b: c\n", ErrorCode::bad_file, "not YAML");
  TrainConfig config;
  EXPECT_THROW(read_train_config("/nonexistent/config.yaml", config), Error);
  EXPECT_THROW(read_train_config("/tmp", config), Error);
}

TEST(TrainConfigFile, HostileNestingEnds) {
  std::string deep(200'000, '[');
  EXPECT_THROW(parsed("data: " + deep), Error);
  std::string bomb = "a: &a [x, x]\n";
  for (char c = 'b'; c < 'z'; ++c)
    bomb += std::string(1, c) + ": &" + c + " [*" + char(c - 1) + ", *" + char(c - 1) + "]\n";
  EXPECT_THROW(parsed(bomb), Error);
}

}  // namespace
}  // namespace bumblebee::cli
