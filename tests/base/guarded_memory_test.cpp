// The guard itself: what it promises about addresses, and that it kills.
#include "base/guarded_memory.h"

#include <gtest/gtest.h>

#include <cstdint>

namespace bumblebee {
namespace {

TEST(GuardedMemory, IsAlignedWritableAndNotANumber) {
  for (const size_t alignment : {size_t{1}, size_t{8}, size_t{64}}) {
    for (const size_t size : {size_t{1}, size_t{63}, size_t{64}, size_t{4095}, size_t{4096}, size_t{4097}}) {
      std::byte* const p = map_guarded(size, alignment);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % alignment, 0u);
      for (size_t i = 0; i < size; ++i) {
        ASSERT_EQ(p[i], std::byte{0xff}) << i << " of " << size;
        p[i] = std::byte{0};
      }
      unmap_guarded(p, size, alignment);
    }
  }
}

TEST(GuardedMemory, RefusesWhatCannotBe) {
  EXPECT_THROW(map_guarded(SIZE_MAX, 64), std::bad_alloc);
  EXPECT_THROW(map_guarded(SIZE_MAX / 2, 64), std::bad_alloc);
}

TEST(GuardedMemoryDeathTest, OneBytePastTheEndKills) {
  for (const size_t size : {size_t{1}, size_t{5000}, size_t{4096}}) {
    std::byte* const p = map_guarded(size, 1);
    EXPECT_DEATH(static_cast<void>(*const_cast<volatile std::byte*>(p + size)), "") << size;
    EXPECT_DEATH(*const_cast<volatile std::byte*>(p + size) = std::byte{0}, "") << size;
    unmap_guarded(p, size, 1);
  }
}

}  // namespace
}  // namespace bumblebee
