// The scheduler without a model: random schedules in which every row is checked against what its sequence must be.
#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <random>
#include <set>
#include <string>

#include "base/error.h"
#include "tests/engine/scripted_executor.h"

namespace bumblebee::engine {
namespace {

PrefixRoot root_at(int number) {
  PrefixRoot root{};
  root[0] = uint8_t(number);
  return root;
}

struct Simulated {
  std::vector<int32_t> tokens;    // prompt and output
  std::vector<int32_t> proposed;  // branches in flight
  size_t prompt = 0;
  int left = 0, alternatives = 1;
  int root = 0;
  int32_t slot = -1;
};

class Simulation {
 public:
  explicit Simulation(unsigned seed)
      : random_(seed),
        limits_{.batch_size = 1 + pick(5),
                .sequence_length = 10 + pick(40),
                .pages = 12 + pick(40),
                .page_size = 1 + pick(5),
                .max_active_per_key = pick(3) == 0 ? 1 + pick(3) : 0,
                .prefix_cache = pick(8) > 0,
                .ahead = 1 + pick(8)},
        scheduler_(limits_),
        store_(limits_.pages, limits_.page_size) {}

  void run() {
    for (int round = 0; round < 300 || !requests_.empty(); ++round) {
      if (round < 300 && pick(2) == 0) submit();
      if (!requests_.empty() && pick(25) == 0) finish(any());
      if (pick(40) == 0) scheduler_.drop_cache();
      activate();
      if (::testing::Test::HasFatalFailure()) return;
      const RequestId oldest = oldest_active();
      const auto step = scheduler_.next(1 + pick(12));
      forget_slots();
      ASSERT_TRUE(oldest == 0 || scheduler_.is_active(oldest)) << "the oldest was given up";
      if (step && pick(15) == 0) {
        fail(*step);
      } else if (step) {
        consume(*step);
      }
      check_pages();
      ASSERT_LE(scheduler_.active(), limits_.batch_size);
      ASSERT_TRUE(step || requests_.empty()) << "nothing runs although requests wait";
      if (::testing::Test::HasFatalFailure()) return;
    }
    scheduler_.drop_cache();
    EXPECT_EQ(scheduler_.pages().free, limits_.pages);
    EXPECT_TRUE(scheduler_.idle());
    EXPECT_GT(finished, 3);
  }
  int finished = 0;
  int64_t cached = 0;
  const SchedulerCounters& counters() const { return scheduler_.counters(); }

 private:
  int pick(int below) { return int(random_() % unsigned(below)); }
  RequestId any() { return std::next(requests_.begin(), pick(int(requests_.size())))->first; }

  RequestId oldest_active() {
    RequestId oldest = 0;
    for (const auto& [id, request] : requests_) {
      if (!scheduler_.is_active(id)) continue;
      if (oldest == 0 || scheduler_.at(id).activation < scheduler_.at(oldest).activation) oldest = id;
    }
    return oldest;
  }

  void submit() {
    Sequence request;
    request.id = next_id_++;
    request.max_new = 1 + pick(pick(4) == 0 ? 30 : 8);
    request.alternatives = pick(6) == 0 ? 1 + pick(4) : 1;
    request.priority = pick(5) == 0 ? pick(3) - 1 : 0;
    request.key = std::string(1, char('a' + pick(3)));
    request.cache = pick(8) > 0;
    const int root = pick(3);
    request.root = root_at(root);
    // Most begin as somebody else's did, up to somewhere.
    if (!said_[size_t(root)].empty() && pick(4) > 0) {
      const std::vector<int32_t>& before = said_[size_t(root)][size_t(pick(int(said_[size_t(root)].size())))];
      request.tokens.assign(before.begin(), before.begin() + pick(int(before.size()) + 1));
    }
    const int room = std::max(1, limits_.sequence_length - request.length() - request.max_new);
    for (int i = 0, n = 1 + pick(room); i < n; ++i) request.tokens.push_back(token_++);
    Simulated simulated{.tokens = request.tokens,
                        .proposed = {},
                        .prompt = request.tokens.size(),
                        .left = request.max_new,
                        .alternatives = request.alternatives,
                        .root = root,
                        .slot = -1};
    const RequestId id = request.id;
    try {
      scheduler_.submit(std::move(request));
      said_[size_t(root)].push_back(simulated.tokens);
      requests_[id] = simulated;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::bad_request);
    }
  }

