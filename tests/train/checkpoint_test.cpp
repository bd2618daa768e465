// Snapshots: whole or not there, checked when they are read, as many as were asked for.
#include "train/checkpoint.h"

#include <gtest/gtest.h>

#include "tests/io/files.h"
#include "tests/train/training_run.h"

namespace bumblebee::train {
namespace {

namespace fs = std::filesystem;

Snapshot some(int iteration) {
  return {.iteration = iteration,
          .state = {{"run", {{"loss", 0.1 + iteration}}}},
          .tensors = {{"a", {1.5f, float(iteration)}}, {"b", {-0.0f}}}};
}

std::vector<std::string> names_in(const fs::path& root) {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(root)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

TEST(CheckpointStore, GivesBackTheNewestBitForBit) {
  const test::TemporaryDirectory scratch;
  {
    CheckpointStore store(scratch.path(), 2);
    EXPECT_TRUE(store.empty());
    EXPECT_FALSE(store.newest());
    for (int i = 1; i <= 5; ++i) store.save(some(i * 100));
  }
  EXPECT_EQ(names_in(scratch.path()), (std::vector<std::string>{"latest", "lock", "step-0000400", "step-0000500"}));
  EXPECT_EQ(test::read_bytes(scratch.path() / "latest"), "step-0000500\n");
  const CheckpointStore store(scratch.path(), 2);
  const Snapshot got = *store.newest(), want = some(500);
  EXPECT_EQ(got.iteration, 500);
  EXPECT_EQ(got.state, want.state);
  EXPECT_EQ(got.tensors, want.tensors);
  EXPECT_TRUE(std::signbit(got.tensors.at("b")[0]));
}

TEST(CheckpointStore, APathThatIsNotUtf8IsNoReasonToLoseARun) {
  const test::TemporaryDirectory scratch;
  CheckpointStore store(scratch.path(), 2);
  Snapshot snapshot = some(1);
  snapshot.state["data"] = "caf\xE9.jsonl";
  store.save(snapshot);
  EXPECT_EQ(store.newest()->state["data"], "caf\uFFFD.jsonl");
}

TEST(CheckpointStore, SavesAStepAgainInItsPlace) {
  const test::TemporaryDirectory scratch;
  CheckpointStore store(scratch.path(), 3);
  store.save(some(1));
  Snapshot other = some(1);
  other.tensors["a"] = {7};
  store.save(other);
  EXPECT_EQ(store.newest()->tensors, other.tensors);
  EXPECT_EQ(names_in(scratch.path()), (std::vector<std::string>{"latest", "lock", "step-0000001"}));
}

TEST(CheckpointStore, LeftoversOfACrashAreNoCheckpoints) {
  const test::TemporaryDirectory scratch;
  CheckpointStore(scratch.path(), 2).save(some(3));
  fs::create_directories(scratch.path() / "tmp-4");
  test::write_bytes(scratch.path() / "tmp-4" / "tensors.safetensors", "half");
  CheckpointStore store(scratch.path(), 2);
  EXPECT_EQ(store.newest()->iteration, 3);
  EXPECT_FALSE(fs::exists(scratch.path() / "tmp-4"));
}

TEST(CheckpointStore, WhatWasChangedIsNamed) {
  for (const char* name : {"tensors.safetensors", "state.json", "manifest.json"}) {
    for (const bool gone : {false, true}) {
      const test::TemporaryDirectory scratch;
      CheckpointStore store(scratch.path(), 2);
      const fs::path file = store.save(some(3)) / name;
      if (gone) {
        fs::remove(file);
      } else {
        std::string bytes = test::read_bytes(file);
        bytes[bytes.size() / 2] ^= 1;
        test::write_bytes(file, bytes);
      }
      try {
        store.newest();
        ADD_FAILURE() << name;
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::bad_file);
        const std::string what = error.what();
        // A bit of the manifest may make another file's hash wrong.
        EXPECT_TRUE(what.find("step-0000003") != std::string::npos) << what;
      }
    }
  }
}

TEST(CheckpointStore, OneProcessAtATime) {
  const test::TemporaryDirectory scratch;
  const CheckpointStore store(scratch.path(), 2);
  EXPECT_THROW(CheckpointStore(scratch.path(), 2), Error);
}

TEST(CheckpointStore, ClearsOnRequest) {
  const test::TemporaryDirectory scratch;
  CheckpointStore store(scratch.path(), 5);
  store.save(some(1));
  store.save(some(2));
  store.clear();
  EXPECT_TRUE(store.empty());
  EXPECT_EQ(names_in(scratch.path()), std::vector<std::string>{"lock"});
}

TEST(Trainer, ARunThatDidNotWriteWhenItValidatedIsNotValidatedAgain) {
  const test::TemporaryDirectory scratch;
  World world;
  TrainOptions options = small_run(scratch.path());
  options.iters = 10;
  world.train(options);
  {
    CheckpointStore store(options.adapter_path / "checkpoints", 3);
    Snapshot old = *store.newest();
    old.state["run"].erase("validated");
    store.save(old);
  }
  options.resume = true;
  int validated = 0;
  options.callbacks.validated = [&](const ValidationReport&) { ++validated; };
  world.train(options);
  EXPECT_EQ(validated, 0);
}

}  // namespace
}  // namespace bumblebee::train
