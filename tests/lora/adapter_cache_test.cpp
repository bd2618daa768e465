// The cache: which compositions mean something, what is shared, what leaves when memory is short, and that nothing
// changes under those who use it.
#include "lora/adapter_cache.h"
#include "lora/identity.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "base/log.h"
#include "models/registry.h"
#include "tests/models/adapting.h"
#include "tests/support/backends.h"

namespace bumblebee::lora {
namespace {

using models::AdapterOptions;
using models::random_adapter;
using testing_support::MemoryWeights;
using testing_support::TinyModel;

constexpr uint64_t kPlenty = uint64_t{1} << 32;

class AdapterCacheTest : public testing::Test {
 protected:
  explicit AdapterCacheTest(const TinyModel& tiny = {}) : tiny_(tiny), backend_(testing_support::create_reference()) {
    MemoryWeights weights = tiny_.weights();
    nn::Loader load(weights, backend_.get());
    model_ = models::make_model(models::read_spec(tiny_.config(), "tiny"), load);
  }

  AdapterCache cache(uint64_t limit = kPlenty) { return AdapterCache(*backend_, *model_, "tiny", limit); }
  std::shared_ptr<const Adapter> adapter(const AdapterOptions& options, uint64_t seed) const {
    return identify(random_adapter(tiny_, options, seed));
  }
  int q_site() const {
    for (size_t i = 0; i < model_->target_modules().size(); ++i) {
      if (model_->target_modules()[i].name == "model.layers.0.self_attn.q_proj") return int(i);
    }
    return -1;
  }
  std::string refusal(AdapterCache& cache, const std::vector<AdapterCache::Part>& parts,
                      ErrorCode code = ErrorCode::bad_request) const {
    try {
      cache.open(parts);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      return error.what();
    }
    ADD_FAILURE() << "accepted";
    return "";
  }

  TinyModel tiny_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<nn::Model> model_;
};

using testing::Test;

bool says(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return true;
  ADD_FAILURE() << "expected '" << part << "' in: " << text;
  return false;
}

/// A device without the operation for adapters of experts; what else is asked of it is the reference's.
class WithoutExperts final : public Backend {
 public:
  explicit WithoutExperts(Backend& inner) : inner_(inner) {}
  std::string_view name() const override { return "card"; }
  bool has(Operation operation) const override { return operation != Operation::lora_experts; }
  Tensor make(int rows, int cols) override { return inner_.make(rows, cols); }
  Tensor upload(std::span<const float> v, int rows, int cols) override { return inner_.upload(v, rows, cols); }
  void read(const Tensor& tensor, std::span<float> values) override { inner_.read(tensor, values); }
  void read_bytes(const Tensor& tensor, std::span<std::byte> out) override { inner_.read_bytes(tensor, out); }
  Weight pack(const HostWeight& weight) override { return inner_.pack(weight); }
  Weight stack(std::span<const Weight> experts) override { return inner_.stack(experts); }
  Tensor pack_vector(const HostWeight& vector) override { return inner_.pack_vector(vector); }
  LowRankWeights pack_factors(const HostLowRank& f, LowRankUse use) override { return inner_.pack_factors(f, use); }
  Tensor dora_scale(const Weight& w, const HostLowRank& f, float scale, std::span<const float> magnitude,
                    bool by_column) override {
    return inner_.dora_scale(w, f, scale, magnitude, by_column);
  }
  std::unique_ptr<KvStore> make_kv(const KvShape& shape) override { return inner_.make_kv(shape); }
  void set_slot(int32_t slot, std::span<const LoraEntry* const> by_site) override { inner_.set_slot(slot, by_site); }
  MemoryUse memory() const override { return inner_.memory(); }
  Stream& stream() override { return inner_.stream(); }

