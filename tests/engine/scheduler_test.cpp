// The scheduler without a model: random schedules in which every row is checked against what its sequence must be.
#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "base/error.h"
#include "tests/engine/scripted_executor.h"

namespace bumblebee::engine {
namespace {

/// As a request opens it: a new object, the same adapters by their number.
std::shared_ptr<const lora::AdapterSet> set_of(uint8_t number) {
  auto set = std::make_shared<lora::AdapterSet>();
  set->id.bytes[0] = number;
  return set;
}

struct Simulated {
  std::vector<int32_t> tokens;    // prompt and output
  std::vector<int32_t> proposed;  // branches in flight
  size_t prompt = 0;
  int left = 0, alternatives = 1;
  int32_t slot = -1;
  int identity = 0;  // of its adapters
};

class Simulation {
 public:
  explicit Simulation(unsigned seed)
      : random_(seed),
        limits_{.batch_size = 1 + pick(4),
                .sequence_length = 10 + pick(40),
                .prefill_chunk = 1 + pick(12),
                .pages = 12 + pick(40),
                .page_size = 1 + pick(5)},
        scheduler_(limits_),
        store_(limits_.pages, limits_.page_size) {}

  void run() {
    for (int round = 0; round < 400 || !requests_.empty(); ++round) {
      if (round < 400 && pick(3) == 0) submit();
      if (!requests_.empty() && pick(25) == 0) cancel();
      for (const RequestId id : scheduler_.activate()) {
        scheduler_.at(id).slot = requests_.at(id).slot;
      }
      const auto step = scheduler_.next();
      if (step) consume(*step);
      const PageStats stats = scheduler_.pages();
      ASSERT_EQ(stats.used + stats.free, limits_.pages);
      ASSERT_LE(scheduler_.active(), limits_.batch_size);
      ASSERT_TRUE(step || requests_.empty()) << "nothing runs although requests wait";
      if (::testing::Test::HasFatalFailure()) return;
    }
    EXPECT_EQ(scheduler_.pages().free, limits_.pages);
    EXPECT_TRUE(scheduler_.idle());
    EXPECT_GT(finished, 30);
  }
  int finished = 0;

 private:
  int pick(int below) { return int(random_() % unsigned(below)); }

  void submit() {
    Sequence request;
    request.id = next_id_++;
    request.max_new = 1 + pick(8);
    request.alternatives = pick(3) == 0 ? 1 + pick(4) : 1;
    const int room = std::max(1, limits_.sequence_length - request.length());
    for (int i = 0, n = 1 + pick(room); i < n; ++i) request.tokens.push_back(token_++);
    Simulated simulated{.tokens = request.tokens,
                        .proposed = {},
                        .prompt = request.tokens.size(),
                        .left = request.max_new,
                        .alternatives = request.alternatives,
                        .slot = pick(3) - 1,
                        .identity = 0};
    if (simulated.slot >= 0) {  // a slot is used again for other adapters
      simulated.identity = 1 + pick(3);
      request.adapters = adapters_[size_t(simulated.identity) - 1];
    }
    const RequestId id = request.id;
    try {
      scheduler_.submit(std::move(request));
      requests_[id] = simulated;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::bad_request);
    }
  }

  void cancel() { finish(std::next(requests_.begin(), pick(int(requests_.size())))->first); }

  void finish(RequestId id) {
    scheduler_.finish(id);
    requests_.erase(id);
  }

  void consume(const PlannedStep& planned) {
    const exec::Step& step = planned.step;
    check(step.batch, limits_.page_size, limits_.pages);
    ASSERT_EQ(planned.segments.size(), step.batch.segments.size());
    store_.play(step);
    int prefill_rows = 0;
    std::map<RequestId, std::vector<int>> wanted;
    std::map<int32_t, int> page_identity;
    for (size_t i = 0; i < planned.segments.size(); ++i) {
      const StepSegment& owner = planned.segments[i];
      const Segment& segment = step.batch.segments[i];
      const Simulated& request = requests_.at(owner.id);
      for (int row = 0; row < segment.rows; ++row)
        ASSERT_EQ(step.batch.slot[size_t(segment.first + row)], request.slot);
      // Keys and values depend on the adapters: no page may serve two identities.
      for (int p = 0; p * limits_.page_size < segment.past + segment.rows; ++p) {
        const int32_t page = step.batch.pages[size_t(segment.first_page + p)];
        ASSERT_EQ(page_identity.try_emplace(page, request.identity).first->second, request.identity) << "page " << page;
      }
      if (i > 0) {
        ASSERT_LE(step.batch.slot[size_t(step.batch.segments[i - 1].first)], request.slot);
      }
      std::vector<int32_t> want = request.tokens;
      if (request.proposed.empty()) {
        if (segment.past < int(request.prompt)) prefill_rows += segment.rows;
        want.resize(size_t(segment.past + segment.rows));
        ASSERT_EQ(owner.wants_logits, want.size() == request.tokens.size());
      } else {
        want.push_back(request.proposed[size_t(owner.branch)]);
        ASSERT_TRUE(owner.wants_logits);
      }
      ASSERT_EQ(store_.read(step.batch, segment), want) << "request " << owner.id;
      if (owner.wants_logits) wanted[owner.id].push_back(owner.branch);
    }
    ASSERT_LE(prefill_rows, limits_.prefill_chunk);
    for (const auto& [id, branches] : wanted) answer(id, branches);
  }

