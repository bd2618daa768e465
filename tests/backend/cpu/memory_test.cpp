// The pool of activations: what it keeps, what it gives back, and that sizes that no longer come do not stay.
#include "backend/cpu/memory.h"

#include <gtest/gtest.h>

#include <cmath>

namespace bumblebee::cpu {
namespace {

constexpr int kMiB = (1 << 20) / int(sizeof(float));

TEST(Pool, AWarmStepAllocatesNothing) {
  const auto pool = std::make_shared<Pool>();
  const float* first = nullptr;
  {
    const Tensor a = pool->make(3, kMiB);
    first = data(a);
  }
  EXPECT_GE(pool->cached_bytes(), size_t{3} << 20);
  const Tensor again = pool->make(3, kMiB);
  EXPECT_EQ(data(again), first);
  EXPECT_EQ(pool->cached_bytes(), 0u);
}

TEST(Pool, SizesOfNearlyTheSameRowsShareBuffers) {
  const auto pool = std::make_shared<Pool>();
  pool->make(1000, 1536);
  EXPECT_GT(pool->cached_bytes(), 0u);
  const Tensor b = pool->make(1020, 1536);
  EXPECT_EQ(pool->cached_bytes(), 0u) << "the buffer that was free is used";
}

TEST(Pool, SizesThatNoLongerComeMakeRoom) {
  const auto pool = std::make_shared<Pool>();
  pool->limit(size_t{1} << 30);
  {
    std::vector<Tensor> many;
    for (int i = 0; i < 40; ++i) many.push_back(pool->make(12, kMiB));
  }
  EXPECT_GE(pool->cached_bytes(), size_t{480} << 20);
  const Tensor large = pool->make(400, kMiB);  // none of the free ones is large enough
  EXPECT_LE(pool->cached_bytes(), Pool::kDefaultLimit);
}

TEST(Pool, KeepsNoMoreThanItsLimit) {
  const auto pool = std::make_shared<Pool>();
  pool->limit(size_t{4} << 20);
  {
    std::vector<Tensor> many;
    for (int i = 0; i < 8; ++i) many.push_back(pool->make(1, kMiB));
  }
  EXPECT_LE(pool->cached_bytes(), size_t{4} << 20);
  EXPECT_GT(pool->cached_bytes(), size_t{2} << 20);
  pool->limit(size_t{1} << 20);
  EXPECT_LE(pool->cached_bytes(), size_t{1} << 20);
}

TEST(Pool, ABufferMayOutliveIt) {
  Tensor kept;
  {
    const auto pool = std::make_shared<Pool>();
    kept = pool->make(1, 8);
  }
  data(kept)[7] = 1;
  EXPECT_EQ(data(kept)[7], 1);
}

#ifndef NDEBUG
TEST(Guard, BuffersBeginAsNaN) {
  const auto pool = std::make_shared<Pool>();
  std::fill_n(data(pool->make(3, 5)), 15, 1.0f);
  const Tensor again = pool->make(3, 5);
  for (int i = 0; i < 15; ++i) EXPECT_TRUE(std::isnan(data(again)[i])) << i;
  const AlignedBytes bytes = aligned_bytes(64);
  EXPECT_TRUE(std::isnan(*reinterpret_cast<const float*>(bytes.get())));
}

TEST(GuardDeathTest, ReadingPastATensorKills) {
  const auto pool = std::make_shared<Pool>();
  pool->make(1, 4096);  // whatever was there before, and however much larger it was
  const Tensor tensor = pool->make(3, 1000);
  const volatile float* const end = data(tensor) + (3 * 1000 + 15) / 16 * 16;
  EXPECT_EQ(reinterpret_cast<uintptr_t>(data(tensor)) % 64, 0u);
  EXPECT_TRUE(std::isnan(data(tensor)[2999]));
  EXPECT_DEATH(static_cast<void>(*end), "");
}

TEST(GuardDeathTest, WritingPastScratchKills) {
  const AlignedBytes bytes = aligned_bytes(200);
  volatile std::byte* const end = bytes.get() + 256;
  EXPECT_DEATH(*end = std::byte{0}, "");
}
#endif

}  // namespace
}  // namespace bumblebee::cpu
