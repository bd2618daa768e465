// Memory that runs out at any moment of a request: the request is told, nothing is lost or kept, and the next one gets
// its answer. The n-th allocation fails, for every n until a request needs no more of them.
#include <gtest/gtest.h>

#include <optional>

#include "bumblebee/adapter.h"
#include "bumblebee/benchmark.h"
#include "bumblebee/error.h"
#include "bumblebee/generation.h"
#include "tests/support/failing_new.h"

namespace bumblebee {
namespace {

using testing_support::AllocationFailure;
using testing_support::live_allocations;

const Repository kTiny = local(BB_TEST_DATA "/apps/tiny");

/// Large enough to change what the tiny model says: an adapter that got lost shows.
constexpr float kLoud = 60;

class AllocationFailures : public ::testing::Test {
 protected:
  AllocationFailures() {
    ModelOptions options;
    options.threads = 1;
    model_.emplace(load_model(kTiny, options));
    tokenizer_.emplace(load_tokenizer(kTiny));
    for (uint64_t seed = 1; seed <= 2; ++seed) adapters_.push_back(random_adapter(*model_, 4, seed));
  }

  text::Generation serving() const {
    GenerationConfig config;
    config.max_new_tokens = 3;
    config.logprobs = true;
    text::GenerationOptions options;
    options.limits = {.batch_size = 2, .sequence_length = 100};
    options.prefill_chunk = 4;
    return text::generation(*model_, *tokenizer_, config, options);
  }

  static text::Input input(std::vector<WeightedAdapter> adapters = {}) {
    text::Input input;
    input.tokens = {72, 101, 108, 108, 111};
    input.adapters = std::move(adapters);
    return input;
  }

  enum class End : uint8_t { answered, refused };

  /// Runs `request` while its n-th allocation fails; whether that many were made is in `happened`.
  static End run_failing(const text::Generation& serving, const text::Input& request, int64_t n, bool& happened,
                         text::Result& result) {
    std::optional<ErrorCode> code;
    End end = End::answered;
    {
      const AllocationFailure failure(n);
      try {
        result = serving.run(request);
      } catch (const Error& error) {
        code = error.code();
        end = End::refused;
      } catch (const std::bad_alloc&) {
        end = End::refused;
      }
      happened = failure.happened();
    }
    EXPECT_EQ(code.value_or(ErrorCode::out_of_memory), ErrorCode::out_of_memory) << "allocation " << n;
    EXPECT_TRUE(happened || end == End::answered) << "allocation " << n;
    return end;
  }

  /// Every allocation of `request` fails once. `before` makes each round begin alike.
  template <class Before>
  void expect_survival(const text::Input& request, Before before) {
    before();
    const text::Result want = serving().run(request);  // also warms what is kept for good
    before();
    serving().run(request);
    before();
    const int64_t live = live_allocations();
    int64_t refused = 0, n = 1;
    for (bool happened = true; happened; ++n) {
      {
        const text::Generation serving = this->serving();
        text::Result got;
        if (run_failing(serving, request, n, happened, got) == End::refused) {
          ++refused;
        } else {
          EXPECT_EQ(got.tokens, want.tokens) << "allocation " << n;
        }
        EXPECT_EQ(serving.run(request).tokens, want.tokens) << "after allocation " << n;
      }
      before();
      ASSERT_LE(live_allocations(), live) << "kept after allocation " << n;
    }
    EXPECT_GT(refused, 20) << "of " << n;
  }

  std::optional<Model> model_;
  std::optional<Tokenizer> tokenizer_;
  std::vector<Adapter> adapters_;
};

TEST_F(AllocationFailures, ARequestIsToldAndTheNextOneIsAnswered) {
  expect_survival(input(), [] {});
}

TEST_F(AllocationFailures, AdaptersArePackedOrRefused) {
  expect_survival(input({{adapters_[0], kLoud}, {adapters_[1], kLoud / 2}}), [this] {
    for (const Adapter& adapter : adapters_) model_->unload_adapter(adapter);
    EXPECT_EQ(model_->adapter_memory().bytes, 0u);
  });
}

TEST_F(AllocationFailures, AStepThatFailsEndsItsRequestOnly) {
  text::Input longer = input();
  GenerationConfig config;
  config.max_new_tokens = 40;
  longer.config = config;
  const text::Result want = serving().run(longer);
  for (int64_t n = 1; n < 200; n += 7) {
    const text::Generation serving = this->serving();
    bool told = false;
    // The listener runs on the engine's thread, in the middle of a step: what fails next is the engine's own or the
    // request's, and either way this request ends.
    std::optional<AllocationFailure> failure;
    text::Result got;
    try {
      got = serving.stream(longer, [&](std::string_view) {
        if (!failure) failure.emplace(n);
        return true;
      });
    } catch (const Error& error) {
      told = true;
      EXPECT_EQ(error.code(), ErrorCode::out_of_memory) << error.what();
    } catch (const std::bad_alloc&) {
      told = true;
    }
    failure.reset();
    EXPECT_TRUE(told || got.tokens == want.tokens) << "allocation " << n;
    EXPECT_EQ(serving.run(longer).tokens, want.tokens) << "after allocation " << n;
  }
}

}  // namespace
}  // namespace bumblebee