  void activate() {
    for (const RequestId id : scheduler_.activate()) {
      Sequence& sequence = scheduler_.at(id);
      sequence.slot = requests_.at(id).slot = pick(3) - 1;  // a slot is used again for other adapters
      ASSERT_LT(sequence.computed, sequence.length());
      ASSERT_LT(sequence.cached, sequence.prompt);
      cached += sequence.cached;
    }
  }

  void forget_slots() {
    for (const RequestId id : scheduler_.take_preempted()) {
      ASSERT_FALSE(scheduler_.is_active(id));
      ASSERT_EQ(requests_.at(id).alternatives, 1);
    }
  }

  void check_pages() {
    const PageStats stats = scheduler_.pages();
    ASSERT_EQ(stats.used + stats.free + stats.cached, limits_.pages);
    if (!limits_.prefix_cache) {
      ASSERT_EQ(stats.cached, 0);
    }
  }

  void finish(RequestId id) {
    said_[size_t(requests_.at(id).root)].push_back(requests_.at(id).tokens);
    scheduler_.finish(id, pick(4) > 0 ? Scheduler::Leaves::pages : Scheduler::Leaves::nothing);
    requests_.erase(id);
  }

  /// A step that was not computed, after the copies or before them; what it would have written is garbage.
  void fail(const PlannedStep& planned) {
    exec::Step step = planned.step;
    for (int32_t& token : step.batch.tokens) token = -7;
    if (pick(2) == 0) {
      for (const PageCopy& copy : step.copies) store_.scribble(copy.to);
      step.copies.clear();
    }
    if (pick(2) == 0) store_.play(step);
    scheduler_.undo(planned);
    if (pick(2) == 0) scheduler_.preempt();
    forget_slots();
  }

