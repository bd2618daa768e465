// What a run does and when, what it writes, and that a run in pieces is the run in one.
#include "train/trainer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>

#include "base/error.h"
#include "lora/dense.h"
#include "lora/identity.h"
#include "lora/read_adapter.h"
#include "tests/train/training_run.h"

namespace bumblebee::train {
namespace {

namespace fs = std::filesystem;

std::string id_of(const fs::path& directory) {
  return lora::to_string(lora::identify(lora::read_adapter(directory))->id);
}

TEST(Trainer, LearnsAndSaysWhatItDid) {
  const test::TemporaryDirectory scratch;
  TrainOptions options = small_run(scratch.path());
  options.iters = 60;
  std::vector<TrainReport> reports;
  std::vector<int> iterations, validated;
  std::vector<std::string> saved;
  options.callbacks.report = [&](const TrainReport& r) { reports.push_back(r); };
  options.callbacks.progress = [&](const TrainProgress& p) {
    iterations.push_back(p.iteration);
    return true;
  };
  options.callbacks.validated = [&](const ValidationReport& v) { validated.push_back(v.iteration); };
  options.callbacks.saved = [&](const TrainSaved& s) { saved.push_back(s.path.filename().string()); };
  World world;
  const TrainResult result = world.train(options);
  EXPECT_EQ(result.end, TrainEnd::finished);
  EXPECT_EQ(result.iterations, 60);
  EXPECT_EQ(result.updates, 60);
  ASSERT_EQ(reports.size(), 15u);
  EXPECT_LT(reports.back().train_loss, 0.5 * reports.front().train_loss);
  EXPECT_LT(*result.best_val_loss, 1e9);
  EXPECT_GT(reports.back().tokens_per_second, 0);
  EXPECT_GT(reports.back().gradient_norm, 0);
  EXPECT_EQ(reports.back().trained_tokens, result.trained_tokens);
  std::vector<int> all(60);
  std::iota(all.begin(), all.end(), 1);
  EXPECT_EQ(iterations, all);
  // Before the first, after every 5th and the last.
  EXPECT_EQ(validated, (std::vector<int>{0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60}));
  EXPECT_TRUE(fs::exists(options.adapter_path / "0000060_adapters.safetensors"));
  EXPECT_TRUE(fs::exists(options.adapter_path / "0000004_adapters.safetensors"));
  EXPECT_EQ(id_of(options.adapter_path), result.adapter_id);
  EXPECT_TRUE(fs::exists(result.best / "adapters.safetensors"));
  EXPECT_EQ(result.base_hash.size(), 64u);
  EXPECT_FALSE(saved.empty());
}

TEST(Trainer, ItsTimeAndManyPassesOverFewRowsAreSaidBefore) {
  const test::TemporaryDirectory scratch;
  TrainOptions options = small_run(scratch.path());
  options.iters = 200;  // of 7 batches
  std::string notes;
  double seconds = 0;
  options.callbacks.note = [&](const std::string& text) { notes += text + "\n"; };
  options.callbacks.started = [&](const TrainPlan& plan) { seconds = plan.seconds; };
  options.callbacks.progress = [](const TrainProgress&) { return false; };
  EXPECT_EQ(World().train(options).end, TrainEnd::cancelled);
  EXPECT_NE(notes.find("200 iterations are 29 passes over the same 21 rows"), std::string::npos) << notes;
  EXPECT_GT(seconds, 0);
  notes.clear();
  options.overwrite = true;
  options.early_stopping = 3;
  World().train(options);
  EXPECT_EQ(notes.find("passes"), std::string::npos) << notes;
}

TEST(Trainer, AccumulatesWeightedByTokens) {
  // Three batches of one row before an update are one batch of three rows.
  World world("ref", false);
  const test::TemporaryDirectory scratch;
  TrainOptions together = small_run(scratch.path() / "a"), apart = small_run(scratch.path() / "b");
  world.data.train.rows.resize(3);
  together.iters = 1;
  apart.iters = 3;
  apart.batch_size = 1;
  apart.grad_accumulation_steps = 3;
  together.optimizer.kind = apart.optimizer.kind = OptimizerKind::sgd;
  double norms[2];
  together.callbacks.report = [&](const TrainReport& r) { norms[0] = r.gradient_norm; };
  apart.callbacks.report = [&](const TrainReport& r) { norms[1] = r.gradient_norm; };
  EXPECT_EQ(world.train(together).updates, 1);
  EXPECT_EQ(world.train(apart).updates, 1);
  EXPECT_NEAR(norms[0], norms[1], 1e-5 * norms[0]);
}

/// Steps of training read and write long-lived memory only: what a step made is poison after it.
TEST(Trainer, LearnsTheSameWhereStepsForgetWhatTheyMade) {
  std::string ids[2];
  for (const int replay : {0, 1}) {
    const test::TemporaryDirectory scratch;
    TrainOptions options = small_run(scratch.path());
    options.lora.type = FineTune::dora;
    options.lora.dropout = 0.1f;
    options.grad_accumulation_steps = 2;
    ids[replay] = World(replay == 1 ? "replay" : "ref", false).train(options).adapter_id;
  }
  EXPECT_EQ(ids[0], ids[1]);
}

TEST(Trainer, LayersComputedTwiceGiveTheSameAdapter) {
  World world;
  const test::TemporaryDirectory scratch;
  TrainOptions once = small_run(scratch.path() / "a"), twice = small_run(scratch.path() / "b");
  once.lora.dropout = twice.lora.dropout = 0.2f;
  twice.grad_checkpoint = true;
  EXPECT_EQ(world.train(once).adapter_id, world.train(twice).adapter_id);
}

TEST(Trainer, ThreadsChangeNothing) {
  std::vector<std::string> ids;
  for (const int threads : {1, 2, 3}) {
    const test::TemporaryDirectory scratch;
    ids.push_back(World("cpu", true, threads).train(small_run(scratch.path())).adapter_id);
  }
  EXPECT_EQ(ids[0], ids[1]);
  EXPECT_EQ(ids[0], ids[2]);
}

struct Kind {
  std::string name;
  std::function<void(TrainOptions&)> change;
};

class Resuming : public testing::TestWithParam<Kind> {};
INSTANTIATE_TEST_SUITE_P(
    All, Resuming,
    testing::Values(
        Kind{"adam", [](TrainOptions&) {}},
        Kind{"adamw_accumulated",
             [](TrainOptions& o) {
               o.optimizer.kind = OptimizerKind::adamw;
               o.optimizer.bias_correction = true;
               o.grad_accumulation_steps = 5;
               o.max_grad_norm = 0.5f;
             }},
        Kind{"dropout_schedule",
             [](TrainOptions& o) {
               o.lora.dropout = 0.3f;
               o.schedule = {.name = "cosine_decay", .arguments = {3e-3, 9}, .warmup = 3, .warmup_init = 1e-6};
             }},
        Kind{"dora_sgd",
             [](TrainOptions& o) {
               o.lora.type = FineTune::dora;
               o.optimizer = {.kind = OptimizerKind::sgd, .momentum = 0.9f};
             }},
        Kind{"muon", [](TrainOptions& o) { o.optimizer.kind = OptimizerKind::muon; }},
        Kind{"adafactor",
             [](TrainOptions& o) {
               o.optimizer.kind = OptimizerKind::adafactor;
               o.optimizer.beta_1 = 0.9f;
             }},
        Kind{"packed_peft",
             [](TrainOptions& o) {
               o.packed = true;
               o.max_seq_length = 24;
               o.batch_size = 1;
               o.format = AdapterFormat::peft;
               o.grad_checkpoint = true;
             }}),
    [](const auto& p) { return p.param.name; });

TEST_P(Resuming, ARunInPiecesIsTheRunInOne) {
  const test::TemporaryDirectory scratch;
  World world;
  TrainOptions whole = small_run(scratch.path() / "whole");
  GetParam().change(whole);
  const TrainResult want = world.train(whole);
  for (int stop = 1; stop < whole.iters; ++stop) {
    TrainOptions pieces = small_run(scratch.path() / ("pieces" + std::to_string(stop)));
    GetParam().change(pieces);
    pieces.callbacks.progress = [&](const TrainProgress& p) { return p.iteration != stop; };
    EXPECT_EQ(World().train(pieces).end, TrainEnd::cancelled);
    pieces.callbacks.progress = nullptr;
    pieces.resume = true;
    const TrainResult got = World().train(pieces);
    EXPECT_EQ(got.end, TrainEnd::finished);
    EXPECT_EQ(got.adapter_id, want.adapter_id) << "after " << stop;
    EXPECT_EQ(id_of(pieces.adapter_path), want.adapter_id);
    EXPECT_EQ(got.trained_tokens, want.trained_tokens);
    EXPECT_EQ(got.train_loss, want.train_loss);
    EXPECT_EQ(got.val_loss, want.val_loss);
    EXPECT_EQ(got.best_val_loss, want.best_val_loss);
    EXPECT_EQ(got.best_iteration, want.best_iteration);
  }
}

/// Parameters, gradients and moments are f32 on the reference as well: all of them are in a checkpoint.
TEST(Trainer, OnTheReferenceTooARunInPiecesIsTheRunInOne) {
  const auto change = [](TrainOptions& o) {
    o.iters = 5;
    o.lora.type = FineTune::dora;
    o.lora.num_layers = 1;
    o.grad_accumulation_steps = 3;
    o.max_grad_norm = 0.5f;
  };
  const test::TemporaryDirectory scratch;
  World world("ref", false);
  TrainOptions whole = small_run(scratch.path() / "whole"), pieces = small_run(scratch.path() / "pieces");
  change(whole);
  change(pieces);
  const TrainResult want = world.train(whole);
  for (const int stop : {2, 4}) {
    pieces.callbacks.progress = [&](const TrainProgress& p) { return p.iteration != stop; };
    EXPECT_EQ(world.train(pieces).end, TrainEnd::cancelled);
    pieces.resume = true;
  }
  pieces.callbacks.progress = nullptr;
  EXPECT_EQ(world.train(pieces).adapter_id, want.adapter_id);
}

TEST(Trainer, ResumesToMoreIterations) {
  const test::TemporaryDirectory scratch;
  World world;
  const TrainResult want = world.train(small_run(scratch.path() / "whole"));
  TrainOptions options = small_run(scratch.path() / "more");
  options.iters = 7;
  world.train(options);
  options.iters = 12;
  options.resume = true;
  // Validation at the last iteration is not part of the bits.
  EXPECT_EQ(world.train(options).adapter_id, want.adapter_id);
  // Once more: nothing is left to do.
  EXPECT_EQ(world.train(options).adapter_id, want.adapter_id);
}

TEST(Trainer, AnEarlierRunIsNeitherMixedInNorLostByAccident) {
  const test::TemporaryDirectory scratch;
  World world;
  TrainOptions options = small_run(scratch.path());
  world.train(options);
  EXPECT_NE(std::string(caught([&] { world.train(options); }).what()).find("holds an adapter already"),
            std::string::npos);
  options.resume = true;
  options.lora.dropout = 0.5f;
  EXPECT_NE(std::string(caught([&] { world.train(options); }).what()).find("dropout"), std::string::npos);
  options.lora.dropout = 0;
  world.data.train.rows.front().tokens.front() ^= 1;
  EXPECT_NE(std::string(caught([&] { world.train(options); }).what()).find("data"), std::string::npos);
  options.resume = false;
  options.overwrite = true;
  EXPECT_EQ(world.train(options).end, TrainEnd::finished);
}

TEST(Trainer, AnAdapterOfSomebodyElseIsNeverOverwrittenByAccident) {
  for (const char* name :
       {"adapters.safetensors", "adapter_model.safetensors", "adapter_config.json", "best/adapters.safetensors",
        "0000100_adapters.safetensors", "checkpoint-20/adapter_model.safetensors"}) {
    SCOPED_TRACE(name);
    const test::TemporaryDirectory scratch;
    std::filesystem::create_directories((scratch.path() / name).parent_path());
    test::write_bytes(scratch.path() / name, "precious");
    World world;
    TrainOptions options = small_run(scratch.path());
    options.adapter_path = scratch.path();
    for (const int checkpoints : {0, 2}) {
      options.keep_checkpoints = checkpoints;
      const Error refused = caught([&] { world.train(options); });
      EXPECT_EQ(refused.code(), ErrorCode::bad_request);
      EXPECT_NE(std::string(refused.what()).find("holds an adapter already"), std::string::npos) << refused.what();
    }
    options.resume = true;  // there is no run of ours to go on from
    EXPECT_NE(std::string(caught([&] { world.train(options); }).what()).find("holds an adapter"), std::string::npos);
    EXPECT_EQ(read_text_file(scratch.path() / name, 100), "precious");
    EXPECT_FALSE(std::filesystem::exists(scratch.path() / "checkpoints")) << "a refusal leaves nothing behind";
  }
}

TEST(Trainer, ANewRunLeavesNothingThatCouldBeTakenForItsOwn) {
  const test::TemporaryDirectory scratch;
  World world;
  TrainOptions options = small_run(scratch.path());
  options.adapter_path = scratch.path();
  options.overwrite = true;
  for (const char* name : {"0000007_adapters.safetensors", "best/adapters.safetensors",
                           "checkpoint-5/adapter_config.json", "adapter_model.safetensors", "notes.txt"}) {
    std::filesystem::create_directories((scratch.path() / name).parent_path());
    test::write_bytes(scratch.path() / name, "old");
  }
  options.save_best = false;
  world.train(options);
  for (const char* name : {"0000007_adapters.safetensors", "best", "checkpoint-5", "adapter_model.safetensors"})
    EXPECT_FALSE(std::filesystem::exists(scratch.path() / name)) << name;
  EXPECT_EQ(read_text_file(scratch.path() / "notes.txt", 10), "old") << "what no training makes stays";
}

TEST(Trainer, WhatIsReplacedStaysUntilSomethingStandsInItsPlace) {
  const test::TemporaryDirectory scratch;
  World world;
  TrainOptions options = small_run(scratch.path());
  options.adapter_path = scratch.path();
  world.train(options);
  std::filesystem::create_directories(scratch.path() / "best");
  test::write_bytes(scratch.path() / "best" / "photo", "no adapter");
  const std::string before = id_of(scratch.path());
  options.overwrite = true;
  options.keep_checkpoints = 0;
  options.save_best = false;
  options.callbacks.progress = [](const TrainProgress&) -> bool {
    throw Error(ErrorCode::device, "test", "fell over");
  };
  EXPECT_EQ(caught([&] { world.train(options); }).code(), ErrorCode::device);
  EXPECT_EQ(id_of(scratch.path() / ".replaced-0"), before);
  EXPECT_FALSE(std::filesystem::exists(scratch.path() / "checkpoints" / "latest")) << "of the run that is replaced";

  options.callbacks = {};
  options.resume_adapter_file = scratch.path() / ".replaced-0";  // inside: in memory before anything is moved
  EXPECT_EQ(world.train(options).end, TrainEnd::finished);
  EXPECT_NE(id_of(scratch.path()), before);
  EXPECT_FALSE(std::filesystem::exists(scratch.path() / ".replaced-1"));

  options.overwrite = false;
  options.resume = true;
  options.resume_adapter_file.clear();
  options.keep_checkpoints = 2;
  test::write_bytes(scratch.path() / "checkpoints" / "latest", "step-0000012\n");
  EXPECT_NE(std::string(caught([&] { world.train(options); }).what()).find("'latest' names a checkpoint"),
            std::string::npos);
}

TEST(Trainer, AnAdapterDoesNotLieOverItsInputs) {
  const test::TemporaryDirectory scratch;
  World world;
  TrainOptions options = small_run(scratch.path());
  options.adapter_path = scratch.path() / "data";
  TrainerInputs in = world.inputs(options);
  in.files = {scratch.path() / "data" / "train.jsonl"};
  EXPECT_NE(std::string(caught([&] { Trainer(in).run(); }).what()).find("one that holds it"), std::string::npos);
  in.files.clear();
  in.base_directory = scratch.path();
  EXPECT_NE(std::string(caught([&] { Trainer(in).run(); }).what()).find("one inside it"), std::string::npos);
}

TEST(Trainer, StopsEarlyAndKeepsTheBest) {
  const test::TemporaryDirectory scratch;
  World world;
  TrainOptions options = small_run(scratch.path());
  // Memorises six rows: what it does not see gets worse.
  world.data.train.rows.resize(6);
  world.data.valid.rows.clear();
  testing_support::Random random(4);
  for (int i = 0; i < 6; ++i) {
    dataset::DataRow row;
    for (int k = 0; k < 8; ++k) row.tokens.push_back(random.integer(0, world.tiny.vocab - 1));
    world.data.valid.rows.push_back(row);
  }
  options.iters = 400;
  options.learning_rate = 1e-2;
  options.early_stopping = 3;
  std::vector<ValidationReport> seen;
  options.callbacks.validated = [&](const ValidationReport& v) { seen.push_back(v); };
  const TrainResult result = world.train(options);
  EXPECT_EQ(result.end, TrainEnd::early_stopped);
  EXPECT_LT(result.iterations, 400);
  ASSERT_GE(seen.size(), 4u);
  for (size_t i = seen.size() - 3; i < seen.size(); ++i) EXPECT_FALSE(seen[i].best);
  EXPECT_EQ(result.iterations, seen.back().iteration);
  const auto best = std::min_element(seen.begin(), seen.end(), [](auto& a, auto& b) { return a.loss < b.loss; });
  EXPECT_EQ(result.best_iteration, best->iteration);
}

TEST(Trainer, ALossThatIsNoNumberNamesIterationAndRows) {
  const test::TemporaryDirectory scratch;
  World world;
  TrainOptions options = small_run(scratch.path());
  options.optimizer.kind = OptimizerKind::sgd;
  options.learning_rate = 1e30;
  const std::string exploded = caught([&] { world.train(options); }).what();
  EXPECT_NE(exploded.find("iteration 2"), std::string::npos) << exploded;
  EXPECT_NE(exploded.find("train.jsonl:"), std::string::npos) << exploded;
  options.overwrite = true;
  options.learning_rate = 1e-3;
  options.max_loss = 0.01f;
  const std::string high = caught([&] { world.train(options); }).what();
  EXPECT_NE(high.find("iteration 1"), std::string::npos) << high;
  EXPECT_NE(high.find("at most 0.01"), std::string::npos) << high;
  EXPECT_NE(high.find("nothing was learned yet"), std::string::npos) << high;
}

TEST(Trainer, ABaseThatChangesMeanwhileIsAnError) {
  const test::TemporaryDirectory scratch;
  World world;
  TrainOptions options = small_run(scratch.path());
  const HostWeight down = [&] {
    world.weights.rewind();
    return world.weights.matrix("model.layers.1.mlp.down_proj", world.tiny.d_model, world.tiny.d_ff);
  }();
  options.callbacks.progress = [&](const TrainProgress& p) {
    if (p.iteration == 3) *const_cast<std::byte*>(down.codes.data()) ^= std::byte{0x77};
    return true;
  };
  EXPECT_NE(std::string(caught([&] { world.train(options); }).what()).find("base"), std::string::npos);
}

TEST(Trainer, BothFormatsHoldTheSameAdapter) {
  World world;
  const test::TemporaryDirectory scratch;
  TrainOptions mlx = small_run(scratch.path() / "mlx"), peft = small_run(scratch.path() / "peft");
  peft.format = AdapterFormat::peft;
  mlx.lora.rslora = peft.lora.rslora = true;
  const TrainResult a = world.train(mlx), b = world.train(peft);
  EXPECT_EQ(lora::read_adapter(mlx.adapter_path).modules, lora::read_adapter(peft.adapter_path).modules);
  EXPECT_EQ(id_of(mlx.adapter_path), a.adapter_id);
  EXPECT_EQ(id_of(peft.adapter_path), b.adapter_id);
  EXPECT_TRUE(fs::exists(peft.adapter_path / "checkpoint-12" / "adapter_model.safetensors"));
}

TEST(Trainer, BeginsWithGivenWeights) {
  World world;
  const test::TemporaryDirectory scratch;
  TrainOptions first = small_run(scratch.path() / "first");
  world.train(first);
  for (const fs::path& from : {first.adapter_path, first.adapter_path / "0000012_adapters.safetensors"}) {
    TrainOptions second = small_run(scratch.path() / "second");
    second.overwrite = true;
    second.resume_adapter_file = from;
    second.iters = 1;
    double loss = 0;
    second.callbacks.validated = [&](const ValidationReport& v) { loss = v.loss; };
    world.train(second);
    const lora::Adapter adapter = lora::read_adapter(first.adapter_path);
    const TrainerInputs in = world.inputs(second);
    Trainer trainer(in);
    EXPECT_EQ(trainer.params().adapter("", "").modules, adapter.modules);
    EXPECT_GT(loss, 0);
  }
  TrainOptions other = small_run(scratch.path() / "other");
  other.lora.rank = 5;
  other.resume_adapter_file = first.adapter_path;
  EXPECT_NE(std::string(caught([&] { world.train(other); }).what()).find("rank"), std::string::npos);
}

TEST(Trainer, RefusesOptionsByName) {
  World world;
  const test::TemporaryDirectory scratch;
  const std::pair<const char*, std::function<void(TrainOptions&)>> wrong[] = {
      {"iters", [](TrainOptions& o) { o.iters = 0; }},
      {"batch_size", [](TrainOptions& o) { o.batch_size = 0; }},
      {"grad_accumulation_steps", [](TrainOptions& o) { o.grad_accumulation_steps = 0; }},
      {"max_seq_length", [](TrainOptions& o) { o.max_seq_length = 1; }},
      {"steps_per_eval", [](TrainOptions& o) { o.steps_per_eval = 0; }},
      {"max_grad_norm", [](TrainOptions& o) { o.max_grad_norm = -1; }},
      {"rank", [](TrainOptions& o) { o.lora.rank = 0; }},
      {"scale", [](TrainOptions& o) { o.lora.scale = NAN; }},
      {"dropout", [](TrainOptions& o) { o.lora.dropout = 1; }},
      {"num_layers", [](TrainOptions& o) { o.lora.num_layers = 16; }},
      {"learning_rate", [](TrainOptions& o) { o.learning_rate = -1; }},
      {"overwrite", [](TrainOptions& o) { o.resume = o.overwrite = true; }},
      {"keep_checkpoints", [](TrainOptions& o) { o.resume = true, o.keep_checkpoints = 0; }}};
  for (const auto& [name, change] : wrong) {
    TrainOptions options = small_run(scratch.path());
    change(options);
    const Error error = caught([&] { world.train(options); });
    EXPECT_EQ(error.code(), ErrorCode::bad_request);
    EXPECT_NE(std::string(error.what()).find(name), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace bumblebee::train
