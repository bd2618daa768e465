// Machines as Linux would show them, made of files: plain ones, hybrid ones, several nodes, containers, and trees that
// contradict themselves.
#include "base/topology.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <numeric>

#include "base/partition.h"

namespace bumblebee {
namespace {

namespace fs = std::filesystem;

std::vector<int> up_to(int count) {
  std::vector<int> all(static_cast<size_t>(count));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

class TopologyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "bumblebee-topology-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
  }
  void TearDown() override { fs::remove_all(root_); }

  void write(const std::string& path, const std::string& text) {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text << "\n";
  }
  void cpu(int id, const std::string& siblings) {
    write("sys/devices/system/cpu/cpu" + std::to_string(id) + "/topology/core_cpus_list", siblings);
  }
  void node(int id, const std::string& cpus, const std::string& distance = "") {
    const std::string folder = "sys/devices/system/node/node" + std::to_string(id);
    write(folder + "/cpulist", cpus);
    if (!distance.empty()) write(folder + "/distance", distance);
  }
  void nodes(const std::string& online, const std::string& with_memory) {
    write("sys/devices/system/node/online", online);
    write("sys/devices/system/node/has_memory", with_memory);
  }
  /// Two nodes of two cores with two hardware threads each: siblings are i and i + 4, nodes interleave.
  void two_sockets() {
    write("sys/devices/system/cpu/online", "0-7");
    for (int i = 0; i < 8; ++i) cpu(i, std::to_string(i % 4) + "," + std::to_string(i % 4 + 4));
    nodes("0-1", "0-1");
    node(0, "0,2,4,6", "10 21");
    node(1, "1,3,5,7", "21 10");
  }
  Topology read(const std::vector<int>& allowed) { return read_topology(root_, allowed); }

