// Instruction sets of this build against those of this processor. What cannot run here is said, in a line that ./test
// repeats in its summary.
#include "backend/cpu/dispatch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>

#include "base/error.h"

namespace bumblebee::cpu {
namespace {

/// All that this project has for the architecture.
std::vector<std::string> known_sets() {
#if defined(__x86_64__)
  return {"avx512_amx", "avx512_bf16", "avx512_vnni", "avx512", "avx2_vnni", "avx2", "scalar"};
#elif defined(__aarch64__)
  return {"neon_i8mm", "neon_dotprod", "neon", "scalar"};
#else
  return {"scalar"};
#endif
}

TEST(InstructionSets, EachOfThisBuildRunsHereOrIsNamedAsNotRun) {
  std::vector<std::string> available;
  for (const Kernels* set : available_kernels()) available.emplace_back(set->name);
  const std::vector<std::string> compiled = compiled_sets();
  std::vector<std::string> left;  // in the same order
  for (const std::string& set : known_sets()) {
    if (std::find(compiled.begin(), compiled.end(), set) == compiled.end()) {
      EXPECT_THROW(choose_kernels(set), Error) << set;
      std::printf("not run: instruction set %s: not in this build\n", set.c_str());
    } else if (std::find(available.begin(), available.end(), set) != available.end()) {
      left.push_back(set);
      EXPECT_EQ(choose_kernels(set).name, set);
      std::printf("instruction set %s: run\n", set.c_str());
    } else {
      EXPECT_THROW(choose_kernels(set), Error) << set;
      std::printf("not run: instruction set %s: %s lacks it\n", set.c_str(), processor_name().c_str());
    }
  }
  EXPECT_EQ(left, available) << "a set that runs is not among those that are known";
}

}  // namespace
}  // namespace bumblebee::cpu
