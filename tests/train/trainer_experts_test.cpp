// Whole trainings of a mixture of experts.
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
