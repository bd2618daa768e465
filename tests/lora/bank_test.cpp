// The bank: which compositions mean something, what is shared, what leaves when memory is short, and that nothing
// changes under those who use it.
#include "lora/bank.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
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

class BankTest : public testing::Test {
 protected:
  explicit BankTest(const TinyModel& tiny = {}) : tiny_(tiny), backend_(testing_support::create_reference()) {
    MemoryWeights weights = tiny_.weights();
    nn::Loader load(weights, backend_.get());
    model_ = models::make_model(models::read_spec(tiny_.config(), "tiny"), load);
  }

  AdapterBank bank(uint64_t limit = kPlenty) { return AdapterBank(*backend_, *model_, "tiny", limit); }
  std::shared_ptr<const KnownAdapter> adapter(const AdapterOptions& options, uint64_t seed) const {
    return identify(random_adapter(tiny_, options, seed));
  }
  int q_site() const {
    for (size_t i = 0; i < model_->sites().size(); ++i) {
      if (model_->sites()[i].name == "model.layers.0.self_attn.q_proj") return int(i);
    }
    return -1;
  }
  std::string refusal(AdapterBank& bank, const std::vector<AdapterBank::Part>& parts,
                      ErrorCode code = ErrorCode::bad_request) const {
    try {
      bank.open(parts);
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

TEST_F(BankTest, IdentityIsContentsAndScales) {
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

TEST_F(BankTest, ASetIsItsAdaptersAndWeightsInAnyOrder) {
  AdapterBank bank = this->bank();
  const auto a = adapter({}, 1), b = adapter({.rank = 2}, 2);
  const std::vector<AdapterBank::Part> ab = {{a, 1}, {b, 0.5f}}, ba = {{b, 0.5f}, {a, 1}}, a_only = {{a, 1}, {b, 0}},
                                       heavier = {{a, 1}, {b, 0.6f}};
  const auto set = bank.open(ab);
  EXPECT_EQ(bank.open(ba), set);
  EXPECT_NE(bank.open(heavier)->id, set->id);
  EXPECT_NE(bank.open(a_only)->id, set->id);
  EXPECT_EQ(bank.open(a_only)->residents.size(), 1u);
  EXPECT_EQ(bank.open({}), nullptr);
  EXPECT_EQ(bank.use().adapters, 2);
  const auto& entry = set->entries.at(q_site());
  ASSERT_EQ(entry.terms.size(), 2u);
}

TEST_F(BankTest, RefusesWhatHasNoMeaning) {
  AdapterBank bank = this->bank();
  const auto lora = adapter({}, 1), dora = adapter({.dora = true}, 2), other_dora = adapter({.dora = true}, 3),
             full = adapter({.full = true, .norms = true}, 4), other_full = adapter({.full = true}, 5),
             norms = adapter({.norms = true}, 6);
  says(refusal(bank, {{lora, 1}, {lora, 0.5f}}), "got it twice");
  says(refusal(bank, {{lora, NAN}}), "finite number");
  says(refusal(bank, {{dora, 1}, {other_dora, 1}}), "DoRA rescales whole rows");
  says(refusal(bank, {{dora, 1}, {lora, 1}}), "DoRA rescales whole rows");
  says(refusal(bank, {{dora, 1}, {full, 1}}), "DoRA rescales whole rows");
  says(refusal(bank, {{dora, 0.5f}}), "weight: expected 1 or 0, got 0.5");
  says(refusal(bank, {{full, 2}}), "weight: expected 1 or 0, got 2");
  says(refusal(bank, {{norms, 0.5f}}), "replaces its weight");
  says(refusal(bank, {{full, 1}, {other_full, 1}}), "expected one adapter that replaces it");
  const std::vector<AdapterBank::Part> together = {{full, 1}, {lora, 0.5f}};
  EXPECT_NE(bank.open(together), nullptr) << "a delta over somebody's full weights means what it says";
}

TEST_F(BankTest, RefusesWhatDoesNotFit) {
  AdapterBank bank = this->bank();
  TinyModel larger = tiny_;
  larger.d_ff += 32;
  says(refusal(bank, {{identify(random_adapter(larger, {}, 1)), 1}}), "does not fit the base");
  EXPECT_EQ(bank.use().bytes, 0u);
  EXPECT_EQ(bank.use().adapters, 0);
}

TEST_F(BankTest, RefusesDoraOnARowOfLengthZero) {
  AdapterBank bank = this->bank();
  Adapter dora = random_adapter(tiny_, {.modules = {"q_proj"}, .dora = true}, 1);
  // A weight of zeros in place of the base's, and no delta: there is nothing to rescale.
  Change& change = dora.modules.begin()->second;
  change.weight = Matrix{tiny_.heads * tiny_.head_dim, tiny_.d_model,
                         std::vector<float>(size_t(tiny_.heads * tiny_.head_dim * tiny_.d_model), 0.0f)};
  change.low_rank->scale = 0;
  says(refusal(bank, {{identify(dora), 1}}, ErrorCode::bad_file), "DoRA divides by the length of row 0");
  EXPECT_EQ(bank.use().bytes, 0u) << "what was packed before is given back";
}

TEST_F(BankTest, MemoryIsBoundedAndTheLongestUnusedLeaves) {
  uint64_t one = 0;
  {
    AdapterBank bank = this->bank();
    bank.open(std::vector<AdapterBank::Part>{{adapter({}, 1), 1}});
    one = bank.use().bytes;
    ASSERT_GT(one, 0u);
  }
  AdapterBank bank = this->bank(3 * one);
  EXPECT_EQ(bank.use().limit, 3 * one);
  const auto open = [&](uint64_t seed) { return bank.open(std::vector<AdapterBank::Part>{{adapter({}, seed), 1}}); };
  const auto held = open(1);
  open(2);
  open(3);
  open(2);
  EXPECT_EQ(bank.use().adapters, 3);
  open(4);  // 3 has not been used for longest; 1 is held
  EXPECT_EQ(bank.use().adapters, 3);
  EXPECT_EQ(bank.use().bytes, 3 * one);
  EXPECT_FALSE(bank.unload(adapter({}, 3)->id));
  EXPECT_TRUE(bank.unload(adapter({}, 2)->id));
  const auto fourth = open(4), second = open(2);
  const std::string message = refusal(bank, {{adapter({}, 5), 1}}, ErrorCode::out_of_memory);
  says(message, "raise max_adapter_bytes");
  EXPECT_EQ(bank.use().bytes, 3 * one) << "what was packed of it is given back";
}

TEST_F(BankTest, UnloadingLeavesThoseWhoUseIt) {
  AdapterBank bank = this->bank();
  const auto known = adapter({}, 1);
  auto set = bank.open(std::vector<AdapterBank::Part>{{known, 1}});
  const int32_t slot = bank.acquire(set);
  const uint64_t bytes = bank.use().bytes;
  EXPECT_TRUE(bank.unload(known->id));
  EXPECT_FALSE(bank.unload(known->id));
  EXPECT_EQ(bank.use().adapters, 0);
  EXPECT_EQ(bank.use().bytes, bytes);
  EXPECT_NE(bank.table(q_site()).at(slot), nullptr);
  set = nullptr;
  bank.release(slot);
  EXPECT_EQ(bank.use().bytes, 0u);
  EXPECT_EQ(bank.table(q_site()).at(slot), nullptr);
}

TEST_F(BankTest, SlotsAreSharedBySetsAndUsedAgain) {
  AdapterBank bank = this->bank();
  const auto a = bank.open(std::vector<AdapterBank::Part>{{adapter({}, 1), 1}});
  const auto b = bank.open(std::vector<AdapterBank::Part>{{adapter({}, 2), 1}});
  EXPECT_EQ(bank.acquire(a), 0);
  EXPECT_EQ(bank.acquire(b), 1);
  EXPECT_EQ(bank.acquire(a), 0);
  EXPECT_EQ(bank.use().slots, 2);
  bank.release(0);
  EXPECT_EQ(bank.table(q_site()).at(0), &a->entries.at(q_site()));
  bank.release(0);
  EXPECT_EQ(bank.table(q_site()).at(0), nullptr);
  EXPECT_EQ(bank.table(q_site()).at(1), &b->entries.at(q_site()));
  EXPECT_EQ(bank.table(q_site()).at(99), nullptr);
  const auto c = bank.open(std::vector<AdapterBank::Part>{{adapter({.modules = {"q_proj"}}, 3), 1}});
  EXPECT_EQ(bank.acquire(c), 0);
  bank.release(0);
  bank.release(1);
  EXPECT_EQ(bank.use().slots, 0);
}

}  // namespace
}  // namespace bumblebee::lora
