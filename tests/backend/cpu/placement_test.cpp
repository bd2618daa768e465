// Every row of every weight has one thread, whatever is multiplied together, and that thread is of the node which holds
// the row's bytes.
#include "backend/cpu/placement.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cerrno>

namespace bumblebee::cpu {
namespace {

using Nodes = std::vector<NodeThreads>;

const std::vector<Nodes> kMachines = {
    {{0, 0, 1}},
    {{0, 0, 2}},
    {{0, 0, 7}},
    {{0, 0, 1}, {1, 1, 2}},
    {{0, 0, 4}, {1, 4, 8}},
    {{3, 0, 3}, {5, 3, 4}, {9, 4, 11}},
    {{0, 0, 48}, {1, 48, 96}},
};
const std::vector<std::vector<int>> kProducts = {{16},        {1},  {4096, 1024, 1024}, {12288, 12288}, {151936},
                                                 {40, 24, 8}, {17}, {4096, 0, 512},     {33, 1, 95}};

/// The thread of every row of every term.
std::vector<std::vector<int>> owners(const RowPartition& rows, const std::vector<int>& outs) {
  std::vector<std::vector<int>> owner;
  for (int out : outs) owner.emplace_back(size_t(out), -1);
  for (int thread = 0; thread < rows.threads(); ++thread) {
    rows.each(
        int(outs.size()), [&](int t) { return outs[size_t(t)]; }, {.thread = thread}, kRowGrain,
        [&](int t, int first, int last) {
          EXPECT_LT(first, last);
          for (int r = first; r < last; ++r) {
            EXPECT_EQ(owner[size_t(t)][size_t(r)], -1) << "row " << r << " twice";
            owner[size_t(t)][size_t(r)] = thread;
          }
        });
  }
  return owner;
}

TEST(RowPartition, EveryRowHasOneThreadAndItsNodeHoldsIt) {
  for (const Nodes& machine : kMachines) {
    const RowPartition rows(machine);
    for (const std::vector<int>& outs : kProducts) {
      const auto owner = owners(rows, outs);
      for (size_t t = 0; t < outs.size(); ++t) {
        for (size_t node = 0; node < machine.size(); ++node) {
          const Range range = rows.rows_of_node(outs[t], node);
          for (int64_t r = range.first; r < range.last; ++r) {
            ASSERT_GE(owner[t][size_t(r)], machine[node].first) << outs[t] << " row " << r;
            ASSERT_LT(owner[t][size_t(r)], machine[node].last) << outs[t] << " row " << r;
          }
        }
        ASSERT_EQ(std::count(owner[t].begin(), owner[t].end(), -1), 0) << outs[t];
      }
    }
  }
}

/// The pieces of a thread's part are its rows, each once, and begin at multiples of the grain of its share.
TEST(RowPartition, PiecesAreTheRowsOfTheirThread) {
  for (const Nodes& machine : kMachines) {
    const RowPartition rows(machine);
    for (const std::vector<int>& outs : kProducts) {
      const auto owner = owners(rows, outs);
      for (const int64_t grain : {kRowGrain, int64_t{64}}) {
        for (const int pieces : {1, 3, 8}) {
          std::vector<std::vector<int>> taken;
          for (const int out : outs) taken.emplace_back(size_t(out), 0);
          for (int thread = 0; thread < rows.threads(); ++thread) {
            int64_t before = 0;  // rows of the share
            for (int piece = 0; piece < pieces; ++piece) {
              bool begins = true;
              rows.each(
                  int(outs.size()), [&](int t) { return outs[size_t(t)]; }, {thread, piece, pieces}, grain,
                  [&](int t, int first, int last) {
                    ASSERT_LT(first, last);
                    if (begins) {
                      ASSERT_EQ(before % grain, 0);
                    }
                    begins = false;
                    before += last - first;
                    for (int r = first; r < last; ++r) {
                      ++taken[size_t(t)][size_t(r)];
                      ASSERT_EQ(owner[size_t(t)][size_t(r)], thread);
                    }
                  });
            }
          }
          for (const auto& term : taken) ASSERT_EQ(std::count(term.begin(), term.end(), 1), int64_t(term.size()));
        }
      }
    }
  }
}

TEST(RowPartition, ByCostPiecesAreTheRowsOfTheirThread) {
  const std::vector<std::pair<int, int>> terms = {{768, 300}, {768, 5}, {17, 9}, {2048, 44}};
  for (const Nodes& machine : kMachines) {
    const RowPartition rows(machine);
    const CostPartition costs(
        rows, int(terms.size()), [&](int t) { return terms[size_t(t)].first; },
        [&](int t) { return terms[size_t(t)].second; });
    for (int thread = 0; thread < rows.threads(); ++thread) {
      const auto taken = [&](int pieces) {
        std::vector<std::pair<int, int>> all;
        for (int piece = 0; piece < pieces; ++piece) {
          costs.each({thread, piece, pieces}, [&](int t, int first, int last) {
            for (int r = first; r < last; ++r) all.emplace_back(t, r);
          });
        }
        return all;
      };
      EXPECT_EQ(taken(8), taken(1));
    }
  }
}

/// Terms whose rows cost more or less: still every row once, on its node, and threads have about as much to do.
TEST(RowPartition, ByCostEveryRowHasOneThreadToo) {
  const std::vector<std::vector<std::pair<int, int>>> products = {
      {{768, 5}, {768, 5}, {768, 5}}, {{768, 300}, {768, 5}, {768, 9}, {2048, 44}}, {{17, 1}}, {{1, 1}, {33, 1000}}};
  for (const Nodes& machine : kMachines) {
    const RowPartition rows(machine);
    for (const auto& terms : products) {
      std::vector<std::vector<int>> owner;
      std::vector<int64_t> load(size_t(rows.threads()), 0);
      int64_t total = 0, largest = 0;
      for (const auto& [out, cost] : terms) {
        owner.emplace_back(size_t(out), -1);
        total += int64_t{out} * cost;
        largest = std::max<int64_t>(largest, cost);
      }
      const CostPartition costs(
          rows, int(terms.size()), [&](int t) { return terms[size_t(t)].first; },
          [&](int t) { return terms[size_t(t)].second; });
      for (int thread = 0; thread < rows.threads(); ++thread) {
        costs.each({.thread = thread}, [&](int t, int first, int last) {
          ASSERT_LT(first, last);
          for (int r = first; r < last; ++r) {
            ASSERT_EQ(owner[size_t(t)][size_t(r)], -1) << "row " << r << " twice";
            owner[size_t(t)][size_t(r)] = thread;
          }
          load[size_t(thread)] += int64_t{last - first} * terms[size_t(t)].second;
        });
      }
      for (size_t t = 0; t < terms.size(); ++t) {
        for (size_t node = 0; node < machine.size(); ++node) {
          const Range range = rows.rows_of_node(terms[t].first, node);
          for (int64_t r = range.first; r < range.last; ++r) {
            ASSERT_GE(owner[t][size_t(r)], machine[node].first);
            ASSERT_LT(owner[t][size_t(r)], machine[node].last);
          }
        }
        ASSERT_EQ(std::count(owner[t].begin(), owner[t].end(), -1), 0);
      }
      if (machine.size() > 1) continue;  // nodes share by rows
      for (const int64_t one : load) EXPECT_LE(one, total / rows.threads() + 2 * kRowGrain * largest);
    }
  }
}

TEST(RowPartition, OnOneNodeItIsTheEvenSplitOfAllRows) {
  const RowPartition rows(Nodes{{0, 0, 3}});
  const auto owner = owners(rows, {4096, 1024, 1024});
  int64_t next = 0;
  for (const auto& term : owner) {
    for (int thread : term) {
      const Range part = share(6144, kRowGrain, thread, thread + 1, 3);
      ASSERT_TRUE(part.first <= next && next < part.last) << next;
      ++next;
    }
  }
}

TEST(RowPartition, ThreadsOfANodeShareEvenly) {
  const RowPartition rows(Nodes{{0, 0, 3}, {1, 3, 8}});
  std::vector<int> load(8, 0);
  for (const auto& term : owners(rows, {4096, 1024, 1024})) {
    for (int thread : term) ++load[size_t(thread)];
  }
  for (int thread = 0; thread < 8; ++thread) EXPECT_NEAR(load[size_t(thread)], 6144 / 8, 2 * kRowGrain) << thread;
}

/// A weight whose parts are fakes of the right sizes, page-aligned as tensors of a file are not.
HostWeight weight_over(std::span<const std::byte> memory, int out, size_t codes, size_t scales) {
  HostWeight weight{.format = Format::affine(4, 64, DType::bf16, DType::bf16),
                    .out = out,
                    .in = int(codes) * 2,
                    .codes = memory.first(codes * size_t(out)),
                    .scales = memory.subspan(codes * size_t(out), scales * size_t(out)),
                    .biases = memory.subspan((codes + scales) * size_t(out), scales * size_t(out)),
                    .name = "w",
                    .keep = nullptr};
  return weight;
}

TEST(PlacementOfWeights, NodesHoldTheBytesOfTheirRows) {
  constexpr int kOut = 208;
  std::vector<std::byte> memory(kOut * (512 + 2 * 32));
  const HostWeight weight = weight_over(memory, kOut, 512, 32);
  const RowPartition rows(Nodes{{4, 0, 1}, {7, 1, 3}});
  const std::vector<NodeBytes> placed = placement(weight, rows);
  ASSERT_EQ(placed.size(), 6u);  // codes, scales, biases, by two nodes
  const Range low = rows.rows_of_node(kOut, 0), high = rows.rows_of_node(kOut, 1);
  EXPECT_EQ(low.last, high.first);
  EXPECT_EQ(placed[0].node, 4);
  EXPECT_EQ(placed[0].bytes.data(), weight.codes.data());
  EXPECT_EQ(placed[0].bytes.size(), size_t(low.size()) * 512);
  EXPECT_EQ(placed[1].node, 7);
  EXPECT_EQ(placed[1].bytes.data(), weight.codes.data() + size_t(high.first) * 512);
  EXPECT_EQ(placed[1].bytes.size(), size_t(high.size()) * 512);
  EXPECT_EQ(placed[3].bytes.data(), weight.scales.data() + size_t(high.first) * 32);
  size_t bytes = 0;
  for (const NodeBytes& range : placed) bytes += range.bytes.size();
  EXPECT_EQ(bytes, memory.size());
}

TEST(PlacementOfWeights, DenseWeightsHaveNoScalesToPlace) {
  std::vector<std::byte> memory(64 * 256);
  HostWeight weight = weight_over(memory, 64, 256, 0);
  weight.scales = weight.biases = {};
  EXPECT_EQ(placement(weight, RowPartition(Nodes{{0, 0, 2}})).size(), 1u);
  weight.out = 0;
  EXPECT_TRUE(placement(weight, RowPartition(Nodes{{0, 0, 2}})).empty());
}

TEST(PlacementOfWeights, OneNodeCostsNothing) {
  ThreadPool pool(2, Pin::none);
  std::vector<std::byte> memory(64 * 256);
  EXPECT_EQ(place(weight_over(memory, 64, 200, 28), RowPartition(pool.plan().nodes), pool).pages,
            pool.plan().nodes.size() > 1 ? memory.size() / memory_page_size() : 0);
}

TEST(PlacementOfWeights, EveryPageIsWhereItsThreadIs) {
  ThreadPool pool(0);
  const RowPartition rows(pool.plan().nodes);
  if (rows.nodes().size() < 2) GTEST_SKIP() << "needs several memory nodes: tools/two_nodes.sh emulates them";
  constexpr int kOut = 1024;
  constexpr size_t kSize = kOut * (4096 + 2 * 512);
  void* mapped = ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(mapped, MAP_FAILED);
  // A huge page that holds rows of two nodes can only be on one of them.
  ASSERT_EQ(::madvise(mapped, kSize, MADV_NOHUGEPAGE), 0);
  const std::span<std::byte> memory(static_cast<std::byte*>(mapped), kSize);
  std::fill(memory.begin(), memory.end(), std::byte{5});
  const HostWeight weight = weight_over(memory, kOut, 4096, 512);
  const PlacedPages placed = place(weight, rows, pool);
  ASSERT_EQ(placed.error, 0) << to_string(placed);
  EXPECT_EQ(placed.on_node, placed.pages);
  for (const NodeBytes& range : placement(weight, rows)) {
    const std::span<const std::byte> pages = whole_pages(range.bytes);
    for (size_t at = 0; at < pages.size(); at += memory_page_size())
      ASSERT_EQ(node_of(pages.data() + at), range.node) << "page " << at / memory_page_size();
  }
  ::munmap(mapped, kSize);
}

/// A partition over two nodes that are one and the same goes through the whole path on any machine.
TEST(PlacementOfWeights, TheWholePathRuns) {
  const int node = this_machine().cpus.front().memory_node;
  ThreadPool pool(3);
  constexpr int kOut = 1024;
  std::vector<std::byte> memory(kOut * (4096 + 2 * 512), std::byte{5});
  const HostWeight weight = weight_over(memory, kOut, 4096, 512);
  const PlacedPages placed = place(weight, RowPartition(Nodes{{node, 0, 1}, {node, 1, 3}}), pool);
  EXPECT_NEAR(double(placed.pages), double(memory.size() / memory_page_size()), 1);
  if (placed.error != EPERM && placed.error != ENOSYS) {
    EXPECT_EQ(placed.on_node, placed.pages) << to_string(placed);
  }
  EXPECT_EQ(std::count(memory.begin(), memory.end(), std::byte{5}), int64_t(memory.size()));
}

}  // namespace
}  // namespace bumblebee::cpu