  void answer(RequestId id, const std::vector<int>& branches) {
    Simulated& request = requests_.at(id);
    if (!request.proposed.empty()) {
      ASSERT_EQ(branches.size(), request.proposed.size());
      const int chosen = pick(int(branches.size()));
      scheduler_.keep_branch(id, chosen);
      request.tokens.push_back(request.proposed[size_t(chosen)]);
      request.proposed.clear();
      --request.left;
    }
    if (request.tokens.size() > request.prompt + 1 && pick(12) == 0) {
      // A draft that was not accepted: some tokens are forgotten, and computed anew from where that leads.
      const size_t length = request.prompt + size_t(pick(int(request.tokens.size() - request.prompt)));
      scheduler_.truncate(id, int(length));
      request.left += int(request.tokens.size() - length);
      request.tokens.resize(length);
      return;
    }
    if (request.left > 0 && (request.alternatives == 1 || pick(4) == 0)) {
      request.tokens.push_back(token_++);
      scheduler_.append(id, request.tokens.back());
      if (--request.left > 0) return;
    }
    if (request.left == 0 || pick(20) == 0) {
      finish(id);
      ++finished;
      return;
    }
    for (int i = 0, n = 1 + pick(request.alternatives); i < n; ++i) request.proposed.push_back(token_++);
    scheduler_.propose(id, request.proposed);
  }

  std::mt19937 random_;
  SchedulerLimits limits_;
  Scheduler scheduler_;
  PlayedStore store_;
  std::map<RequestId, Simulated> requests_;
  RequestId next_id_ = 1;
  int32_t token_ = 0;
  std::vector<std::shared_ptr<const lora::AdapterSet>> adapters_ = {set_of(1), set_of(2), set_of(3)};
};

TEST(Scheduler, RandomSchedulesKeepSequencesApart) {
  for (unsigned seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(seed);
    Simulation simulation(seed);
    simulation.run();
    if (HasFatalFailure()) return;
  }
}

Sequence request(RequestId id, int prompt, int max_new) {
  Sequence sequence;
  sequence.id = id;
  sequence.tokens.assign(size_t(prompt), 1);
  sequence.max_new = max_new;
  return sequence;
}

std::optional<PlannedStep> next(Scheduler& scheduler) {
  scheduler.activate();
  return scheduler.next();
}

TEST(Scheduler, IsFairAndMixesPrefillWithDecode) {
  Scheduler scheduler({.batch_size = 2, .sequence_length = 32, .prefill_chunk = 4, .pages = 100, .page_size = 4});
  scheduler.submit(request(1, 6, 4));
  scheduler.submit(request(2, 5, 4));
  scheduler.submit(request(3, 1, 1));
  auto step = next(scheduler);
  ASSERT_EQ(step->segments.size(), 1u);  // four tokens of the first
  EXPECT_TRUE(step->step.batch.logit_rows.empty());
  step = next(scheduler);
  ASSERT_EQ(step->segments.size(), 2u);  // its other two, and two of the second
  EXPECT_EQ(step->step.batch.logit_rows, std::vector<int32_t>{1});
  scheduler.append(1, 7);
  step = next(scheduler);
  ASSERT_EQ(step->step.batch.segments.size(), 2u);  // one generated token beside three of the prompt
  EXPECT_EQ(step->step.batch.segments[0].rows, 1);
  EXPECT_EQ(step->step.batch.segments[1].rows, 3);
  EXPECT_EQ(scheduler.waiting(), 1);  // no place in the batch
  scheduler.finish(1);
  scheduler.append(2, 8);
  step = next(scheduler);
  EXPECT_EQ(step->segments.back().id, 3u);
}

TEST(Scheduler, WaitsForPagesInOrder) {
  Scheduler scheduler({.batch_size = 8, .sequence_length = 64, .prefill_chunk = 64, .pages = 10, .page_size = 4});
  scheduler.submit(request(1, 20, 4));  // 6 pages
  scheduler.submit(request(2, 20, 4));  // 6: waits
  scheduler.submit(request(3, 1, 1));   // would fit, but is behind the second
  auto step = next(scheduler);
  ASSERT_EQ(step->segments.size(), 1u);
  EXPECT_EQ(scheduler.waiting(), 2);
  scheduler.finish(1);
  step = next(scheduler);
  ASSERT_EQ(step->segments.size(), 2u);
  EXPECT_EQ(step->segments[0].id, 2u);
}

TEST(Scheduler, RefusesWhatCanNeverFit) {
  Scheduler scheduler({.batch_size = 1, .sequence_length = 16, .prefill_chunk = 4, .pages = 3, .page_size = 4});
  EXPECT_THROW(scheduler.submit(request(1, 0, 1)), Error);
  EXPECT_THROW(scheduler.submit(request(1, 16, 1)), Error);
  EXPECT_THROW(scheduler.submit(request(1, 10, 5)), Error);
  Sequence branching = request(1, 8, 2);
  branching.alternatives = 2;
  EXPECT_THROW(scheduler.submit(branching), Error);
  EXPECT_NO_THROW(scheduler.submit(request(2, 8, 4)));
  scheduler.finish(99);
  EXPECT_EQ(scheduler.waiting(), 1);
  scheduler.finish(2);
  EXPECT_TRUE(scheduler.idle());
}

}  // namespace
}  // namespace bumblebee::engine
