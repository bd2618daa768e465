// Whole trainings of mixtures of experts, and of a model of every other kind.
#include <gtest/gtest.h>

#include "lora/dense.h"
#include "lora/read_adapter.h"
#include "tests/train/training_run.h"
#include "train/trainer.h"

namespace bumblebee::train {
namespace {

World world_of_experts() { return World("cpu", true, 2, {.family = "qwen3_moe", .experts = 4, .of_row = 2}); }

TEST(Trainer, ExpertsLearnAndGoOnBitForBit) {
  const test::TemporaryDirectory scratch;
  World world = world_of_experts();
  TrainOptions whole = small_run(scratch.path() / "whole");
  std::vector<float> losses;
  whole.callbacks.report = [&](const TrainReport& r) { losses.push_back(float(r.train_loss)); };
  const TrainResult want = world.train(whole);
  EXPECT_LT(losses.back(), 0.9f * losses.front());
  for (const int stop : {1, 6, 11}) {
    TrainOptions pieces = small_run(scratch.path() / ("pieces" + std::to_string(stop)));
    pieces.callbacks.progress = [&](const TrainProgress& p) { return p.iteration != stop; };
    EXPECT_EQ(world_of_experts().train(pieces).end, TrainEnd::cancelled);
    pieces.callbacks.progress = nullptr;
    pieces.resume = true;
    EXPECT_EQ(world_of_experts().train(pieces).adapter_id, want.adapter_id) << "after " << stop;
  }
  const lora::Adapter saved = lora::read_adapter(whole.adapter_path);
  EXPECT_EQ(saved.modules.size(), 2u * (4 + 1 + 3));
  const lora::LowRank& up = *saved.modules.at("model.layers.1.mlp.switch_mlp.up_proj").low_rank;
  EXPECT_EQ(up.experts, 4);
  EXPECT_EQ(up.rank(), 4);
  EXPECT_GT(lora::delta_norm(up), 0);
}

class OfEveryKind : public testing::TestWithParam<testing_support::TinyModel> {};
INSTANTIATE_TEST_SUITE_P(Trainer, OfEveryKind,
                         testing::Values(testing_support::TinyModel{.family = "gemma2", .window = 5},
                                         testing_support::TinyModel{.family = "gemma3", .window = 5, .tied = true},
                                         testing_support::TinyModel{.family = "gemma4", .layers = 4},
                                         testing_support::TinyModel{.family = "gemma4_moe", .experts = 4, .of_row = 2},
                                         testing_support::TinyModel{.family = "qwen3_5", .layers = 4},
                                         testing_support::TinyModel{.family = "qwen3_5_moe", .experts = 4, .of_row = 2},
                                         testing_support::TinyModel{.family = "qwen3_next", .experts = 4, .of_row = 2},
                                         testing_support::TinyModel{.family = "gpt_oss", .experts = 4, .of_row = 2},
                                         testing_support::TinyModel{.family = "glm4"},
                                         testing_support::TinyModel{.family = "granite"},
                                         testing_support::TinyModel{.family = "lfm2"},
                                         testing_support::TinyModel{.family = "phi3"},
                                         testing_support::TinyModel{.family = "smollm3"}),
                         [](const auto& p) { return p.param.family; });

/// Losses fall; a run in pieces is the run in one; and what was saved is what was trained: read from its files, it has
/// the same loss to the last bit.
TEST_P(OfEveryKind, LearnsGoesOnAndIsWhatItSaved) {
  const test::TemporaryDirectory scratch;
  const auto world = [] { return World("cpu", true, 2, GetParam()); };
  const auto run = [&](const char* name) {
    TrainOptions options = small_run(scratch.path() / name);
    options.max_loss = 1000;  // of random weights
    return options;
  };
  TrainOptions whole = run("whole");
  std::vector<double> losses;
  whole.callbacks.report = [&](const TrainReport& r) { losses.push_back(r.train_loss); };
  const TrainResult want = world().train(whole);
  EXPECT_LT(losses.back(), 0.95 * losses.front());
  TrainOptions pieces = run("pieces");
  pieces.callbacks.progress = [&](const TrainProgress& p) { return p.iteration != 6; };
  EXPECT_EQ(world().train(pieces).end, TrainEnd::cancelled);
  pieces.callbacks.progress = nullptr;
  pieces.resume = pieces.grad_checkpoint = true;
  EXPECT_EQ(world().train(pieces).adapter_id, want.adapter_id);
  TrainOptions again = run("again");
  again.resume_adapter_file = whole.adapter_path;
  again.iters = 1;
  EXPECT_EQ(world().train(again).first_val_loss, want.val_loss);
}

TEST(Trainer, ExpertsBeginWithWhatEitherFormatHolds) {
  const test::TemporaryDirectory scratch;
  World world = world_of_experts();
  std::vector<std::string> ids;
  for (const AdapterFormat format : {AdapterFormat::mlx, AdapterFormat::peft}) {
    const std::string name = format == AdapterFormat::mlx ? "mlx" : "peft";
    TrainOptions first = small_run(scratch.path() / name);
    first.format = format;
    world.train(first);
    TrainOptions second = small_run(scratch.path() / (name + "2"));
    second.iters = 3;
    second.resume_adapter_file = first.adapter_path;
    ids.push_back(world.train(second).adapter_id);
  }
  EXPECT_EQ(ids[0], ids[1]);
}

TEST(Trainer, StacksWithoutANameInPeftAreRefusedBeforeTheyAreTrained) {
  for (const char* family : {"gpt_oss", "gemma4_moe"}) {
    const test::TemporaryDirectory scratch;
    World world("cpu", true, 2, {.family = family, .experts = 4, .of_row = 2});
    TrainOptions options = small_run(scratch.path());
    options.format = AdapterFormat::peft;
    const Error error = caught([&] { world.train(options); });
    EXPECT_EQ(error.code(), ErrorCode::unsupported);
    EXPECT_NE(std::string(error.what()).find("a stack of experts without a name"), std::string::npos) << error.what();
    options.lora.keys = {"self_attn.q_proj"};
    options.iters = 2;
    EXPECT_EQ(world.train(options).end, TrainEnd::finished);
  }
}

TEST(Trainer, StacksAreRefusedWhereRowsAndColumnsMatter) {
  const test::TemporaryDirectory scratch;
  World world = world_of_experts();
  TrainOptions options = small_run(scratch.path());
  options.optimizer.kind = OptimizerKind::muon;
  EXPECT_NE(std::string(caught([&] { world.train(options); }).what()).find("is a stack of 4 experts"),
            std::string::npos);
  options.lora.keys = {"self_attn.q_proj", "mlp.gate"};
  options.iters = 2;
  EXPECT_EQ(world.train(options).end, TrainEnd::finished);
}

}  // namespace
}  // namespace bumblebee::train
