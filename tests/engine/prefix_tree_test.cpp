// The tree of prompts against a plain list of what was put in.
#include "engine/prefix_tree.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

#include "tests/engine/scripted_executor.h"

namespace bumblebee::engine {
namespace {

struct Kept {
  int root = 0;
  std::vector<int32_t> tokens;
};

TEST(PrefixTree, FindsTheLongestBeginningAndLosesOnlyWhatLeft) {
  for (unsigned seed = 0; seed < 30; ++seed) {
    std::mt19937 random(seed);
    const auto pick = [&](int below) { return int(random() % unsigned(below)); };
    constexpr int kPages = 40, kPage = 4;
    PageTable table(kPages, kPage);
    PrefixTree tree(table);
    std::vector<Kept> kept;
    bool evicted = false;
    for (int step = 0; step < 300; ++step) {
      const int root = pick(2);
      std::vector<int32_t> tokens;
      if (!kept.empty() && pick(4) > 0) {
        tokens = kept[size_t(pick(int(kept.size())))].tokens;
        tokens.resize(size_t(pick(int(tokens.size()) + 1)));
      }
      for (int n = 1 + pick(10); n > 0; --n) tokens.push_back(pick(3));
      const PrefixTree::Match found = tree.match(root_numbered(root), tokens);
      size_t longest = 0;
      for (const Kept& one : kept) {
        if (one.root != root) continue;
        const auto differs = std::mismatch(one.tokens.begin(), one.tokens.end(), tokens.begin(), tokens.end()).first;
        longest = std::max(longest, size_t(differs - one.tokens.begin()));
      }
      if (!evicted) {
        ASSERT_EQ(size_t(found.tokens), longest) << "seed " << seed << " step " << step;
      }
      ASSERT_LE(size_t(found.tokens), longest);
      const auto sequence = table.open();
      table.adopt(sequence, found.pages, found.tokens);
      std::vector<PageCopy> copies;
      const int count = int(tokens.size()) - found.tokens;
      while (!table.extend(sequence, count, copies)) {
        ASSERT_TRUE(tree.evict());
        evicted = true;
      }
      const int whole = int(tokens.size()) / kPage * kPage;
      tree.insert(root_numbered(root), tokens, sequence, pick(5) == 0);
      kept.push_back({root, {tokens.begin(), tokens.begin() + whole}});
      table.close(sequence);
      const PageStats stats = table.stats();
      ASSERT_EQ(stats.cached, tree.pages());
      ASSERT_EQ(stats.used, 0);
      ASSERT_EQ(stats.free + stats.cached, kPages);
    }
    EXPECT_TRUE(evicted);
    tree.evict_all();
    EXPECT_EQ(table.stats().free, kPages);
  }
}

TEST(PrefixTree, ASequenceTakesOverPagesThatAreThere) {
  PageTable table(10, 4);
  PrefixTree tree(table);
  const std::vector<int32_t> tokens = {1, 2, 3, 4, 5, 6, 7, 8};
  std::vector<PageCopy> copies;
  const auto first = table.open(), second = table.open();
  ASSERT_TRUE(table.extend(first, 8, copies) && table.extend(second, 8, copies));
  EXPECT_EQ(table.stats().used, 4);
  tree.insert(root_numbered(0), tokens, first);
  tree.insert(root_numbered(0), tokens, second);
  EXPECT_EQ(table.pages(first), table.pages(second));
  EXPECT_EQ(table.stats().used, 2);
  EXPECT_EQ(table.stats().free, 8);
  EXPECT_FALSE(tree.evict()) << "somebody uses them";
  tree.evict_all();
  EXPECT_EQ(tree.pages(), 2);
  table.close(first);
  table.close(second);
  EXPECT_TRUE(tree.evict());
  EXPECT_EQ(tree.match(root_numbered(0), tokens).tokens, 4) << "the end of a path leaves first";
}

TEST(PrefixTree, TheLongestUnusedLeavesFirstAndWhatIsGivenUpBeforeIt) {
  PageTable table(10, 2);
  PrefixTree tree(table);
  const auto put = [&](int32_t a, int32_t b, bool first_to_leave) {
    const auto sequence = table.open();
    std::vector<PageCopy> copies;
    ASSERT_TRUE(table.extend(sequence, 2, copies));
    const std::vector<int32_t> tokens = {a, b};
    tree.insert(root_numbered(0), tokens, sequence, first_to_leave);
    table.close(sequence);
  };
  const auto has = [&](int32_t a, int32_t b) {
    PageTable other(1, 2);
    const std::vector<int32_t> tokens = {a, b};
    const PrefixTree::Match found = tree.match(root_numbered(0), tokens);
    if (found.tokens == 2) tree.touch(found);
    return found.tokens == 2;
  };
  put(4, 4, false);
  put(5, 5, false);
  const std::vector<int32_t> asked = {4, 4};
  EXPECT_EQ(tree.match(root_numbered(0), asked).tokens, 2);
  tree.evict();
  EXPECT_EQ(tree.match(root_numbered(0), asked).tokens, 0) << "to be looked up is not to be used";
  tree.evict_all();
  EXPECT_EQ(tree.pages(), 0);
  put(1, 1, false);
  put(2, 2, false);
  put(3, 3, true);
  EXPECT_TRUE(has(1, 1));  // used now
  tree.evict();
  tree.evict();
  EXPECT_EQ(tree.pages(), 1);
  EXPECT_TRUE(has(1, 1));
  EXPECT_FALSE(has(3, 3));
  EXPECT_FALSE(has(2, 2));
}

}  // namespace
}  // namespace bumblebee::engine
