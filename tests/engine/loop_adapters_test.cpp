// The loop without a model: sets of adapters that are opened, do not fit, or give way to others.
#include <algorithm>
#include <future>
#include <map>
#include <stdexcept>
#include <thread>
#include <utility>

#include "lora/identity.h"
#include "tests/engine/loop_test.h"

namespace bumblebee::engine {
namespace {

/// Opening takes as long as the test says; nothing is packed beforehand.
class OpeningExecutor final : public HookedExecutor {
 public:
  OpeningExecutor(std::shared_future<void> gate, Hook hook) : HookedExecutor(100, std::move(hook)), gate_(gate) {}
  std::shared_ptr<const lora::AdapterSet> open(std::span<const lora::AdapterCache::Part> parts) override {
    gate_.wait();
    if (parts.front().weight == 3) throw Error(ErrorCode::bad_request, "adapters", "made for another base");
    if (parts.front().weight == 4) throw std::bad_alloc();
    if (parts.front().weight == 5) throw std::runtime_error("no thread");
    return ScriptedExecutor::open(parts);
  }
  std::optional<std::shared_ptr<const lora::AdapterSet>> open_now(std::span<const lora::AdapterCache::Part>) override {
    return std::nullopt;
  }

 private:
  const std::shared_future<void> gate_;
};

TEST(Loop, NobodyWaitsForAnAdapterThatIsBeingPacked) {
  std::promise<void> go_on;
  Engine engine(std::make_unique<OpeningExecutor>(go_on.get_future().share(), nullptr), options(2));
  const auto adapter = lora::identify(lora::Adapter{});
  Request adapted = work(5, 3), wrong = work(5, 3), gone = work(5, 3);
  adapted.adapters = {{adapter, 1}};
  wrong.adapters = {{adapter, 3}};
  gone.adapters = {{adapter, 2}};
  const auto opening = submit(engine, adapted), refused = submit(engine, wrong), left = submit(engine, gone);
  const auto base = submit(engine, work(5, 50, 100));
  EXPECT_EQ(base->wait().tokens.size(), 50u);
  EXPECT_FALSE(opening->over());
  engine.cancel(left->id);
  EXPECT_EQ(left->wait().reason, text::FinishReason::cancelled);
  go_on.set_value();
  EXPECT_EQ(opening->wait().tokens, continuation(adapted));
  EXPECT_EQ(code_of(*refused), ErrorCode::bad_request);
}

TEST(Loop, WhatOpeningRunsIntoEndsOneRequest) {
  std::promise<void> open;
  open.set_value();
  Engine engine(std::make_unique<OpeningExecutor>(open.get_future().share(), nullptr), options(2));
  const auto adapter = lora::identify(lora::Adapter{});
  const auto running = submit(engine, work(5, 1900));
  for (int i = 0; i < 5; ++i) {
    Request memory = work(5, 3), other = work(5, 3), good = work(5, 3);
    memory.adapters = {{adapter, 4}};
    other.adapters = {{adapter, 5}};
    good.adapters = {{adapter, 1}};
    const auto told = submit(engine, memory), too = submit(engine, other), answered = submit(engine, good);
    EXPECT_EQ(code_of(*told), ErrorCode::out_of_memory);
    EXPECT_THROW(too->wait(), std::runtime_error);
    EXPECT_EQ(answered->wait().tokens, continuation(good));
  }
  EXPECT_EQ(engine.stats().failed, 10u);
  engine.cancel(running->id);
  EXPECT_NO_THROW(running->wait());
}

/// Has memory for sets of weight 1 only while nobody has one of weight 2.
class CrowdedExecutor final : public HookedExecutor {
 public:
  CrowdedExecutor(Hook hook, std::function<void()> opening)
      : HookedExecutor(100, std::move(hook)), opening_(std::move(opening)) {}
  std::shared_ptr<const lora::AdapterSet> open(std::span<const lora::AdapterCache::Part> parts) override {
    const bool large = parts.front().weight == 1;
    if (!large) opening_();
    if (large && !small_.expired()) throw Error(ErrorCode::out_of_memory, "adapters", "no room beside the other");
    const auto set = ScriptedExecutor::open(parts);
    if (!large) small_ = set;
    return set;
  }
  std::optional<std::shared_ptr<const lora::AdapterSet>> open_now(std::span<const lora::AdapterCache::Part>) override {
    return std::nullopt;
  }

