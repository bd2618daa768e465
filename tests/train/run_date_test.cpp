// The date of a run: there and back in whatever zone, and what earlier checkpoints say of it.
#include "train/run_date.h"

#include <gtest/gtest.h>

#include <time.h>

#include <cmath>
#include <fstream>

#include "base/error.h"

namespace bumblebee::train {
namespace {

namespace fs = std::filesystem;

TEST(RunDate, IsTheClocksAndComesBack) {
  EXPECT_NEAR(seconds_at(local_time()), double(::time(nullptr)), 5);
  EXPECT_EQ(seconds_at("2026-03-01 00:00:01") - seconds_at("2026-03-01 00:00:00"), 1);
  for (const char* text : {"", "2026-03-01", "2026-03-01 00:00:00 and more", "yesterday"})
    EXPECT_THROW(seconds_at(text), Error) << text;
}

TEST(RunDate, IsReadFromTheNewestCheckpoint) {
  const fs::path run = fs::path(::testing::TempDir()) / "bb_run_date";
  fs::remove_all(run);
  EXPECT_EQ(date_of_run(run), "");
  fs::create_directories(run / "checkpoints" / "step-0000002");
  const auto write = [&](const fs::path& path, const char* text) { std::ofstream(run / "checkpoints" / path) << text; };
  write("latest", "step-0000002\n");
  EXPECT_EQ(date_of_run(run), "") << "no state";
  write("step-0000002/state.json", R"({"options": {"rank": 8}})");
  EXPECT_EQ(date_of_run(run), "") << "its rows do not depend on it";
  write("step-0000002/state.json", R"({"options": {"date": "2026-03-01 12:30:00"}})");
  EXPECT_EQ(date_of_run(run), "2026-03-01 12:30:00");
  write("latest", "../elsewhere\n");
  EXPECT_EQ(date_of_run(run), "");
  fs::remove_all(run);
}

}  // namespace
}  // namespace bumblebee::train
