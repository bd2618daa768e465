// Memory that runs out while a set of adapters gets its slot: it has one, or nothing has changed.
#include <gtest/gtest.h>

#include "exec/slots.h"
#include "tests/exec/tiny_device.h"
#include "tests/support/failing_new.h"

namespace bumblebee::exec {
namespace {

using testing_support::AllocationFailure;

class SlotsWithoutMemory : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Devices, SlotsWithoutMemory, testing::Values("ref", "cpu"),
                         [](const auto& p) { return std::string(p.param); });

TEST_P(SlotsWithoutMemory, ASetHasASlotOrNothingHasChanged) {
  const auto device = tiny_device(GetParam());
  const auto set = adapter_set(*device, {}, 1), other = adapter_set(*device, {.modules = {"v_proj"}}, 2);
  int64_t failed = 0, n = 1;
  for (bool happened = true; happened; ++n) {
    Slots slots(device->backend(), device->model().target_modules());
    int32_t slot = -1;
    {
      const AllocationFailure failure(n);
      try {
        slot = slots.acquire(set);
      } catch (const std::bad_alloc&) {
        ++failed;
      }
      happened = failure.happened();
    }
    EXPECT_EQ(slots.used(), slot >= 0 ? 1 : 0) << "allocation " << n;
    const int32_t next = slots.acquire(set), beside = slots.acquire(other);
    ASSERT_GE(next, 0) << "allocation " << n;
    ASSERT_GE(beside, 0) << "allocation " << n;
    EXPECT_NE(next, beside) << "allocation " << n;
    EXPECT_TRUE(slot < 0 || slot == next) << "allocation " << n;
    const std::vector<int32_t> of_rows = {next, beside};
    EXPECT_NE(slots.shape(of_rows).id, 0u);
    if (slot >= 0) slots.release(slot);
    slots.release(next);
    slots.release(beside);
    EXPECT_EQ(slots.used(), 0) << "allocation " << n;
  }
  EXPECT_GT(failed, 1);
}

}  // namespace
}  // namespace bumblebee::exec