 private:
  const std::function<void()> opening_;
  std::weak_ptr<const lora::AdapterSet> small_;
};

TEST(Loop, ASetThatIsThereGivesWayToThoseWhoComeBeforeIt) {
  std::promise<void> all_there, small_opens, owner_left;
  const auto there = all_there.get_future().share(), opens = small_opens.get_future().share(),
             left = owner_left.get_future().share();
  Engine* engine = nullptr;
  EngineOptions two = options(2);
  two.prefill_chunk = 64;
  Engine made(std::make_unique<CrowdedExecutor>(
                  [&](int step, const exec::Step&) {
                    if (step == 1) there.wait();
                    if (step != 4) return;
                    opens.wait();
                    engine->cancel(1);
                    owner_left.set_value();
                  },
                  [&, first = true]() mutable {
                    if (!std::exchange(first, false)) return;
                    small_opens.set_value();
                    left.wait();
                  }),
              two);
  engine = &made;
  const auto adapter = lora::identify(lora::Adapter{});
  Request large = work(900, 3);
  large.adapters = {{adapter, 1}};
  large.key = "one";
  const auto owner = submit(made, large);
  while (made.stats().running == 0) std::this_thread::yield();
  // As many as are asked about at a time wait for what the owner computes, so that the one behind them is asked too.
  std::vector<Request> works(64, large);
  works.push_back(work(5, 3));
  works.back().adapters = {{adapter, 2}};
  works.back().key = "one";
  std::vector<std::shared_ptr<Answer>> answers;
  for (Request& request : works) request.sink = answers.emplace_back(std::make_shared<Answer>());
  made.submit(works);
  all_there.set_value();
  EXPECT_EQ(owner->wait().reason, text::FinishReason::cancelled);
  for (size_t i = 0; i < answers.size(); ++i) EXPECT_EQ(answers[i]->wait().tokens, continuation(works[i])) << i;
}

/// Has memory for two sets at a time.
class SmallExecutor final : public ScriptedExecutor {
 public:
  SmallExecutor() : ScriptedExecutor(400, kVocab) {}
  std::optional<std::shared_ptr<const lora::AdapterSet>> open_now(
      std::span<const lora::AdapterCache::Part> parts) override {
    auto& known = sets_[parts.front().weight];
    if (auto set = known.lock()) return set;
    const auto in_use =
        std::count_if(sets_.begin(), sets_.end(), [](const auto& set) { return !set.second.expired(); });
    if (in_use >= 2) throw Error(ErrorCode::out_of_memory, "adapters", "no room beside the others");
    const std::shared_ptr<const lora::AdapterSet> set = open(parts);
    known = set;
    return set;
  }

 private:
  std::map<float, std::weak_ptr<const lora::AdapterSet>> sets_;
};

TEST(Loop, AnAdapterThatDoesNotFitBesideOthersIsOvertakenABoundedNumberOfTimes) {
  EngineOptions four = options(4);
  four.batch_timeout_ms = 100'000;
  Engine engine(std::make_unique<SmallExecutor>(), four);
  const auto adapter = lora::identify(lora::Adapter{});
  std::vector<Request> works;
  std::vector<std::shared_ptr<Answer>> answers;
  std::vector<int> begun;  // in this order; told on the engine's thread
  for (int i = 0; i < 120; ++i) {
    works.push_back(work(5, 20 + i % 7, i));
    works.back().adapters = {{adapter, i == 4 ? 3.0f : float(1 + i % 2)}};
    works.back().key = "one";
    answers.push_back(std::make_shared<Answer>([&begun, i](int index) {
      if (index == 1) begun.push_back(i);
      return TokenSink::StopReason::none;
    }));
    works.back().sink = answers.back();
  }
  engine.submit(works);
  for (const auto& answer : answers) answer->wait();
  const auto before = std::find(begun.begin(), begun.end(), 4) - begun.begin();
  EXPECT_LE(before, 4 + FairQueue::kMostOvertakes + 3) << "who ran before it, who overtook it, who came with it";
  for (size_t i = 0; i < answers.size(); ++i) EXPECT_EQ(answers[i]->wait().tokens, continuation(works[i])) << i;
}

}  // namespace
}  // namespace bumblebee::engine
