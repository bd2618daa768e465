// Who is next, without pages: priorities, keys, limits, and what is overtaken.
#include "engine/fair_queue.h"

#include <gtest/gtest.h>

#include <set>

#include "engine/pace.h"

namespace bumblebee::engine {
namespace {

using Verdict = FairQueue::Verdict;
using Id = FairQueue::Id;

std::optional<Id> next(FairQueue& queue, const std::set<Id>& too_large = {}) {
  return queue.next([&](Id id) { return too_large.contains(id) ? Verdict::no_room : Verdict::fits; });
}

TEST(FairQueue, PrioritiesAreStrictAndEqualsComeInOrder) {
  FairQueue queue;
  queue.push(1, 5, "");
  queue.push(2, 0, "");
  queue.push(3, 0, "");
  queue.push(4, -1, "");
  for (const Id want : {4, 2, 3, 1}) EXPECT_EQ(next(queue), want);
  EXPECT_EQ(next(queue), std::nullopt);
}

TEST(FairQueue, TheKeyServedLeastIsNextAndIdlenessIsNoCredit) {
  FairQueue queue;
  for (Id id = 1; id <= 4; ++id) queue.push(id, 0, "a");
  EXPECT_EQ(next(queue), 1u);
  queue.charge(1, 1000);
  queue.push(10, 0, "b");  // begins where "a" is
  queue.push(11, 0, "b");
  queue.push(12, 0, "b");
  EXPECT_EQ(next(queue), 2u);
  queue.charge(2, 100);
  EXPECT_EQ(next(queue), 10u);
  queue.charge(10, 60);
  EXPECT_EQ(next(queue), 11u);
  queue.charge(11, 60);
  EXPECT_EQ(next(queue), 3u);
}

TEST(FairQueue, AKeyRunsAtMostSoMany) {
  FairQueue queue(1);
  queue.push(1, 0, "a");
  queue.push(2, 0, "a");
  queue.push(3, 0, "b");
  EXPECT_EQ(next(queue), 1u);
  EXPECT_EQ(next(queue), 3u);
  EXPECT_EQ(next(queue), std::nullopt);
  queue.erase(1);
  EXPECT_EQ(next(queue), 2u);
  EXPECT_EQ(queue.waiting(), 0);
}

TEST(FairQueue, WhatIsPutBackComesFirst) {
  FairQueue queue;
  for (Id id = 1; id <= 4; ++id) queue.push(id, 0, "");
  EXPECT_EQ(next(queue), 1u);
  EXPECT_EQ(next(queue), 2u);
  queue.put_back(2);
  queue.put_back(1);
  EXPECT_EQ(queue.waiting(), 4);
  EXPECT_EQ(next(queue), 1u);
  EXPECT_EQ(next(queue), 2u);
  EXPECT_EQ(next(queue), 3u);
}

TEST(FairQueue, OvertakingIsBoundedAndWaitingOnPurposeIsNotOvertaken) {
  FairQueue queue;
  queue.push(1, 0, "");
  Id id = 2;
  for (int i = 0; i < FairQueue::kMostOvertakes; ++i, ++id) {
    queue.push(id, 0, "");
    EXPECT_EQ(next(queue, {1}), id);
  }
  queue.push(id, 0, "");
  EXPECT_EQ(next(queue, {1}), std::nullopt);
  EXPECT_EQ(queue.next([](Id asked) { return asked == 1 ? Verdict::not_yet : Verdict::fits; }), id);
  EXPECT_EQ(next(queue), 1u);
}

TEST(FairQueue, ThoseThatAwaitSomebodyHideNobody) {
  FairQueue queue;
  for (Id id = 1; id <= 200; ++id) queue.push(id, 0, "");
  int asked = 0;
  const auto looks = [&](Verdict others) {
    asked = 0;
    return queue.next([&](Id id) { return ++asked, id == 200 ? Verdict::fits : others; });
  };
  EXPECT_EQ(looks(Verdict::not_yet), std::nullopt);
  EXPECT_LT(asked, 100) << "looking has its price";
  EXPECT_EQ(looks(Verdict::awaits), 200u);
}

TEST(Pace, AStepTakesAsLongAsItMay) {
  // A machine whose steps take 50 ms and 2 ms a row.
  const auto seconds = [](int rows) { return 0.05 + 0.002 * rows; };
  Pace pace(512, 512, 0.2);
  EXPECT_EQ(pace.rows({0, 1}), 512) << "nothing is known, and nobody waits";
  int rows = 0;
  for (int step = 0; step < 30; ++step) {
    rows = pace.rows({8, 1}) + 8;
    pace.measured({8, 1}, rows - 8, 8, seconds(rows));
  }
  EXPECT_NEAR(seconds(rows), 0.2, 0.02);
  EXPECT_GT(pace.rows({0, 1}), 2 * pace.rows({8, 1})) << "with nobody to hold up";
}

TEST(Pace, APromptAloneMayHaveMoreRowsThanOneBesideAnswers) {
  Pace pace(512, 2048, 0.2);
  EXPECT_EQ(pace.rows({0, 1}), 2048);
  EXPECT_EQ(pace.rows({0, 3}), 2048);
  EXPECT_EQ(pace.rows({1, 1}), 512);
  pace.measured({0, 1}, 2048, 0, 0.08);
  EXPECT_EQ(pace.rows({0, 1}), 2048);
  EXPECT_EQ(pace.rows({1, 1}), 512) << "however fast it is";
  for (int step = 0; step < 30; ++step) pace.measured({0, 1}, 2048, 0, 4);
  EXPECT_NEAR(pace.rows({0, 1}), 512, 16) << "a second at most";
  Pace small(512, 256, 0);
  EXPECT_EQ(small.rows({0, 1}), 256);
  EXPECT_EQ(small.rows({1, 1}), 512);
}

TEST(Pace, APromptAfterManyStepsWithoutOneGetsItsRows) {
  const auto seconds = [](int rows) { return 0.05 + 0.0005 * rows; };
  Pace pace(512, 512, 0.2);
  pace.measured({1, 0}, 0, 1, seconds(1));
  EXPECT_EQ(pace.rows({1, 1}), 512) << "who only generates says nothing about prompts";
  for (int step = 0; step < 10; ++step) {
    const int rows = pace.rows({4, 1});
    pace.measured({4, 1}, rows, 4, seconds(rows + 4));
  }
  const int before = pace.rows({4, 1});
  EXPECT_GT(before, 200);
  for (int step = 0; step < 1000; ++step) pace.measured({4, 0}, 0, 4, seconds(4));
  EXPECT_EQ(pace.rows({4, 1}), before);
  pace.measured({4, 1}, 5, 4, seconds(9));  // nor does a short one that took no time
  EXPECT_EQ(pace.rows({4, 1}), before);
}

TEST(Pace, ManyPromptsWaitForNoFewAnswers) {
  const auto seconds = [](int rows) { return 0.05 + 0.002 * rows; };
  Pace pace(512, 512, 0.2);
  const auto step_of = [&](StepDemand demand) {
    int rows = 0;
    for (int step = 0; step < 30; ++step) {
      rows = pace.rows(demand);
      pace.measured(demand, rows, demand.decoding, seconds(rows + demand.decoding));
    }
    return seconds(rows + demand.decoding);
  };
  EXPECT_NEAR(step_of({16, 1}), 0.2, 0.03);
  EXPECT_NEAR(step_of({8, 1}), 0.2, 0.03) << "one alone";
  EXPECT_NEAR(step_of({8, 4}), 0.3, 0.04);
  EXPECT_NEAR(step_of({8, 8}), 0.4, 0.05);
  EXPECT_NEAR(step_of({5, 10}), 0.6, 0.07);
  EXPECT_NEAR(step_of({1, 15}), 1, 0.1) << "a second at most, as with nobody to hold up";
  EXPECT_NEAR(step_of({0, 16}), 1, 0.1);
}

TEST(Pace, ASlowMachineGoesOnWithFewRowsAndShortMemoryHalves) {
  Pace slow(512, 512, 0.2);
  for (int step = 0; step < 30; ++step) {
    const int rows = slow.rows({1, 1}) + 1;
    EXPECT_GE(rows, 17);
    slow.measured({1, 1}, rows - 1, 1, 1 + rows * 0.1);
  }
  Pace pace(512, 512, 0);
  EXPECT_FALSE(pace.no_memory(512));
  EXPECT_EQ(pace.rows({0, 1}), 256);
  for (int step = 0; step < 100; ++step) pace.measured({0, 1}, 100, 0, 1);
  EXPECT_EQ(pace.rows({0, 1}), 512);
}

TEST(Pace, AStepThatFailedIsFollowedByASmallerOne) {
  Pace beside(512, 2048, 0);
  EXPECT_FALSE(beside.no_memory(512));
  EXPECT_EQ(beside.rows({1, 1}), 256);
  EXPECT_EQ(beside.rows({0, 1}), 256);
  EXPECT_FALSE(beside.no_memory(100)) << "smaller than the limit";
  EXPECT_EQ(beside.rows({0, 1}), 50);
  for (int step = 0; step < 200; ++step) beside.measured({0, 1}, 100, 0, 1);
  EXPECT_EQ(beside.rows({0, 1}), 2048);

  Pace alone(512, 2048, 0);
  EXPECT_TRUE(alone.no_memory(2048));
  EXPECT_EQ(alone.rows({0, 1}), 1024);
  EXPECT_TRUE(alone.no_memory(900));
  EXPECT_EQ(alone.rows({0, 1}), 450);
  for (int step = 0; step < 200; ++step) alone.measured({0, 1}, 100, 0, 1);
  EXPECT_EQ(alone.rows({0, 1}), 512) << "larger ones do not come back";
  EXPECT_EQ(alone.rows({1, 1}), 512);
}

}  // namespace
}  // namespace bumblebee::engine
