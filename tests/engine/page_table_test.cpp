// Laws of the page table, after random schedules.
#include "engine/page_table.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

namespace bumblebee::engine {
namespace {

/// What sequences believe to be in their pages: writes and copies are played on an array, so sharing mistakes show as
/// wrong bytes.
class Memory {
 public:
  Memory(int pages, int page_size) : page_size_(page_size), cells_(size_t(pages * page_size), -1) {}
  void copy(const PageCopy& c) {
    for (int i = 0; i < page_size_; ++i) cell(c.to, i) = cell(c.from, i);
  }
  int& at(const std::vector<int32_t>& pages, int position) {
    return cell(pages[size_t(position / page_size_)], position % page_size_);
  }

 private:
  int& cell(int32_t page, int i) { return cells_[size_t(page * page_size_ + i)]; }
  int page_size_;
  std::vector<int> cells_;
};

TEST(PageTable, RandomSchedulesKeepEverySequencesTokens) {
  for (unsigned seed = 0; seed < 20; ++seed) {
    std::mt19937 random(seed);
    const int page_size = 1 + int(random() % 5), total = 4 + int(random() % 30);
    PageTable table(total, page_size);
    Memory memory(total, page_size);
    std::map<PageTable::Sequence, std::vector<int>> tokens;
    int next_token = 0, refused = 0, forks = 0;
    for (int step = 0; step < 2000; ++step) {
      const unsigned action = random() % 10;
      if (tokens.empty() || action == 0) {
        tokens[table.open()] = {};
      } else {
        auto it = std::next(tokens.begin(), long(random() % tokens.size()));
        if (action == 1) {
          table.close(it->first);
          tokens.erase(it);
        } else if (action == 2) {
          const auto child = table.fork(it->first);
          tokens[child] = it->second;
          ++forks;
        } else {
          std::vector<PageCopy> copies;
          const int count = 1 + int(random() % 4);
          if (table.extend(it->first, count, copies)) {
            for (const PageCopy& c : copies) memory.copy(c);
            for (int i = 0; i < count; ++i) {
              memory.at(table.pages(it->first), int(it->second.size())) = next_token;
              it->second.push_back(next_token++);
            }
          } else {
            ++refused;
            EXPECT_TRUE(copies.empty());
            table.close(it->first);
            tokens.erase(it);
          }
        }
      }
      const PageStats stats = table.stats();
      ASSERT_EQ(stats.used + stats.free, total);
      std::set<int32_t> distinct;
      for (const auto& [sequence, want] : tokens) {
        ASSERT_EQ(table.length(sequence), int(want.size()));
        for (int i = 0; i < int(want.size()); ++i)
          ASSERT_EQ(memory.at(table.pages(sequence), i), want[size_t(i)]) << "seed " << seed;
        distinct.insert(table.pages(sequence).begin(), table.pages(sequence).end());
      }
      ASSERT_EQ(int(distinct.size()), stats.used);
    }
    EXPECT_GT(forks, 50);
    for (const auto& [sequence, ignored] : tokens) table.close(sequence);
    EXPECT_EQ(table.stats().free, total);
    EXPECT_GT(refused, 0);
  }
}

TEST(PageTable, ForkCopiesOnlyThePartPage) {
  PageTable table(8, 4);
  std::vector<PageCopy> copies;
  const auto parent = table.open();
  ASSERT_TRUE(table.extend(parent, 6, copies));
  const auto child = table.fork(parent);
  EXPECT_EQ(table.stats().used, 2);
  EXPECT_EQ(table.stats().shared, 2);
  ASSERT_TRUE(table.extend(child, 1, copies));
  ASSERT_EQ(copies.size(), 1u);
  EXPECT_EQ(copies[0].from, table.pages(parent)[1]);
  EXPECT_EQ(copies[0].to, table.pages(child)[1]);
  EXPECT_EQ(table.pages(child)[0], table.pages(parent)[0]);
  table.close(parent);
  EXPECT_EQ(table.take_freed(8), std::vector<int32_t>{copies[0].from});
  EXPECT_TRUE(table.take_freed(8).empty());
}

TEST(PageTable, RefusesWithoutChangingAnything) {
  PageTable table(2, 4);
  std::vector<PageCopy> copies;
  const auto a = table.open();
  ASSERT_TRUE(table.extend(a, 5, copies));
  EXPECT_FALSE(table.extend(a, 4, copies));
  EXPECT_EQ(table.length(a), 5);
  EXPECT_TRUE(table.extend(a, 3, copies));
  const auto b = table.open();
  EXPECT_FALSE(table.extend(b, 1, copies));
  table.close(a);
  EXPECT_TRUE(table.extend(b, 8, copies));
}

TEST(PageTable, TruncatingGivesBackWholePagesOnly) {
  PageTable table(6, 4);
  std::vector<PageCopy> copies;
  const auto a = table.open();
  ASSERT_TRUE(table.extend(a, 18, copies));
  const auto b = table.fork(a);
  table.truncate(a, 9);
  EXPECT_EQ(table.length(a), 9);
  EXPECT_EQ(table.pages(a).size(), 3u);
  EXPECT_EQ(table.stats().shared, 3);
  EXPECT_EQ(table.stats().free, 1) << "the other still has all of them";
  ASSERT_TRUE(table.extend(a, 1, copies));
  ASSERT_EQ(copies.size(), 1u) << "its last page is shared: it writes into a copy";
  table.close(b);
  table.truncate(a, 0);
  EXPECT_EQ(table.stats().used, 0);
  EXPECT_TRUE(table.pages(a).empty());
}

}  // namespace
}  // namespace bumblebee::engine
