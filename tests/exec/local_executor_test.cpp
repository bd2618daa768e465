// A step through an executor: what comes back, on every device and on the one that replays; tokens that nobody has seen
// yet; slots and memory.
#include "exec/local_executor.h"

#include <gtest/gtest.h>

#include <numeric>
#include <thread>

#include "base/error.h"
#include "tests/exec/tiny_device.h"

namespace bumblebee::exec {
namespace {

class OnExecutor : public testing::TestWithParam<std::string> {
 protected:
  OnExecutor() : device_(tiny_device(GetParam())) {}

  std::unique_ptr<LocalExecutor> make(int sequences = 1, int length = 200) {
    return std::make_unique<LocalExecutor>(device_, CacheLimits{.sequences = sequences, .sequence_length = length});
  }
  static std::vector<int32_t> pages(int first, int count) {
    std::vector<int32_t> list(static_cast<size_t>(count));
    std::iota(list.begin(), list.end(), first);
    return list;
  }
  static Step step_of(const std::vector<int32_t>& tokens, int past, int first_page = 0) {
    Step step;
    step.batch.append(tokens, past, pages(first_page, 4), Batch::Want::last);
    step.batch.sample.assign(1, {.mode = SampleRow::Mode::greedy, .logprob = true, .top_logprobs = 3});
    return step;
  }

