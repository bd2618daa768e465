// The scheduler without a model: who is admitted, who gives way, and what is shared. Random schedules:
// scheduler_random_test.cpp.
#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>

#include "base/error.h"
#include "tests/engine/scripted_executor.h"

namespace bumblebee::engine {
namespace {

Sequence request(RequestId id, int prompt, int max_new, int32_t first = 0, const std::string& key = "") {
  Sequence sequence;
  sequence.id = id;
  for (int i = 0; i < prompt; ++i) sequence.tokens.push_back(first + i);
  sequence.max_new = max_new;
  sequence.key = key;
  return sequence;
}

std::optional<PlannedStep> next(Scheduler& scheduler, int rows = 512) {
  scheduler.activate();
  auto step = scheduler.next(rows);
  if (step) scheduler.done(*step);
  return step;
}

/// Runs a step in which every sequence with logits gets a token; returns who had his first one.
std::vector<RequestId> run(Scheduler& scheduler, int rows) {
  const auto step = next(scheduler, rows);
  std::vector<RequestId> first;
  for (const StepSegment& segment : step->segments) {
    if (!segment.wants_logits) continue;
    Sequence& sequence = scheduler.at(segment.id);
    if (sequence.output().empty()) first.push_back(segment.id);
    scheduler.append(segment.id, 1'000'000 + int32_t(segment.id));
    if (int(sequence.output().size()) == sequence.max_new) scheduler.finish(segment.id, Scheduler::Leaves::pages);
  }
  return first;
}

/// Steps until a short prompt that comes behind `ahead` long ones has its first token.
int steps_behind(int ahead, int rows) {
  Scheduler scheduler({.batch_size = 16, .sequence_length = 8192, .pages = 2000, .page_size = 64});
  for (int i = 0; i < ahead; ++i) scheduler.submit(request(RequestId(i + 1), 4096, 100, i * 10'000));
  run(scheduler, rows);
  scheduler.submit(request(100, 64, 10, 900'000));
  for (int steps = 1; steps < 100; ++steps) {
    const auto first = run(scheduler, rows);
    if (std::find(first.begin(), first.end(), 100u) != first.end()) return steps;
  }
  return 100;
}

TEST(Scheduler, AShortPromptDoesNotWaitForLongOnes) {
  for (const int rows : {128, 512, 2048}) {
    EXPECT_LE(steps_behind(1, rows), 2) << rows;
    EXPECT_LE(steps_behind(8, rows), 4) << rows;
  }
}

TEST(Scheduler, APromptOfManySharesEndsAlthoughShortOnesKeepComing) {
  Scheduler scheduler({.batch_size = 8, .sequence_length = 8192, .pages = 2000, .page_size = 64});
  scheduler.submit(request(1, 4096, 4));
  int steps = 0;
  for (RequestId id = 2; scheduler.pages().total > 0; ++steps) {
    ASSERT_LT(steps, 200);
    for (int i = 0; i < 7; ++i, ++id) scheduler.submit(request(id, 64, 1, int32_t(id) * 100));
    const auto first = run(scheduler, 128);
    if (std::find(first.begin(), first.end(), 1u) != first.end()) break;
  }
  EXPECT_LE(steps, 4096 / 32) << "a quarter of every step is the oldest's";
}

TEST(Scheduler, MixesPrefillWithDecode) {
  Scheduler scheduler({.batch_size = 2, .sequence_length = 32, .pages = 100, .page_size = 4});
  scheduler.submit(request(1, 6, 4, 0));
  auto step = next(scheduler, 8);
  ASSERT_EQ(step->segments.size(), 1u);
  EXPECT_EQ(step->step.batch.logit_rows, std::vector<int32_t>{5});
  scheduler.append(1, 7);
  scheduler.submit(request(2, 5, 4, 100));
  scheduler.submit(request(3, 1, 1, 200));
  step = next(scheduler, 3);
  ASSERT_EQ(step->step.batch.segments.size(), 2u);  // one generated token beside three of the prompt
  EXPECT_EQ(step->step.batch.segments[0].rows, 1);
  EXPECT_EQ(step->step.batch.segments[1].rows, 3);
  EXPECT_EQ(step->decode_rows, 1);
  EXPECT_EQ(scheduler.waiting(), 1);  // no place in the batch
  scheduler.finish(1);
  step = next(scheduler, 8);
  ASSERT_EQ(step->segments.size(), 2u);
  EXPECT_EQ(step->segments.back().id, 3u);
}

TEST(Scheduler, WhoDoesNotFitIsOvertakenABoundedNumberOfTimes) {
  Scheduler scheduler({.batch_size = 8, .sequence_length = 40, .pages = 10, .page_size = 4});
  scheduler.submit(request(1, 20, 4, 0));    // 6 pages
  scheduler.submit(request(2, 20, 4, 100));  // 6: waits
  RequestId id = 3;
  scheduler.activate();
  int overtook = 0;
  for (; overtook < 100; ++overtook, ++id) {
    scheduler.submit(request(id, 1, 1, int32_t(id) * 100));
    scheduler.activate();
    if (!scheduler.is_active(id)) break;
    scheduler.finish(id);
  }
  EXPECT_EQ(overtook, FairQueue::kMostOvertakes);
  scheduler.finish(1);
  scheduler.activate();
  EXPECT_TRUE(scheduler.is_active(2));
  EXPECT_TRUE(scheduler.is_active(id));
}

TEST(Scheduler, AnAnswerWithoutALimitReservesItsBeginningOnly) {
  Scheduler scheduler({.batch_size = 8, .sequence_length = 32'768, .pages = 512, .page_size = 64});
  for (RequestId id = 1; id <= 8; ++id) scheduler.submit(request(id, 100, 32'000, int32_t(id) * 1000));
  EXPECT_EQ(scheduler.activate().size(), 8u);
}

TEST(Scheduler, TheLatestOfTheWorstPriorityIsPreemptedAndTheOldestNever) {
  Scheduler scheduler(
      {.batch_size = 4, .sequence_length = 40, .pages = 10, .page_size = 4, .prefix_cache = false, .ahead = 4});
  // Four that fit at first and outgrow the pages; the oldest has the worst priority of all.
  for (RequestId id = 1; id <= 4; ++id) {
    Sequence sequence = request(id, 4, 36, int32_t(id) * 100);
    sequence.priority = id == 1 ? 9 : id == 2 ? 5 : 1;
    scheduler.submit(std::move(sequence));
    scheduler.activate();
  }
  ASSERT_EQ(scheduler.active(), 4);
  std::vector<RequestId> gone;
  while (gone.size() < 3) {
    run(scheduler, 64);
    for (const RequestId id : scheduler.take_preempted()) gone.push_back(id);
  }
  EXPECT_EQ(gone, (std::vector<RequestId>{2, 4, 3}));
  EXPECT_TRUE(scheduler.is_active(1));
}

TEST(Scheduler, APreemptedRequestComesBackBeforeOthersOfItsKeyAndComputesWhatWasLost) {
  Scheduler scheduler({.batch_size = 2, .sequence_length = 64, .pages = 20, .page_size = 4});
  scheduler.submit(request(1, 8, 8, 0));
  scheduler.submit(request(2, 10, 8, 100));
  scheduler.submit(request(3, 8, 8, 200));
  run(scheduler, 64);
  run(scheduler, 64);
  ASSERT_TRUE(scheduler.preempt());
  EXPECT_FALSE(scheduler.preempt()) << "the oldest is left";
  ASSERT_EQ(scheduler.take_preempted().size(), 1u);
  EXPECT_EQ(scheduler.activate().front(), 2u);
  EXPECT_EQ(scheduler.at(2).computed, 8) << "whole pages were kept";
  EXPECT_EQ(scheduler.counters().recomputed, 3u);
  const auto step = next(scheduler, 64);
  EXPECT_EQ(step->segments.size(), 2u);
  EXPECT_EQ(scheduler.at(2).computed, 12);
}

TEST(Scheduler, EqualPromptsAreComputedOnce) {
  Scheduler scheduler({.batch_size = 16, .sequence_length = 400, .pages = 400, .page_size = 4});
  for (RequestId id = 1; id <= 16; ++id) {
    Sequence sequence = request(id, 40, 3);
    sequence.tokens.push_back(int32_t(1000 + id));  // a question of its own after the same 40 tokens
    scheduler.submit(std::move(sequence));
  }
  int rows = 0;
  for (int steps = 0; scheduler.waiting() > 0 || scheduler.active() > 0; ++steps) {
    ASSERT_LT(steps, 20);
    const auto step = next(scheduler, 20);
    ASSERT_TRUE(step);
    for (size_t i = 0; i < step->segments.size(); ++i) {
      const Segment& segment = step->step.batch.segments[i];
      if (segment.past <= 40) rows += segment.rows;
      if (step->segments[i].wants_logits) {
        Sequence& sequence = scheduler.at(step->segments[i].id);
        scheduler.append(sequence.id, 7);
        if (int(sequence.output().size()) == 3) scheduler.finish(sequence.id, Scheduler::Leaves::pages);
      }
    }
  }
  EXPECT_EQ(rows, 40 + 16);
}

TEST(Scheduler, WhoseOwnerLeavesComputesByItself) {
  Scheduler scheduler({.batch_size = 4, .sequence_length = 400, .pages = 400, .page_size = 4});
  scheduler.submit(request(1, 40, 3));
  scheduler.submit(request(2, 40, 3));
  EXPECT_EQ(scheduler.activate().size(), 1u);
  next(scheduler, 8);
  EXPECT_EQ(scheduler.active(), 1);
  scheduler.finish(1);
  EXPECT_EQ(scheduler.activate().size(), 1u);
  EXPECT_EQ(scheduler.at(2).cached, 8) << "what the first had computed stays";
}

TEST(Scheduler, RootsShareNothing) {
  Scheduler scheduler({.batch_size = 4, .sequence_length = 100, .pages = 100, .page_size = 4});
  const auto cached = [&](RequestId id, int root) {
    Sequence sequence = request(id, 21, 1);
    sequence.root = root_numbered(root);
    scheduler.submit(std::move(sequence));
    next(scheduler);
    const int found = scheduler.at(id).cached;
    scheduler.finish(id, Scheduler::Leaves::pages);
    return found;
  };
  EXPECT_EQ(cached(1, 1), 0);
  EXPECT_EQ(cached(2, 2), 0);
  EXPECT_EQ(cached(3, 1), 20);
  EXPECT_EQ(cached(4, 2), 20);
}

TEST(Scheduler, APageThatIsEqualInPartIsCopiedAndCut) {
  Scheduler scheduler({.batch_size = 4, .sequence_length = 100, .pages = 100, .page_size = 4});
  scheduler.submit(request(1, 12, 1));
  next(scheduler);
  Sequence other = request(2, 10, 1);
  other.tokens[7] = 99;  // seven tokens in common
  scheduler.submit(std::move(other));
  const auto step = next(scheduler);
  EXPECT_EQ(scheduler.at(2).cached, 7);
  ASSERT_EQ(step->step.copies.size(), 1u);
  EXPECT_EQ(step->step.batch.segments[0].past, 7);
}

/// What is cached of a sequence that outgrows its rotation is of no use to it, but to others that stay short.
TEST(Scheduler, WhatOutgrowsItsRotationBeginsAnew) {
  Scheduler scheduler({.batch_size = 2, .sequence_length = 256, .pages = 40, .page_size = 16, .stretch_beyond = 40});
  scheduler.submit(request(1, 38, 10));
  const auto stretched = [&](const PlannedStep& step) { return step.step.batch.segments.front().stretched; };
  const auto one = [&] {
    scheduler.restart_outgrown();
    EXPECT_LE(scheduler.take_preempted().size(), 1u);
    return next(scheduler);
  };
  auto step = one();
  EXPECT_EQ(step->step.batch.rows(), 38);
  EXPECT_FALSE(stretched(*step));
  for (int i = 0; i < 2; ++i) {  // its 39th and 40th token
    scheduler.append(1, 1000 + i);
    step = one();
    EXPECT_EQ(step->step.batch.rows(), 1);
    EXPECT_FALSE(stretched(*step));
  }
  scheduler.append(1, 1002);
  step = one();
  EXPECT_EQ(step->step.batch.rows(), 41) << "from its first token on";
  EXPECT_TRUE(stretched(*step));
  scheduler.append(1, 1003);
  step = one();
  EXPECT_EQ(step->step.batch.rows(), 1);
  EXPECT_TRUE(stretched(*step));
  EXPECT_EQ(scheduler.counters().preemptions, 0u);
  scheduler.append(1, 1004);
  scheduler.finish(1, Scheduler::Leaves::pages);
  EXPECT_EQ(scheduler.active(), 0);

  const auto found_of = [&](RequestId id, int prompt, int max_new, int alternatives) {
    Sequence sequence = request(id, prompt, max_new);
    sequence.alternatives = alternatives;
    scheduler.submit(std::move(sequence));
    const auto planned = next(scheduler);
    const int found = prompt - planned->step.batch.rows();
    EXPECT_EQ(stretched(*planned), prompt > 40 || (alternatives > 1 && prompt + max_new > 40)) << id;
    scheduler.finish(id, Scheduler::Leaves::nothing);
    return found;
  };
  EXPECT_EQ(found_of(2, 36, 2, 1), 32) << "pages of short texts";
  EXPECT_EQ(found_of(3, 60, 2, 1), 32) << "pages of long ones, of which the first is the beginning";
  EXPECT_EQ(found_of(4, 30, 30, 2), 0) << "alternatives have one rotation for as long as they may become";
}

TEST(Scheduler, WhatBeginsAnewKeepsItsTurn) {
  Scheduler scheduler({.batch_size = 1, .sequence_length = 256, .pages = 40, .page_size = 16, .stretch_beyond = 40});
  scheduler.submit(request(1, 40, 10));
  next(scheduler);
  Sequence other = request(2, 8, 2, 7000, "other");  // of a key that was served less
  other.priority = -1;                               // and of a better priority
  scheduler.submit(std::move(other));
  scheduler.append(1, 1000);
  scheduler.restart_outgrown();
  EXPECT_EQ(scheduler.take_preempted().size(), 1u);
  const auto step = next(scheduler);
  ASSERT_EQ(step->segments.size(), 1u);
  EXPECT_EQ(step->segments[0].id, 1u);
  EXPECT_EQ(step->step.batch.rows(), 41);
}

TEST(Scheduler, KeysAreServedInTurn) {
  Scheduler scheduler({.batch_size = 4, .sequence_length = 100, .pages = 1000, .page_size = 4});
  RequestId id = 1;
  for (; id <= 500; ++id) scheduler.submit(request(id, 8, 2, int32_t(id) * 100, "many"));
  for (int i = 0; i < 10; ++i) run(scheduler, 64);
  std::set<RequestId> few;
  for (int i = 0; i < 5; ++i, ++id) {
    few.insert(id);
    scheduler.submit(request(id, 8, 2, int32_t(id) * 100, "few"));
  }
  int between = 0;
  while (!few.empty()) {
    for (const RequestId admitted : scheduler.activate()) {
      if (few.erase(admitted) > 0) {
        EXPECT_LE(between, 2);
        between = 0;
      } else {
        ++between;
      }
    }
    run(scheduler, 64);
  }
}

TEST(Scheduler, AFailedStepIsAsIfItHadNotBeen) {
  Scheduler scheduler({.batch_size = 4, .sequence_length = 100, .pages = 30, .page_size = 4});
  scheduler.submit(request(1, 10, 4));
  scheduler.activate();
  const auto step = scheduler.next(6);
  EXPECT_EQ(scheduler.at(1).computed, 6);
  scheduler.undo(*step);
  EXPECT_EQ(scheduler.at(1).computed, 0);
  EXPECT_EQ(scheduler.pages().used, 0);
  EXPECT_EQ(next(scheduler)->step.batch.segments[0].rows, 10);
}

TEST(Scheduler, WhatFailsForOneRequestLeavesItAskedAndNothingChanged) {
  Scheduler scheduler({.batch_size = 4, .sequence_length = 100, .pages = 30, .page_size = 4});
  scheduler.submit(request(1, 10, 4, 0));
  scheduler.submit(request(2, 10, 4, 100));
  const auto throws_at = [](RequestId id) {
    return [id](const Sequence& asked) {
      if (asked.id == id) throw std::bad_alloc();
      return Scheduler::Verdict::fits;
    };
  };
  EXPECT_THROW(scheduler.activate(throws_at(1)), std::bad_alloc);
  EXPECT_EQ(scheduler.asked(), RequestId{1});
  EXPECT_EQ(scheduler.active(), 0);
  EXPECT_EQ(scheduler.activate(throws_at(2)).size(), 1u) << "those before it are told of first";
  EXPECT_THROW(scheduler.activate(throws_at(2)), std::bad_alloc);
  EXPECT_EQ(scheduler.asked(), RequestId{2});
  scheduler.finish(2);
  EXPECT_EQ(scheduler.waiting(), 0);
  EXPECT_TRUE(scheduler.is_active(1));
}

TEST(Scheduler, APromptIsChargedOnceHoweverOftenItIsComputed) {
  Scheduler scheduler({.batch_size = 2, .sequence_length = 100, .pages = 100, .page_size = 4, .prefix_cache = false});
  scheduler.submit(request(1, 4, 40, 0, "oldest"));
  scheduler.activate();
  scheduler.submit(request(2, 50, 4, 100, "given up"));
  scheduler.submit(request(3, 60, 4, 200, "other"));
  for (int time = 0; time < 3; ++time) {
    ASSERT_EQ(scheduler.activate().size(), 1u);
    ASSERT_TRUE(scheduler.is_active(2)) << "time " << time;
    next(scheduler, 8);
    ASSERT_TRUE(scheduler.preempt());
    scheduler.take_preempted();
    if (time == 0) {
      scheduler.activate();  // the other key had nothing yet
      ASSERT_TRUE(scheduler.is_active(3));
      scheduler.finish(3);
      scheduler.submit(request(4, 60, 4, 300, "other"));  // now it had more, by ten
    }
  }
}

TEST(Scheduler, WhoseAlternativesHavePagesCountsOnNoMore) {
  // Both fit to the end: four pages and one for each alternative, and four pages.
  Scheduler scheduler(
      {.batch_size = 2, .sequence_length = 40, .pages = 10, .page_size = 4, .prefix_cache = false, .ahead = 1});
  Sequence branching = request(1, 4, 12, 0);
  branching.alternatives = 2;
  scheduler.submit(std::move(branching));
  scheduler.submit(request(2, 4, 12, 100));
  ASSERT_EQ(next(scheduler)->segments.size(), 2u);
  for (int token = 1; token < 12; ++token) {
    scheduler.append(2, 7);
    scheduler.propose(1, {50, 51});
    ASSERT_EQ(next(scheduler)->segments.size(), 3u) << token;
    scheduler.keep_branch(1, 0);
  }
  EXPECT_EQ(scheduler.counters().preemptions, 0u);
}

TEST(Scheduler, RefusesWhatCanNeverFit) {
  Scheduler scheduler({.batch_size = 1, .sequence_length = 16, .pages = 3, .page_size = 4});
  EXPECT_THROW(scheduler.submit(request(1, 0, 1)), Error);
  EXPECT_THROW(scheduler.submit(request(1, 16, 1)), Error);
  EXPECT_THROW(scheduler.submit(request(1, 10, 5)), Error);
  Sequence branching = request(1, 8, 2);
  branching.alternatives = 2;
  EXPECT_THROW(scheduler.submit(branching), Error);
  EXPECT_NO_THROW(scheduler.submit(request(2, 8, 4)));
  scheduler.finish(99);
  EXPECT_EQ(scheduler.waiting(), 1);
  scheduler.finish(2);
  EXPECT_TRUE(scheduler.idle());
}

}  // namespace
}  // namespace bumblebee::engine
