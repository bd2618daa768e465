// Which slot a set gets, what the device is told, and what a pass may know of a batch's adapters.
#include "exec/slots.h"

#include <gtest/gtest.h>

#include <map>

#include "tests/exec/tiny_device.h"

namespace bumblebee::exec {
namespace {

class SlotsTest : public testing::Test {
 protected:
  SlotsTest() : device_(tiny_device("ref")), slots_(device_->backend(), device_->model().target_modules()) {}

  int site(const std::string& name) const {
    const auto& modules = device_->model().target_modules();
    for (size_t i = 0; i < modules.size(); ++i) {
      if (modules[i].name == name) return int(i);
    }
    return -1;
  }
  std::shared_ptr<const lora::AdapterSet> set(const models::AdapterOptions& options, uint64_t seed) {
    return adapter_set(*device_, options, seed);
  }
  const LoraShape& shape(std::vector<int32_t> slots) { return slots_.shape(slots); }

  std::shared_ptr<DeviceModel> device_;
  Slots slots_;
};

TEST_F(SlotsTest, EqualSetsShareASlotAndFreeOnesAreUsedAgain) {
  const auto a = set({}, 1), b = set({}, 2);
  EXPECT_EQ(slots_.acquire(a), 0);
  EXPECT_EQ(slots_.acquire(b), 1);
  EXPECT_EQ(slots_.acquire(a), 0);
  EXPECT_EQ(slots_.used(), 2);
  slots_.release(0);
  EXPECT_EQ(slots_.used(), 2) << "somebody else still has it";
  slots_.release(0);
  EXPECT_EQ(slots_.used(), 1);
  EXPECT_EQ(slots_.acquire(set({.modules = {"q_proj"}}, 3)), 0);
  slots_.release(0);
  slots_.release(1);
  EXPECT_EQ(slots_.used(), 0);
}

TEST_F(SlotsTest, AShapeSaysWhichModulesAreTouchedAndHow) {
  const int q = site("model.layers.0.self_attn.q_proj"), v = site("model.layers.0.self_attn.v_proj"),
            norm = site("model.norm");
  const int32_t low = slots_.acquire(set({.modules = {"q_proj"}}, 1)), dora = slots_.acquire(set({.dora = true}, 2)),
                full = slots_.acquire(set({.full = true, .norms = true}, 3));
  EXPECT_EQ(shape({-1, -1}).id, 0u);
  EXPECT_EQ(shape({}).id, 0u);

  const LoraShape& only_low = shape({low, -1, low});
  EXPECT_NE(only_low.id, 0u);
  EXPECT_TRUE(only_low.low_rank_only);
  EXPECT_TRUE(only_low.has(q, LoraShape::touched));
  EXPECT_FALSE(only_low.has(q, LoraShape::before_bias));
  EXPECT_FALSE(only_low.has(v, LoraShape::touched));
  EXPECT_FALSE(only_low.has(-1, LoraShape::touched));

  const LoraShape& with_dora = shape({low, dora});
  EXPECT_FALSE(with_dora.low_rank_only);
  EXPECT_TRUE(with_dora.has(v, LoraShape::touched));
  EXPECT_TRUE(with_dora.has(q, LoraShape::before_bias));

  EXPECT_TRUE(shape({full, full}).has(q, LoraShape::replaced));
  EXPECT_FALSE(shape({full, -1}).has(q, LoraShape::replaced)) << "the other row needs the base's product";
  EXPECT_FALSE(shape({full, low}).has(q, LoraShape::replaced));
  EXPECT_TRUE(shape({full}).has(norm, LoraShape::touched));
}

TEST_F(SlotsTest, EqualShapesHaveOneIdWhoeverTheAdaptersAre) {
  const int32_t a = slots_.acquire(set({}, 1)), b = slots_.acquire(set({.rank = 2}, 2));
  const uint32_t id = shape({a}).id;
  EXPECT_EQ(shape({b}).id, id);
  EXPECT_EQ(shape({b, a, -1}).id, id);
  slots_.release(a);
  const int32_t c = slots_.acquire(set({.dora = true}, 3));
  ASSERT_EQ(c, a) << "the slot is used again";
  EXPECT_NE(shape({c}).id, id) << "what a slot was is not remembered";
}

}  // namespace
}  // namespace bumblebee::exec