  fs::path root_;
};

using Nodes = std::vector<NodeThreads>;

std::vector<std::vector<int>> as_lists(const Nodes& nodes) {
  std::vector<std::vector<int>> lists;
  for (const NodeThreads& n : nodes) lists.push_back({n.node, n.first, n.last});
  return lists;
}

TEST_F(TopologyTest, NothingThereMeansOneCorePerAllowedCpu) {
  const Topology t = read({3, 5, 9});
  ASSERT_EQ(t.cpus.size(), 3u);
  EXPECT_EQ(t.cores(), 3);
  EXPECT_EQ(t.nodes(), std::vector<int>{0});
  EXPECT_FALSE(t.cpu_quota);
  EXPECT_EQ(default_threads(t), 3);
  const ThreadPlan plan = plan_threads(t, 0);
  EXPECT_EQ(plan.cpus, (std::vector<int>{3, 5, 9}));
  EXPECT_EQ(plan.nodes.size(), 1u);
  EXPECT_FALSE(plan.crowded);
}

TEST_F(TopologyTest, NoAllowedCpuAtAllIsStillAMachine) {
  EXPECT_EQ(read({}).cpus.size(), 1u);
  EXPECT_EQ(default_threads(read({})), 1);
}

TEST_F(TopologyTest, HardwareThreadsShareACore) {
  two_sockets();
  const Topology t = read(up_to(8));
  EXPECT_EQ(t.cores(), 4);
  EXPECT_EQ(default_threads(t), 4);
  EXPECT_EQ(t.cpus[1].core, t.cpus[5].core);
  EXPECT_NE(t.cpus[0].core, t.cpus[1].core);
  EXPECT_EQ(t.nodes(), (std::vector<int>{0, 1}));
}

TEST_F(TopologyTest, OlderKernelsNameSiblingsOtherwise) {
  for (int i = 0; i < 2; ++i)
    write("sys/devices/system/cpu/cpu" + std::to_string(i) + "/topology/thread_siblings_list", "0-1");
  EXPECT_EQ(read(up_to(2)).cores(), 1);
}

TEST_F(TopologyTest, TheMaskCountsNotTheMachine) {
  two_sockets();
  EXPECT_EQ(default_threads(read({5})), 1);
  EXPECT_EQ(read({1, 5}).cores(), 1) << "two hardware threads of one core";
  EXPECT_EQ(read({1, 6}).cores(), 2);
  EXPECT_EQ(read({1, 6}).cpus[1].node, 0);
}

TEST_F(TopologyTest, OfflineCpusDoNotCount) {
  two_sockets();
  write("sys/devices/system/cpu/online", "0,2-3");
  const Topology t = read(up_to(8));
  EXPECT_EQ(t.cpus.size(), 3u);
  EXPECT_EQ(default_threads(t), 3);
  write("sys/devices/system/cpu/online", "100");
  EXPECT_EQ(read(up_to(8)).cpus.size(), 8u) << "a list that leaves nothing contradicts the mask";
}

TEST_F(TopologyTest, ThreadsAreLaidOutByNodeAndSpreadEvenly) {
  two_sockets();
  const Topology t = read(up_to(8));
  ThreadPlan plan = plan_threads(t, 2);
  EXPECT_EQ(plan.cpus, (std::vector<int>{0, 1})) << "one per node: twice the bandwidth";
  EXPECT_EQ(as_lists(plan.nodes), (std::vector<std::vector<int>>{{0, 0, 1}, {1, 1, 2}}));
  plan = plan_threads(t, 0);
  EXPECT_EQ(plan.cpus, (std::vector<int>{0, 2, 1, 3})) << "one per core, node by node";
  EXPECT_EQ(as_lists(plan.nodes), (std::vector<std::vector<int>>{{0, 0, 2}, {1, 2, 4}}));
  plan = plan_threads(t, 5);
  EXPECT_EQ(plan.cpus, (std::vector<int>{0, 2, 4, 1, 3})) << "then the second hardware thread of a core";
  plan = plan_threads(t, 11);
  EXPECT_EQ(plan.threads(), 11) << "as many as asked, whatever there is";
  EXPECT_TRUE(plan.crowded);
}

TEST_F(TopologyTest, BindingFollowsTheChoice) {
  two_sockets();
  const Topology t = read(up_to(8));
  const ThreadPlan automatic = plan_threads(t, 4);
  EXPECT_EQ(automatic.bound[0], std::vector<int>{}) << "the caller's thread is its own";
  EXPECT_EQ(automatic.bound[1], (std::vector<int>{0, 2, 4, 6}));
  EXPECT_EQ(automatic.bound[3], (std::vector<int>{1, 3, 5, 7}));
  const ThreadPlan cores = plan_threads(t, 4, Pin::cores);
  EXPECT_EQ(cores.bound, (std::vector<std::vector<int>>{{}, {2}, {1}, {3}}));
  EXPECT_EQ(plan_threads(t, 4, Pin::none).bound, std::vector<std::vector<int>>(4));
  EXPECT_EQ(plan_threads(t, 9, Pin::cores).bound, std::vector<std::vector<int>>(9)) << "more than processors";
  EXPECT_EQ(plan_threads(read({0, 2}), 2).bound, std::vector<std::vector<int>>(2)) << "one node";
}

TEST_F(TopologyTest, SlowCoresJoinWhenTogetherTheyWin) {
  const auto hybrid = [&](int fast, int slow, int percent) {
    for (int i = 0; i < fast + slow; ++i) {
      write("sys/devices/system/cpu/cpu" + std::to_string(i) + "/cpu_capacity",
            std::to_string(i < slow ? 1024 * percent / 100 : 1024));
    }
    return read(up_to(fast + slow));
  };
  EXPECT_EQ(default_threads(hybrid(4, 4, 40)), 4) << "8 at 0.4 are less than 4 at 1";
  EXPECT_EQ(default_threads(hybrid(4, 8, 60)), 12) << "12 at 0.6 are more than 4 at 1";
  const Topology t = hybrid(2, 4, 30);
  EXPECT_EQ(plan_threads(t, 3).cpus, (std::vector<int>{4, 5, 0})) << "fast cores first";
}

TEST_F(TopologyTest, FrequenciesStandInForCapacities) {
  for (int i = 0; i < 4; ++i) {
    write("sys/devices/system/cpu/cpu" + std::to_string(i) + "/cpu_capacity", "1024");
    write("sys/devices/system/cpu/cpu" + std::to_string(i) + "/cpufreq/cpuinfo_max_freq",
          i < 2 ? "1500000" : "5000000");
  }
  EXPECT_EQ(plan_threads(read(up_to(4)), 2).cpus, (std::vector<int>{2, 3}));
  EXPECT_EQ(default_threads(read(up_to(4))), 2);
  write("sys/devices/system/cpu/cpu3/cpufreq/cpuinfo_max_freq", "-7");
  EXPECT_EQ(default_threads(read(up_to(4))), 4) << "one without a figure: none is believed";
}

TEST_F(TopologyTest, SmallDifferencesAreOneClass) {
  for (int i = 0; i < 4; ++i) {
    write("sys/devices/system/cpu/cpu" + std::to_string(i) + "/cpufreq/cpuinfo_max_freq",
          std::to_string(5000000 - 100000 * i));
  }
  EXPECT_EQ(default_threads(read(up_to(4))), 4);
}

TEST_F(TopologyTest, NodesWithoutMemoryUseTheNearestThatHasSome) {
  write("sys/devices/system/cpu/online", "0-5");
  nodes("0,2,8,9", "0,8");
  node(0, "0-1", "10 20 30 40");
  node(2, "2-3", "20 10 15 40");  // no memory; node 8 is nearer than node 0
  node(8, "4-5", "30 15 10 40");
  node(9, "", "40 40 40 10");  // no processors
  const Topology t = read(up_to(6));
  EXPECT_EQ(t.nodes(), (std::vector<int>{0, 2, 8}));
  EXPECT_EQ(t.cpus[2].memory_node, 8);
  const ThreadPlan plan = plan_threads(t, 0);
  EXPECT_EQ(plan.cpus, (std::vector<int>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(as_lists(plan.nodes), (std::vector<std::vector<int>>{{0, 0, 2}, {8, 2, 6}}));
  EXPECT_EQ(plan.bound[2], (std::vector<int>{2, 3}));
}

TEST_F(TopologyTest, CpusThatNoNodeListsAreOnTheLowest) {
  nodes("1-2", "1-2");
  node(1, "0");
  const Topology t = read(up_to(3));
  EXPECT_EQ(t.cpus[0].node, 1);
  EXPECT_EQ(t.cpus[2].node, 1);
  EXPECT_EQ(plan_threads(t, 3).nodes.size(), 1u);
}

TEST_F(TopologyTest, QuotaOfTheSecondVersion) {
  write("proc/self/cgroup", "0::/a/b");
  write("sys/fs/cgroup/a/b/cpu.max", "max 100000");
  EXPECT_FALSE(read(up_to(64)).cpu_quota);
  write("sys/fs/cgroup/a/cpu.max", "250000 100000");
  const Topology t = read(up_to(64));
  ASSERT_TRUE(t.cpu_quota);
  EXPECT_DOUBLE_EQ(*t.cpu_quota, 2.5) << "the limit of a group above";
  EXPECT_EQ(default_threads(t), 2) << "never more than the quota: a third thread would be stopped half of the time";
  EXPECT_FALSE(plan_threads(t, 2).crowded);
  EXPECT_TRUE(plan_threads(t, 4).crowded);
  EXPECT_EQ(plan_threads(t, 4).threads(), 4);
  write("sys/fs/cgroup/a/b/cpu.max", "50000 100000");
  EXPECT_EQ(default_threads(read(up_to(64))), 1) << "less than one is still one";
}

TEST_F(TopologyTest, QuotaAtTheRootOfAContainer) {
  write("proc/self/cgroup", "0::/");
  write("sys/fs/cgroup/cpu.max", "200000 100000");
  EXPECT_EQ(default_threads(read(up_to(64))), 2);
  write("proc/self/cgroup", "0::/../../elsewhere");
  EXPECT_EQ(default_threads(read(up_to(64))), 2);
}

TEST_F(TopologyTest, QuotaOfTheFirstVersion) {
  write("proc/self/cgroup", "5:memory:/x\n4:cpu,cpuacct:/box\n0::/x");
  write("sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", "-1");
  write("sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us", "100000");
  EXPECT_FALSE(read(up_to(64)).cpu_quota);
  write("sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", "300000");
  EXPECT_EQ(default_threads(read(up_to(64))), 3);
}

TEST_F(TopologyTest, NonsenseIsSkipped) {
  const std::string endless(1 << 20, '7');
  for (const std::string& text :
       {std::string("-"), std::string("3-1"), std::string("x,,-4-2,1e9"), std::string("0-999999999"),
        std::string("99999999999999999999"), endless, std::string("\0\0", 2)}) {
    write("sys/devices/system/cpu/online", text);
    write("sys/devices/system/node/online", text);
    node(0, text, text);
    node(1, text, text);
    cpu(0, text);
    cpu(1, text);
    write("sys/devices/system/cpu/cpu0/cpu_capacity", text);
    write("proc/self/cgroup", text + "\n0::" + text + "\n3:cpu:" + text);
    write("sys/fs/cgroup/cpu.max", text + " " + text);
    const Topology t = read({0, 1, -5, 1 << 30});
    EXPECT_EQ(t.cpus.size(), 2u) << text.substr(0, 20);
    EXPECT_GE(default_threads(t), 1);
    EXPECT_LE(default_threads(t), 2);
    EXPECT_EQ(plan_threads(t, 3).threads(), 3);
  }
}

TEST_F(TopologyTest, DirectoriesInPlaceOfFilesAreAbsent) {
  fs::create_directories(root_ / "sys/devices/system/cpu/online");
  fs::create_directories(root_ / "sys/devices/system/node/online");
  fs::create_directories(root_ / "proc/self/cgroup");
  EXPECT_EQ(read(up_to(2)).cpus.size(), 2u);
}

TEST(Topology, ThisMachineHasWhatItsMaskSays) {
  const Topology t = this_machine();
  EXPECT_LE(t.cpus.size(), allowed_cpus().size());
  EXPECT_GE(default_threads(t), 1);
  EXPECT_LE(default_threads(t), t.cores());
}

TEST(Partition, SharesMeetAndDifferByOneGrain) {
  for (const int64_t count : {0, 1, 15, 16, 17, 1000, 4096}) {
    for (const int64_t parts : {1, 2, 3, 7, 64}) {
      int64_t next = 0, least = count, most = 0;
      for (int64_t p = 0; p < parts; ++p) {
        const Range range = share(count, 16, p, p + 1, parts);
        EXPECT_EQ(range.first, next);
        next = range.last;
        least = std::min(least, range.size());
        most = std::max(most, range.size());
      }
      EXPECT_EQ(next, count);
      EXPECT_LE(most - least, 16 + 15) << count << " by " << parts;  // the last unit may be short
    }
  }
}

}  // namespace
}  // namespace bumblebee
