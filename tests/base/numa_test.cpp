// Placement by the real system calls, as far as one node allows; on machines whose filters refuse the calls, that the
// refusal is reported and nothing else changes.
#include "base/numa.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "base/mapped_file.h"
#include "base/topology.h"

namespace bumblebee {
namespace {

int own_node() { return this_machine().cpus.front().memory_node; }
bool refused(const PlacedPages& placed) { return placed.error == EPERM || placed.error == ENOSYS; }

TEST(WholePages, RangesThatMeetShareNoneAndLoseNone) {
  const size_t page = memory_page_size();
  std::vector<std::byte> memory(10 * page);
  const std::span<const std::byte> all(memory);
  for (const size_t middle : {size_t{1}, page - 1, page, page + 1, 3 * page + 17}) {
    const auto first = whole_pages(all.first(middle)), second = whole_pages(all.subspan(middle));
    EXPECT_EQ(first.data() + first.size(), second.data());
    EXPECT_EQ(first.size() + second.size(), whole_pages(all).size());
    EXPECT_EQ(first.size() % page, 0u);
  }
  EXPECT_EQ(whole_pages({}).size(), 0u);
  // A range within one page has that page's first byte or not.
  const std::byte* start = whole_pages(all).data();
  EXPECT_EQ(whole_pages({start, 1}).size(), page);
  EXPECT_EQ(whole_pages({start + 1, 1}).size(), 0u);
}

TEST(Placement, APageGoesWhereItShould) {
  const PlacedPages placed = try_placement(own_node());
  EXPECT_EQ(placed.pages, 1u);
  if (refused(placed)) {
    EXPECT_EQ(placed.on_node, 0u);
  } else {
    EXPECT_EQ(placed.error, 0) << std::strerror(placed.error);
    EXPECT_EQ(placed.on_node, 1u);
  }
}

TEST(Placement, EveryNodeOfThisMachineTakesPages) {
  for (const NodeThreads& node : plan_threads(this_machine(), 0).nodes) {
    const PlacedPages placed = try_placement(node.node);
    EXPECT_TRUE(placed.on_node == 1 || refused(placed)) << "node " << node.node << ": " << to_string(placed);
  }
}

TEST(Placement, ANodeThatIsNotThereIsAnErrorThatChangesNothing) {
  const PlacedPages placed = try_placement(999);
  EXPECT_EQ(placed.on_node, 0u);
  EXPECT_NE(placed.error, 0);
  EXPECT_NE(to_string(placed).find("0 of 1 pages"), std::string::npos);
  EXPECT_EQ(try_placement(-1).on_node, 0u);
  EXPECT_EQ(try_placement(1 << 30).on_node, 0u);
}

TEST(Placement, PagesOfAMappedFileKeepTheirBytesAndMove) {
  std::string path = (std::filesystem::temp_directory_path() / "bumblebee-numa-XXXXXX").string();
  const int descriptor = ::mkstemp(path.data());
  ASSERT_GE(descriptor, 0);
  const size_t size = 700 * memory_page_size() + 100;  // more than one batch, and a page that is not full
  std::string text(size, 'x');
  for (size_t i = 0; i < size; ++i) text[i] = char(i * 31 % 251);
  ASSERT_EQ(std::ofstream(path, std::ios::binary).write(text.data(), std::streamsize(size)).good(), true);
  {
    const auto file = MappedFile::open(path);
    const std::span<const std::byte> bytes = file->bytes();
    const PlacedPages placed = place_on_node(bytes, own_node());
    EXPECT_EQ(placed.pages, 701u);
    if (!refused(placed)) {
      EXPECT_EQ(placed.on_node, placed.pages) << to_string(placed);
      EXPECT_EQ(node_of(bytes.data()), own_node());
      EXPECT_EQ(node_of(bytes.data() + size - 1), own_node());
    }
    EXPECT_EQ(std::memcmp(bytes.data(), text.data(), size), 0);
  }
  ::close(descriptor);
  std::filesystem::remove(path);
}

TEST(Placement, MemoryOfANodeIsPreferredForAWhile) {
  const size_t size = memory_page_size();
  for (const NodeThreads& node : plan_threads(this_machine(), 0).nodes) {
    void* fresh = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(fresh, MAP_FAILED);
    bool granted = false;
    {
      const PreferNode prefer(node.node);
      std::memset(fresh, 1, size);
      granted = prefer.granted();
    }
    if (granted) {
      EXPECT_EQ(node_of(static_cast<const std::byte*>(fresh)), node.node);
    }
    ::munmap(fresh, size);
  }
  const PreferNode none(-1), beyond(1 << 20), absent(1000);
  EXPECT_FALSE(none.granted());
  EXPECT_FALSE(beyond.granted());
  EXPECT_FALSE(absent.granted());
}

TEST(Placement, WhatIsNotMappedHasNoNode) { EXPECT_EQ(node_of(nullptr), -1); }

}  // namespace
}  // namespace bumblebee
