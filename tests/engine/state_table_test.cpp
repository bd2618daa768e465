// Counts of holders, and what misuse does. Who holds what when is scheduler_random_test.cpp's.
#include "engine/state_table.h"

#include <gtest/gtest.h>

#include "engine/prefix_tree.h"
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

}  // namespace
}  // namespace bumblebee::engine
