// SIGKILL at random moments, many of them inside saving: whatever is left, the run goes on from it to the same bits.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "lora/identity.h"
#include "lora/read_adapter.h"
#include "tests/train/training_run.h"

namespace bumblebee::train {
namespace {

using Clock = std::chrono::steady_clock;

TrainOptions run_of(const std::filesystem::path& directory) {
  TrainOptions options = small_run(directory);
  options.iters = 30;
  options.save_every = 1;
  options.grad_accumulation_steps = 2;
  options.lora.dropout = 0.1f;
  options.verify_base = false;
  options.resume = true;
  return options;
}

/// Trains in another process, killed after `patience`. True when it came to its end.
bool finishes(const TrainOptions& options, std::chrono::microseconds patience) {
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      World().train(options);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s\n", error.what());
      ::_exit(1);
    }
    ::_exit(0);
  }
  const auto end = Clock::now() + patience;
  int status = 0;
  while (Clock::now() < end) {
    if (::waitpid(child, &status, WNOHANG) == child) {
      EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "the run failed, status " << status;
      return true;
    }
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  ::kill(child, SIGKILL);
  ::waitpid(child, &status, 0);
  return WIFEXITED(status);
}

/// Whether a save was under way.
bool was_saving(const std::filesystem::path& adapters) {
  const auto unfinished = [](const std::filesystem::path& folder, const char* mark) {
    if (!std::filesystem::exists(folder)) return false;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      if (entry.path().filename().string().find(mark) != std::string::npos) return true;
    }
    return false;
  };
  return unfinished(adapters, ".tmp-") || unfinished(adapters / "checkpoints", "tmp-");
}

TEST(Killed, ARunEndsWithTheSameAdapterHoweverOftenItDies) {
  const test::TemporaryDirectory scratch;
  const auto start = Clock::now();
  ASSERT_TRUE(finishes(run_of(scratch.path() / "whole"), std::chrono::hours(1)));
  const auto whole = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - start);
  const std::string want =
      lora::to_string(lora::identify(lora::read_adapter(scratch.path() / "whole" / "adapters"))->id);
  testing_support::Random random(BB_SEED);
  int kills = 0, runs = 0, saving = 0;
  while (kills < BB_KILLS) {
    const TrainOptions options = run_of(scratch.path() / std::to_string(runs++));
    // A run dies about ten times; each life is long enough to get a step further, as a rule. Lives become longer, so
    // that it ends also where others have taken the machine since `whole` was measured.
    double patience = double(whole.count());
    while (!finishes(options, std::chrono::microseconds(int64_t(random.uniform(0.02, 0.25) * patience)))) {
      patience *= 1.05;
      ++kills;
      saving += was_saving(options.adapter_path);
    }
    ASSERT_EQ(lora::to_string(lora::identify(lora::read_adapter(options.adapter_path))->id), want)
        << "run " << runs << " after " << kills << " kills";
  }
  EXPECT_GT(saving, 0);
  std::printf("%d kills, %d of them inside saving, in %d runs; each ended with adapter %s\n", kills, saving, runs,
              want.c_str());
}

}  // namespace
}  // namespace bumblebee::train