 private:
  Backend& inner_;
};

class ExpertsTest : public AdapterCacheTest {
 protected:
  ExpertsTest() : AdapterCacheTest({.family = "qwen3_moe"}) {}
  const AdapterOptions experts_ = {.modules = {"q_proj"}, .experts = {"up_proj"}};
};

TEST_F(ExpertsTest, ADeviceThatLacksThemRefusesTheirAdaptersAlone) {
  WithoutExperts device(*backend_);
  AdapterCache cache(device, *model_, "tiny", kPlenty);
  const auto one = adapter(experts_, 1), other = adapter({.modules = {"q_proj"}}, 2);
  EXPECT_TRUE(
      says(refusal(cache, {{one, 1}}, ErrorCode::device), "operation lora_experts is not available on device 'card'"));
  const AdapterCache::Part part{one, 1};
  EXPECT_THROW(cache.check({&part, 1}), Error);
  EXPECT_EQ(cache.use().bytes, 0u) << "refused before anything was packed";
  const AdapterCache::Part fine{other, 1};
  EXPECT_NE(cache.open({&fine, 1}), nullptr);
}

TEST_F(ExpertsTest, FactorsCountAndComposeByExpert) {
  AdapterCache whole = cache();
  const auto one = adapter(experts_, 1), two = adapter(experts_, 2);
  const std::vector<AdapterCache::Part> parts = {{one, 0.5f}, {two, 2}};
  const auto set = whole.open(parts);
  // ref holds doubles.
  EXPECT_EQ(whole.use().bytes, 2 * (size_bytes(*one) + size_bytes(*two)));
  int stacks = 0;
  for (const auto& [site, entry] : set->entries) {
    if (entry.experts.empty()) continue;
    ++stacks;
    EXPECT_TRUE(entry.terms.empty());
    ASSERT_EQ(entry.experts.size(), size_t(tiny_.experts));
    for (const auto& terms : entry.experts) EXPECT_EQ(terms.size(), 2u);
  }
  EXPECT_EQ(stacks, tiny_.layers);
}

TEST_F(AdapterCacheTest, IdentityIsContentsAndScales) {
  const Adapter one = random_adapter(tiny_, {}, 1);
  const AdapterId id = identify(one)->id;
  EXPECT_EQ(to_string(id).size(), 32u);
  Adapter other = one;
  other.name = "another name";
  EXPECT_EQ(identify(other)->id, id);
  other.modules.begin()->second.low_rank->scale *= 2;
  EXPECT_NE(identify(other)->id, id) << "scale";
  other = one;
  other.modules.begin()->second.low_rank->b.values.back() += 1;
  EXPECT_NE(identify(other)->id, id) << "value";
  other = one;
  other.modules.erase(other.modules.begin());
  EXPECT_NE(identify(other)->id, id) << "module";
}

TEST_F(AdapterCacheTest, ASetIsItsAdaptersAndWeightsInAnyOrder) {
  AdapterCache cache = this->cache();
  const auto a = adapter({}, 1), b = adapter({.rank = 2}, 2);
  const std::vector<AdapterCache::Part> ab = {{a, 1}, {b, 0.5f}}, ba = {{b, 0.5f}, {a, 1}}, a_only = {{a, 1}, {b, 0}},
                                        heavier = {{a, 1}, {b, 0.6f}};
  const auto set = cache.open(ab);
  EXPECT_EQ(cache.open(ba), set);
  EXPECT_NE(cache.open(heavier)->id, set->id);
  EXPECT_NE(cache.open(a_only)->id, set->id);
  EXPECT_EQ(cache.open(a_only)->adapters.size(), 1u);
  EXPECT_EQ(cache.open({}), nullptr);
  EXPECT_EQ(cache.use().adapters, 2);
  const auto& entry = set->entries.at(q_site());
  ASSERT_EQ(entry.terms.size(), 2u);
}

TEST_F(AdapterCacheTest, RefusesWhatHasNoMeaning) {
  AdapterCache cache = this->cache();
  const auto lora = adapter({}, 1), dora = adapter({.dora = true}, 2), other_dora = adapter({.dora = true}, 3),
             full = adapter({.full = true, .norms = true}, 4), other_full = adapter({.full = true}, 5),
             norms = adapter({.norms = true}, 6);
  says(refusal(cache, {{lora, 1}, {lora, 0.5f}}), "got it twice");
  says(refusal(cache, {{lora, NAN}}), "finite number");
  says(refusal(cache, {{dora, 1}, {other_dora, 1}}), "DoRA rescales whole rows");
  says(refusal(cache, {{dora, 1}, {lora, 1}}), "DoRA rescales whole rows");
  says(refusal(cache, {{dora, 1}, {full, 1}}), "DoRA rescales whole rows");
  says(refusal(cache, {{dora, 0.5f}}), "weight: expected 1 or 0, got 0.5");
  says(refusal(cache, {{full, 2}}), "weight: expected 1 or 0, got 2");
  says(refusal(cache, {{norms, 0.5f}}), "replaces its weight");
  says(refusal(cache, {{full, 1}, {other_full, 1}}), "expected one adapter that replaces it");
  const std::vector<AdapterCache::Part> together = {{full, 1}, {lora, 0.5f}};
  EXPECT_NE(cache.open(together), nullptr) << "a delta over somebody's full weights means what it says";
}

TEST_F(AdapterCacheTest, RefusesWhatDoesNotFit) {
  AdapterCache cache = this->cache();
  TinyModel larger = tiny_;
  larger.d_ff += 32;
  says(refusal(cache, {{identify(random_adapter(larger, {}, 1)), 1}}), "does not fit the base");
  EXPECT_EQ(cache.use().bytes, 0u);
  EXPECT_EQ(cache.use().adapters, 0);
}

TEST_F(AdapterCacheTest, RefusesDoraOnARowOfLengthZero) {
  AdapterCache cache = this->cache();
  Adapter dora = random_adapter(tiny_, {.modules = {"q_proj"}, .dora = true}, 1);
  // A weight of zeros in place of the base's, and no delta: there is nothing to rescale.
  ModuleDelta& change = dora.modules.begin()->second;
  change.weight = Matrix{tiny_.heads * tiny_.head_dim, tiny_.d_model,
                         std::vector<float>(size_t(tiny_.heads * tiny_.head_dim * tiny_.d_model), 0.0f)};
  change.low_rank->scale = 0;
  says(refusal(cache, {{identify(dora), 1}}, ErrorCode::bad_file), "DoRA divides by the length of row 0");
  EXPECT_EQ(cache.use().bytes, 0u) << "what was packed before is given back";
}

TEST_F(AdapterCacheTest, ACheckPacksNothingAndKnowsWhatFitsByItself) {
  const std::vector<AdapterCache::Part> first = {{adapter({}, 1), 1}}, second = {{adapter({}, 2), 1}};
  AdapterCache large = this->cache();
  large.open(first);
  const uint64_t one = large.use().bytes;
  AdapterCache cache = this->cache(one), small = this->cache(one / 8);
  const auto held = cache.open(first);
  EXPECT_THROW(cache.open(second), Error);
  EXPECT_NO_THROW(cache.check(second)) << "it may wait until the other is gone";
  EXPECT_NO_THROW(cache.check(first));
  EXPECT_EQ(cache.use().adapters, 1);
  try {
    small.check(second);
    ADD_FAILURE() << "it never fits";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::out_of_memory) << error.what();
  }
}

TEST_F(AdapterCacheTest, MemoryIsBoundedAndTheLongestUnusedLeaves) {
  uint64_t one = 0;
  {
    AdapterCache cache = this->cache();
    cache.open(std::vector<AdapterCache::Part>{{adapter({}, 1), 1}});
    one = cache.use().bytes;
    ASSERT_GT(one, 0u);
  }
  AdapterCache cache = this->cache(3 * one);
  EXPECT_EQ(cache.use().limit, 3 * one);
  const auto open = [&](uint64_t seed) { return cache.open(std::vector<AdapterCache::Part>{{adapter({}, seed), 1}}); };
  std::vector<std::string> events;
  set_log_sink([&](LogLevel, std::string_view line) { events.emplace_back(line.substr(0, line.find(':'))); });
  const auto held = open(1);
  open(2);
  open(3);
  open(2);
  EXPECT_EQ(cache.use().adapters, 3);
  open(4);  // 3 has not been used for longest; 1 is held
  EXPECT_EQ(cache.use().adapters, 3);
  EXPECT_EQ(cache.use().bytes, 3 * one);
  EXPECT_FALSE(cache.unload(adapter({}, 3)->id));
  EXPECT_TRUE(cache.unload(adapter({}, 2)->id));
  set_log_sink({});
  const std::string packed = "adapter packed";
  EXPECT_EQ(events, (std::vector{packed, packed, packed, std::string("adapter left"), packed,
                                 std::string("adapter unloaded")}));
  const auto fourth = open(4), second = open(2);
  const std::string message = refusal(cache, {{adapter({}, 5), 1}}, ErrorCode::out_of_memory);
  says(message, "raise max_adapter_bytes");
  EXPECT_EQ(cache.use().bytes, 3 * one) << "what was packed of it is given back";
}

TEST_F(AdapterCacheTest, UnloadingLeavesThoseWhoUseIt) {
  AdapterCache cache = this->cache();
  const auto known = adapter({}, 1);
  auto set = cache.open(std::vector<AdapterCache::Part>{{known, 1}});
  const uint64_t bytes = cache.use().bytes;
  EXPECT_TRUE(cache.unload(known->id));
  EXPECT_FALSE(cache.unload(known->id));
  EXPECT_EQ(cache.use().adapters, 0);
  EXPECT_EQ(cache.use().bytes, bytes);
  EXPECT_TRUE(set->entries.contains(q_site()));
  set = nullptr;
  EXPECT_EQ(cache.use().bytes, 0u);
}

}  // namespace
}  // namespace bumblebee::lora