  std::shared_ptr<DeviceModel> device_;
};

INSTANTIATE_TEST_SUITE_P(Devices, OnExecutor, testing::ValuesIn(testing_support::with_cards({"ref", "cpu", "replay"})),
                         [](const auto& p) { return p.param; });

const std::vector<int32_t> kPrompt = {3, 14, 15, 9, 26};

TEST_P(OnExecutor, GivesWhatTheStepAsksFor) {
  const auto executor = make();
  const int vocab = device_->model().dims().vocab, d = device_->model().dims().d_model;
  Step step = step_of(kPrompt, 0);
  const StepResult plain = executor->wait(executor->launch(step));
  ASSERT_EQ(plain.ids.size(), 1u);
  EXPECT_TRUE(plain.logits.empty());
  EXPECT_TRUE(plain.hidden.empty());
  EXPECT_EQ(plain.logprobs.size(), 4u);
  EXPECT_EQ(plain.top_ids.size(), 3u);
  EXPECT_EQ(plain.top_ids[0], plain.ids[0]);
  const int32_t id = plain.ids[0];

  step.wants = {.logits = true, .hidden = true};
  const StepResult& all = executor->wait(executor->launch(step));
  ASSERT_EQ(all.logits.size(), size_t(vocab));
  EXPECT_EQ(all.hidden.size(), kPrompt.size() * size_t(d));
  EXPECT_EQ(std::max_element(all.logits.begin(), all.logits.end()) - all.logits.begin(), id);
  EXPECT_EQ(all.ids[0], id) << "the same step again";
}

/// Two steps in flight: the second continues with the token that the first chose, before anybody has read it.
TEST_P(OnExecutor, ARowMayContinueWithATokenThatNobodyHasSeen) {
  const auto executor = make();
  std::vector<int32_t> one_by_one;
  {
    int32_t token = executor->wait(executor->launch(step_of(kPrompt, 0))).ids[0];
    for (int i = 0; i < 6; ++i) {
      one_by_one.push_back(token);
      token = executor->wait(executor->launch(step_of({token}, int(kPrompt.size()) + i))).ids[0];
    }
  }
  std::vector<int32_t> ahead;
  Ticket ticket = executor->launch(step_of(kPrompt, 0));
  for (int i = 0; i < 6; ++i) {
    const Ticket next = executor->launch(step_of({Batch::chosen(0)}, int(kPrompt.size()) + i));
    ahead.push_back(executor->wait(ticket).ids[0]);
    ticket = next;
  }
  EXPECT_EQ(ahead, one_by_one);
}

TEST_P(OnExecutor, ChosenTokensAreTheExecutorsOwn) {
  const auto first = make(), second = make();
  const std::vector<int32_t> other = {40, 41};
  const auto second_token = [&](LocalExecutor& executor, const std::vector<int32_t>& prompt) {
    executor.launch(step_of(prompt, 0));
    return executor.wait(executor.launch(step_of({Batch::chosen(0)}, int(prompt.size())))).ids[0];
  };
  const int32_t want = second_token(*first, kPrompt), want_other = second_token(*second, other);
  first->launch(step_of(kPrompt, 0));
  second->launch(step_of(other, 0));  // in between, on the same stream
  EXPECT_EQ(first->wait(first->launch(step_of({Batch::chosen(0)}, int(kPrompt.size())))).ids[0], want);
  EXPECT_EQ(second->wait(second->launch(step_of({Batch::chosen(0)}, int(other.size())))).ids[0], want_other);
}

/// Rows of all slots in one step get what each gets alone; slots are data, so steps of one shape are one program.
TEST_P(OnExecutor, SlotsAreDataOfAStep) {
  const auto executor = make(4);
  const auto a = adapter_set(*device_, {}, 1), b = adapter_set(*device_, {.rank = 7}, 2);
  const auto logits_of = [&](const std::vector<std::shared_ptr<const lora::AdapterSet>>& sets) {
    std::vector<SlotLease> leases;
    Step step;
    step.wants.logits = true;
    for (size_t i = 0; i < sets.size(); ++i) {
      leases.push_back(executor->slot(sets[i]));
      step.batch.append(kPrompt, 0, pages(int(i) * 4, 4), Batch::Want::last, leases.back().slot());
    }
    const std::span<const float> logits = executor->wait(executor->launch(step)).logits;
    return std::vector<float>(logits.begin(), logits.end());
  };
  const std::vector<float> base = logits_of({nullptr}), with_a = logits_of({a}), with_b = logits_of({b});
  EXPECT_NE(with_a, base);
  EXPECT_NE(with_a, with_b);
  const auto joined = [](std::vector<float> x, const std::vector<float>& y) {
    x.insert(x.end(), y.begin(), y.end());
    return x;
  };
  EXPECT_EQ(logits_of({a, b}), joined(with_a, with_b));
  EXPECT_EQ(logits_of({b, a}), joined(with_b, with_a));
  EXPECT_EQ(logits_of({nullptr, b}), joined(base, with_b));
  EXPECT_EQ(device_->slots_in_use(), 0);
}

TEST_P(OnExecutor, ALeaseThatEndsDuringAStepIsTakenBackAfterIt) {
  const auto executor = make();
  auto lease = std::make_unique<SlotLease>(executor->slot(adapter_set(*device_, {}, 1)));
  EXPECT_EQ(device_->slots_in_use(), 1);
  Batch none;
  executor->eagerly(none, [&](Stream&, KvStore*) { std::thread([&] { lease.reset(); }).join(); });
  EXPECT_EQ(device_->slots_in_use(), 0);
}

TEST_P(OnExecutor, RefusesACacheThatHoldsNotOneSequence) {
  const uint64_t one = sequence_bytes(device_->model().dims(), DType::f32, 200);
  EXPECT_EQ(LocalExecutor(device_, {.sequences = 3, .sequence_length = 200, .bytes = 2 * one}).pages(), 8);
  EXPECT_EQ(LocalExecutor(device_, {.sequences = 3, .sequence_length = 200, .bytes = 9 * one}).pages(), 12);
  EXPECT_EQ(LocalExecutor(device_, {.sequences = 3, .sequence_length = 200, .bytes = 9 * one, .fill = true}).pages(),
            36);
  try {
    LocalExecutor(device_, {.sequences = 1, .sequence_length = 200, .bytes = one - 1});
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::out_of_memory);
    const std::string what = error.what();
    EXPECT_NE(what.find(std::to_string(one)), std::string::npos) << what;
    EXPECT_NE(what.find(std::to_string(one - 1)), std::string::npos) << what;
  }
}

TEST(Replay, StepsOfOneKeyAreRecordedOnce) {
  const auto device = tiny_device("replay");
  LocalExecutor executor(device, {.sequences = 1, .sequence_length = 200});
  const auto step = [&](int past) {
    Step one;
    one.batch.append(std::vector<int32_t>{5}, past, std::vector<int32_t>{0, 1, 2, 3}, Batch::Want::last);
    one.batch.sample.assign(1, {.mode = SampleRow::Mode::greedy});
    executor.wait(executor.launch(one));
  };
  const auto before = testing_support::replay_counts();
  for (int i = 0; i < 10; ++i) step(i);
  const auto after = testing_support::replay_counts();
  EXPECT_EQ(after.recorded - before.recorded, 1);
  EXPECT_EQ(after.played - before.played, 10);
}

}  // namespace
}  // namespace bumblebee::exec