  void consume(const PlannedStep& planned) {
    const exec::Step& step = planned.step;
    check(step.batch, limits_.page_size, limits_.pages);
    ASSERT_EQ(planned.segments.size(), step.batch.segments.size());
    store_.play(step);
    std::map<RequestId, std::vector<int>> wanted;
    std::map<int32_t, int> root_of_page;
    for (size_t i = 0; i < planned.segments.size(); ++i) {
      const StepSegment& owner = planned.segments[i];
      const Segment& segment = step.batch.segments[i];
      const Simulated& request = requests_.at(owner.id);
      for (int row = 0; row < segment.rows; ++row)
        ASSERT_EQ(step.batch.slot[size_t(segment.first + row)], request.slot);
      // Keys and values depend on the adapters: no page may serve two roots.
      for (int p = 0; p * limits_.page_size < segment.past + segment.rows; ++p) {
        const int32_t page = step.batch.pages[size_t(segment.first_page + p)];
        ASSERT_EQ(root_of_page.try_emplace(page, request.root).first->second, request.root) << "page " << page;
      }
      if (i > 0) {
        ASSERT_LE(step.batch.slot[size_t(step.batch.segments[i - 1].first)], request.slot);
      }
      std::vector<int32_t> want = request.tokens;
      if (request.proposed.empty()) {
        want.resize(size_t(segment.past + segment.rows));
        ASSERT_EQ(owner.wants_logits, want.size() == request.tokens.size());
      } else {
        want.push_back(request.proposed[size_t(owner.branch)]);
        ASSERT_TRUE(owner.wants_logits);
      }
      ASSERT_EQ(store_.read(step.batch, segment), want) << "request " << owner.id;
      if (owner.wants_logits) wanted[owner.id].push_back(owner.branch);
    }
    scheduler_.done(planned);
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
  std::array<std::vector<std::vector<int32_t>>, 3> said_;  // by root
};

TEST(Scheduler, RandomSchedulesKeepSequencesApart) {
  int64_t cached = 0;
  uint64_t preemptions = 0;
  for (unsigned seed = 0; seed < 500; ++seed) {
    SCOPED_TRACE(seed);
    Simulation simulation(seed);
    simulation.run();
    if (HasFatalFailure()) return;
    cached += simulation.cached;
    preemptions += simulation.counters().preemptions;
  }
  EXPECT_GT(cached, 20'000);
  EXPECT_GT(preemptions, 3000u);
}

Sequence request(RequestId id, int prompt, int max_new, int32_t first = 0, const std::string& key = "") {
  Sequence sequence;
  sequence.id = id;
  for (int i = 0; i < prompt; ++i) sequence.tokens.push_back(first + i);
  sequence.max_new = max_new;
  sequence.key = key;
  return sequence;
}

std::optional<PlannedStep> next(Scheduler& scheduler, int rows = 512) {
  scheduler.activate();
  auto step = scheduler.next(rows);
  if (step) scheduler.done(*step);
  return step;
}

/// Runs a step in which every sequence with logits gets a token; returns who had his first one.
std::vector<RequestId> run(Scheduler& scheduler, int rows) {
  const auto step = next(scheduler, rows);
  std::vector<RequestId> first;
  for (const StepSegment& segment : step->segments) {
    if (!segment.wants_logits) continue;
    Sequence& sequence = scheduler.at(segment.id);
    if (sequence.output().empty()) first.push_back(segment.id);
    scheduler.append(segment.id, 1'000'000 + int32_t(segment.id));
    if (int(sequence.output().size()) == sequence.max_new) scheduler.finish(segment.id, Scheduler::Leaves::pages);
  }
  return first;
}

/// Steps until a short prompt that comes behind `ahead` long ones has its first token.
int steps_behind(int ahead, int rows) {
  Scheduler scheduler({.batch_size = 16, .sequence_length = 8192, .pages = 2000, .page_size = 64});
  for (int i = 0; i < ahead; ++i) scheduler.submit(request(RequestId(i + 1), 4096, 100, i * 10'000));
  run(scheduler, rows);
  scheduler.submit(request(100, 64, 10, 900'000));
  for (int steps = 1; steps < 100; ++steps) {
    const auto first = run(scheduler, rows);
    if (std::find(first.begin(), first.end(), 100u) != first.end()) return steps;
  }
  return 100;
}

TEST(Scheduler, AShortPromptDoesNotWaitForLongOnes) {
  for (const int rows : {128, 512, 2048}) {
    EXPECT_LE(steps_behind(1, rows), 2) << rows;
    EXPECT_LE(steps_behind(8, rows), 4) << rows;
  }
}

TEST(Scheduler, APromptOfManySharesEndsAlthoughShortOnesKeepComing) {
  Scheduler scheduler({.batch_size = 8, .sequence_length = 8192, .pages = 2000, .page_size = 64});
  scheduler.submit(request(1, 4096, 4));
  int steps = 0;
  for (RequestId id = 2; scheduler.pages().total > 0; ++steps) {
    ASSERT_LT(steps, 200);
    for (int i = 0; i < 7; ++i, ++id) scheduler.submit(request(id, 64, 1, int32_t(id) * 100));
    const auto first = run(scheduler, 128);
    if (std::find(first.begin(), first.end(), 1u) != first.end()) break;
  }
  EXPECT_LE(steps, 4096 / 32) << "a quarter of every step is the oldest's";
}

TEST(Scheduler, MixesPrefillWithDecode) {
  Scheduler scheduler({.batch_size = 2, .sequence_length = 32, .pages = 100, .page_size = 4});
  scheduler.submit(request(1, 6, 4, 0));
  auto step = next(scheduler, 8);
  ASSERT_EQ(step->segments.size(), 1u);
  EXPECT_EQ(step->step.batch.logit_rows, std::vector<int32_t>{5});
  scheduler.append(1, 7);
  scheduler.submit(request(2, 5, 4, 100));
  scheduler.submit(request(3, 1, 1, 200));
  step = next(scheduler, 3);
  ASSERT_EQ(step->step.batch.segments.size(), 2u);  // one generated token beside three of the prompt
  EXPECT_EQ(step->step.batch.segments[0].rows, 1);
  EXPECT_EQ(step->step.batch.segments[1].rows, 3);
  EXPECT_EQ(step->decode_rows, 1);
  EXPECT_EQ(scheduler.waiting(), 1);  // no place in the batch
  scheduler.finish(1);
  step = next(scheduler, 8);
  ASSERT_EQ(step->segments.size(), 2u);
  EXPECT_EQ(step->segments.back().id, 3u);
}

TEST(Scheduler, WhoDoesNotFitIsOvertakenABoundedNumberOfTimes) {
  Scheduler scheduler({.batch_size = 8, .sequence_length = 40, .pages = 10, .page_size = 4});
  scheduler.submit(request(1, 20, 4, 0));    // 6 pages
  scheduler.submit(request(2, 20, 4, 100));  // 6: waits
  RequestId id = 3;
  scheduler.activate();
  int overtook = 0;
  for (; overtook < 100; ++overtook, ++id) {
    scheduler.submit(request(id, 1, 1, int32_t(id) * 100));
    scheduler.activate();
    if (!scheduler.is_active(id)) break;
    scheduler.finish(id);
  }
  EXPECT_EQ(overtook, FairQueue::kMostOvertakes);
  scheduler.finish(1);
  scheduler.activate();
  EXPECT_TRUE(scheduler.is_active(2));
  EXPECT_TRUE(scheduler.is_active(id));
}

TEST(Scheduler, AnAnswerWithoutALimitReservesItsBeginningOnly) {
  Scheduler scheduler({.batch_size = 8, .sequence_length = 32'768, .pages = 512, .page_size = 64});
  for (RequestId id = 1; id <= 8; ++id) scheduler.submit(request(id, 100, 32'000, int32_t(id) * 1000));
  EXPECT_EQ(scheduler.activate().size(), 8u);
}

TEST(Scheduler, TheLatestOfTheWorstPriorityIsPreemptedAndTheOldestNever) {
  Scheduler scheduler(
      {.batch_size = 4, .sequence_length = 40, .pages = 10, .page_size = 4, .prefix_cache = false, .ahead = 4});
  // Four that fit at first and outgrow the pages; the oldest has the worst priority of all.
  for (RequestId id = 1; id <= 4; ++id) {
    Sequence sequence = request(id, 4, 36, int32_t(id) * 100);
    sequence.priority = id == 1 ? 9 : id == 2 ? 5 : 1;
    scheduler.submit(std::move(sequence));
    scheduler.activate();
  }
  ASSERT_EQ(scheduler.active(), 4);
  std::vector<RequestId> gone;
  while (gone.size() < 3) {
    run(scheduler, 64);
    for (const RequestId id : scheduler.take_preempted()) gone.push_back(id);
  }
  EXPECT_EQ(gone, (std::vector<RequestId>{2, 4, 3}));
  EXPECT_TRUE(scheduler.is_active(1));
}

TEST(Scheduler, APreemptedRequestComesBackBeforeOthersOfItsKeyAndComputesWhatWasLost) {
  Scheduler scheduler({.batch_size = 2, .sequence_length = 64, .pages = 20, .page_size = 4});
  scheduler.submit(request(1, 8, 8, 0));
  scheduler.submit(request(2, 10, 8, 100));
  scheduler.submit(request(3, 8, 8, 200));
  run(scheduler, 64);
  run(scheduler, 64);
  ASSERT_TRUE(scheduler.preempt());
  EXPECT_FALSE(scheduler.preempt()) << "the oldest is left";
  ASSERT_EQ(scheduler.take_preempted().size(), 1u);
  EXPECT_EQ(scheduler.activate().front(), 2u);
  EXPECT_EQ(scheduler.at(2).computed, 8) << "whole pages were kept";
  EXPECT_EQ(scheduler.counters().recomputed, 3u);
  const auto step = next(scheduler, 64);
  EXPECT_EQ(step->segments.size(), 2u);
  EXPECT_EQ(scheduler.at(2).computed, 12);
}

TEST(Scheduler, EqualPromptsAreComputedOnce) {
  Scheduler scheduler({.batch_size = 16, .sequence_length = 400, .pages = 400, .page_size = 4});
  for (RequestId id = 1; id <= 16; ++id) {
    Sequence sequence = request(id, 40, 3);
    sequence.tokens.push_back(int32_t(1000 + id));  // a question of its own after the same 40 tokens
    scheduler.submit(std::move(sequence));
  }
  int rows = 0;
  for (int steps = 0; scheduler.waiting() > 0 || scheduler.active() > 0; ++steps) {
    ASSERT_LT(steps, 20);
    const auto step = next(scheduler, 20);
    ASSERT_TRUE(step);
    for (size_t i = 0; i < step->segments.size(); ++i) {
      const Segment& segment = step->step.batch.segments[i];
      if (segment.past <= 40) rows += segment.rows;
      if (step->segments[i].wants_logits) {
        Sequence& sequence = scheduler.at(step->segments[i].id);
        scheduler.append(sequence.id, 7);
        if (int(sequence.output().size()) == 3) scheduler.finish(sequence.id, Scheduler::Leaves::pages);
      }
    }
  }
  EXPECT_EQ(rows, 40 + 16);
}

TEST(Scheduler, WhoseOwnerLeavesComputesByItself) {
  Scheduler scheduler({.batch_size = 4, .sequence_length = 400, .pages = 400, .page_size = 4});
  scheduler.submit(request(1, 40, 3));
  scheduler.submit(request(2, 40, 3));
  EXPECT_EQ(scheduler.activate().size(), 1u);
  next(scheduler, 8);
  EXPECT_EQ(scheduler.active(), 1);
  scheduler.finish(1);
  EXPECT_EQ(scheduler.activate().size(), 1u);
  EXPECT_EQ(scheduler.at(2).cached, 8) << "what the first had computed stays";
}

TEST(Scheduler, RootsShareNothing) {
  Scheduler scheduler({.batch_size = 4, .sequence_length = 100, .pages = 100, .page_size = 4});
  const auto cached = [&](RequestId id, int root) {
    Sequence sequence = request(id, 21, 1);
    sequence.root = root_at(root);
    scheduler.submit(std::move(sequence));
    next(scheduler);
    const int found = scheduler.at(id).cached;
    scheduler.finish(id, Scheduler::Leaves::pages);
    return found;
  };
  EXPECT_EQ(cached(1, 1), 0);
  EXPECT_EQ(cached(2, 2), 0);
  EXPECT_EQ(cached(3, 1), 20);
  EXPECT_EQ(cached(4, 2), 20);
}

TEST(Scheduler, APageThatIsEqualInPartIsCopiedAndCut) {
  Scheduler scheduler({.batch_size = 4, .sequence_length = 100, .pages = 100, .page_size = 4});
  scheduler.submit(request(1, 12, 1));
  next(scheduler);
  Sequence other = request(2, 10, 1);
  other.tokens[7] = 99;  // seven tokens in common
  scheduler.submit(std::move(other));
  const auto step = next(scheduler);
  EXPECT_EQ(scheduler.at(2).cached, 7);
  ASSERT_EQ(step->step.copies.size(), 1u);
  EXPECT_EQ(step->step.batch.segments[0].past, 7);
}

TEST(Scheduler, KeysAreServedInTurn) {
  Scheduler scheduler({.batch_size = 4, .sequence_length = 100, .pages = 1000, .page_size = 4});
  RequestId id = 1;
  for (; id <= 500; ++id) scheduler.submit(request(id, 8, 2, int32_t(id) * 100, "many"));
  for (int i = 0; i < 10; ++i) run(scheduler, 64);
  std::set<RequestId> few;
  for (int i = 0; i < 5; ++i, ++id) {
    few.insert(id);
    scheduler.submit(request(id, 8, 2, int32_t(id) * 100, "few"));
  }
  int between = 0;
  while (!few.empty()) {
    for (const RequestId admitted : scheduler.activate()) {
      if (few.erase(admitted) > 0) {
        EXPECT_LE(between, 2);
        between = 0;
      } else {
        ++between;
      }
    }
    run(scheduler, 64);
  }
}

TEST(Scheduler, AFailedStepIsAsIfItHadNotBeen) {
  Scheduler scheduler({.batch_size = 4, .sequence_length = 100, .pages = 30, .page_size = 4});
  scheduler.submit(request(1, 10, 4));
  scheduler.activate();
  const auto step = scheduler.next(6);
  EXPECT_EQ(scheduler.at(1).computed, 6);
  scheduler.undo(*step);
  EXPECT_EQ(scheduler.at(1).computed, 0);
  EXPECT_EQ(scheduler.pages().used, 0);
  EXPECT_EQ(next(scheduler)->step.batch.segments[0].rows, 10);
}

TEST(Scheduler, RefusesWhatCanNeverFit) {
  Scheduler scheduler({.batch_size = 1, .sequence_length = 16, .pages = 3, .page_size = 4});
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
