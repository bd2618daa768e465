// An allocator that fails when it is told to, for programs of their own: linking failing_new.cpp replaces operator new
// of the whole program, and outside of sanitizers also aligned_alloc, which buffers of the CPU backend come from.
#pragma once

#include <cstdint>

namespace bumblebee::testing_support {

/// While it lives, the n-th allocation from its beginning (1: the next one) fails once, whichever thread asks.
class AllocationFailure {
 public:
  explicit AllocationFailure(int64_t n);
  ~AllocationFailure();
  AllocationFailure(const AllocationFailure&) = delete;
  AllocationFailure& operator=(const AllocationFailure&) = delete;
  /// False when fewer were asked for.
  bool happened() const;
};

/// What operator new gave and delete has not got back.
int64_t live_allocations();

}  // namespace bumblebee::testing_support
