// Memory that runs out at any moment while adapters are packed and composed: what was packed is given back or stays
// usable, the cache's own figures are right, and the next call succeeds.
#include <gtest/gtest.h>

#include "base/error.h"
#include "lora/adapter_cache.h"
#include "lora/identity.h"
#include "models/registry.h"
#include "tests/models/adapting.h"
#include "tests/support/backends.h"
#include "tests/support/failing_new.h"

namespace bumblebee::lora {
namespace {

using models::random_adapter;
using testing_support::AllocationFailure;
using testing_support::live_allocations;
using testing_support::MemoryWeights;
using testing_support::TinyModel;

class CacheWithoutMemory : public testing::TestWithParam<const char*> {
 protected:
  CacheWithoutMemory() : backend_(require_device(GetParam(), {}).entry->create({.threads = 1, .instruction_set = {}})) {
    MemoryWeights weights = tiny_.weights();
    nn::Loader load(weights, backend_.get());
    model_ = models::make_model(models::read_spec(tiny_.config(), "tiny"), load);
    parts_ = {{identify(random_adapter(tiny_, {.modules = {"q_proj", "down_proj"}}, 1)), 1},
              {identify(random_adapter(tiny_, {.modules = {"v_proj"}, .rank = 3, .dora = true}, 2)), 1}};
  }

  void forget(AdapterCache& cache) const {
    for (const AdapterCache::Part& part : parts_) cache.unload(part.adapter->id);
  }

  TinyModel tiny_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<nn::Model> model_;
  std::vector<AdapterCache::Part> parts_;
};

INSTANTIATE_TEST_SUITE_P(Backends, CacheWithoutMemory, testing::Values("ref", "cpu"),
                         [](const auto& p) { return std::string(p.param); });

TEST_P(CacheWithoutMemory, OpensOrSaysSoAndKeepsNothing) {
  AdapterCache cache(*backend_, *model_, "tiny", uint64_t{1} << 32);
  const AdapterId want = cache.open(parts_)->id;
  const uint64_t bytes = cache.use().bytes;
  ASSERT_GT(bytes, 0u);
  forget(cache);
  cache.open(std::vector<AdapterCache::Part>{});
  ASSERT_EQ(cache.use().bytes, 0u);

  int64_t live = -1, refused = 0, n = 1;
  for (bool happened = true; happened; ++n) {
    std::shared_ptr<const AdapterSet> set;
    bool told = false, wrong = false;
    {
      const AllocationFailure failure(n);
      try {
        set = cache.open(parts_);
      } catch (const Error& error) {
        told = true;
        wrong = error.code() != ErrorCode::out_of_memory;
      } catch (const std::bad_alloc&) {
        told = true;
      }
      happened = failure.happened();
    }
    refused += told;
    EXPECT_FALSE(wrong) << "allocation " << n << ": another error than that memory is short";
    EXPECT_TRUE(happened || !told) << "allocation " << n;
    EXPECT_LE(cache.use().bytes, bytes) << "allocation " << n;
    auto next = cache.open(parts_);
    ASSERT_NE(next, nullptr);
    EXPECT_EQ(next->id, want);
    EXPECT_TRUE(set == nullptr || set == next) << "allocation " << n;
    EXPECT_EQ(next->adapters.size(), 2u);
    EXPECT_EQ(cache.use().bytes, bytes) << "allocation " << n;
    set = nullptr;
    forget(cache);
    EXPECT_EQ(cache.use().bytes, bytes) << "the set still holds it";
    next = nullptr;
    EXPECT_EQ(cache.use().bytes, 0u) << "allocation " << n;
    EXPECT_EQ(cache.use().adapters, 0);
    if (n == 1) live = live_allocations();
    ASSERT_LE(live_allocations(), live) << "kept after allocation " << n;
  }
  EXPECT_GT(refused, 20) << "of " << n;
}

}  // namespace
}  // namespace bumblebee::lora
