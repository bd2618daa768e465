// Counts of holders, and what misuse does. Who holds what when is scheduler_random_test.cpp's.
#include "engine/state_table.h"

#include <gtest/gtest.h>

#include <map>

#include "engine/prefix_tree.h"
#include "engine/scheduler.h"
#include "tests/engine/scripted_executor.h"

namespace bumblebee::engine {
namespace {

TEST(StateTable, AStateIsFreeWhenNobodyHoldsIt) {
  StateTable table(2);
  const int32_t a = table.take(), b = table.take();
  EXPECT_NE(a, b);
  EXPECT_EQ(table.take(), -1);
  EXPECT_TRUE(table.is_alone(a));
  table.hold(a);
  EXPECT_FALSE(table.is_alone(a));
  table.drop(a);
  table.retain(a);
  EXPECT_FALSE(table.is_alone(a)) << "the cache holds it too";
  EXPECT_EQ(table.cached(), 0) << "somebody else does as well";
  table.drop(a);
  EXPECT_EQ(table.cached(), 1);
  EXPECT_TRUE(table.is_spare(a));
  EXPECT_EQ(table.free(), 0);
  table.release(a);
  EXPECT_EQ(table.free(), 1);
  table.drop(b);
  table.drop(-1);
  EXPECT_EQ(table.free(), 2);
}

TEST(StateTableDeathTest, MisuseAborts) {
  StateTable table(1);
  EXPECT_DEATH(table.drop(0), "state 0");
  EXPECT_DEATH(table.hold(0), "nobody's");
  EXPECT_DEATH(table.release(0), "state 0");
  const int32_t state = table.take();
  table.retain(state);
  EXPECT_DEATH(table.retain(state), "state 0");
}

/// Of a path, what lies before a checkpoint is of use; the one that was unused the longest leaves first.
TEST(PrefixTreeOfStates, FindsBeginningsUpToACheckpoint) {
  PageTable pages(8, 2);
  StateTable states(3);
  PrefixTree tree(pages, &states);
  const PrefixRoot root = root_numbered(0);
  const std::vector<int32_t> tokens = {1, 2, 3, 4, 5, 6, 7, 8};
  const PageTable::Sequence sequence = pages.open();
  std::vector<PageCopy> copies;
  ASSERT_TRUE(pages.extend(sequence, 8, copies));
  tree.insert(root, tokens, sequence);
  EXPECT_EQ(tree.match(root, tokens).tokens, 0);
  EXPECT_EQ(tree.match(root, tokens).whole, 8);

  const auto keep = [&](size_t count) {
    const int32_t state = states.take();
    tree.keep_state(root, std::span(tokens).first(count), state);
    states.drop(state);
    return state;
  };
  const int32_t at6 = keep(6), at2 = keep(2);
  keep(3);
  EXPECT_EQ(states.free(), 1) << "not the end of a page";
  keep(6);
  EXPECT_EQ(states.free(), 1) << "there is one already";
  const PrefixTree::Match found = tree.match(root, std::vector<int32_t>{1, 2, 3, 4, 5, 6, 7, 9});
  EXPECT_EQ(found.tokens, 6);
  EXPECT_EQ(found.state, at6);
  EXPECT_EQ(found.pages.size(), 3u);
  EXPECT_EQ(found.whole, 6);
  EXPECT_EQ(tree.match(root, std::vector<int32_t>{1, 2, 3, 4, 5}).state, at2);

  EXPECT_TRUE(tree.evict_state());
  EXPECT_EQ(tree.match(root, tokens).state, at2) << "what stands behind leaves first";
  states.hold(at2);
  EXPECT_FALSE(tree.evict_state()) << "a sequence goes on from it";
  tree.forget_state(at2);
  EXPECT_EQ(tree.match(root, tokens).tokens, 0);
  states.drop(at2);
  EXPECT_EQ(states.free(), 3);
  pages.close(sequence);
}

Sequence prompt_of(RequestId id, int length, int max_new, int32_t first = 0) {
  Sequence sequence;
  sequence.id = id;
  for (int i = 0; i < length; ++i) sequence.tokens.push_back(first + i);
  sequence.max_new = max_new;
  return sequence;
}

/// A step in which every sequence with logits gets a token; false when there is nothing to do.
bool run_step(Scheduler& scheduler, std::map<RequestId, int>& cached) {
  scheduler.activate();
  const auto step = scheduler.next(100);
  if (!step) return false;
  for (const StepSegment& segment : step->segments) cached.try_emplace(segment.id, scheduler.at(segment.id).cached);
  scheduler.done(*step);
  for (const StepSegment& segment : step->segments) {
    if (!segment.wants_logits) continue;
    scheduler.append(segment.id, 1'000'000 + int32_t(segment.id));
    const Sequence& sequence = scheduler.at(segment.id);
    if (int(sequence.output().size()) == sequence.max_new) scheduler.finish(segment.id, Scheduler::Leaves::pages);
  }
  return true;
}

constexpr SchedulerLimits limits_of(int states) {
  return {.batch_size = 8, .sequence_length = 1024, .pages = 200, .page_size = 64, .states = states};
}

/// Who goes on from a checkpoint has two states for one step, where others were admitted that have none yet.
TEST(SchedulerOfStates, ThoseThatGoOnAndThoseThatBeginHaveRoomForOneStateEach) {
  for (const int states : {2, 3, 4}) {
    Scheduler scheduler(limits_of(states));
    std::map<RequestId, int> cached;
    scheduler.submit(prompt_of(1, 330, 2));
    while (run_step(scheduler, cached)) {
    }
    for (int i = 0; i < states - 1; ++i) scheduler.submit(prompt_of(RequestId(2 + i), 335 + i, 3));  // of the same
    scheduler.submit(prompt_of(10, 200, 3, 500'000));
    scheduler.submit(prompt_of(11, 200, 3, 600'000));
    int steps = 0;
    while (run_step(scheduler, cached) && ++steps < 200) {
    }
    EXPECT_LT(steps, 200) << states << " states";
    EXPECT_EQ(cached.size(), size_t(states) + 2);
    EXPECT_EQ(cached[2], 320) << states << " states";
  }
}

TEST(SchedulerOfStates, PromptsThatComeTogetherShareWhatTheFirstComputes) {
  for (const int length : {330, 384}) {
    Scheduler scheduler(limits_of(16));
    std::map<RequestId, int> cached;
    for (RequestId id = 1; id <= 4; ++id) scheduler.submit(prompt_of(id, length + int(id), 3));
    while (run_step(scheduler, cached)) {
    }
    EXPECT_EQ(cached[1], 0);
    for (RequestId id = 2; id <= 4; ++id) EXPECT_GE(cached[id], 320) << "request " << id << " of " << length;
  }
}

}  // namespace
}  // namespace bumblebee::engine
