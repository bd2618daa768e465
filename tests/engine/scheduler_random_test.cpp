// Random schedules without a model, in which every row is checked against what its sequence must be.
#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <random>
#include <string>

#include "base/error.h"
#include "tests/engine/scripted_executor.h"

namespace bumblebee::engine {
namespace {

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
  Simulation(unsigned seed, bool states, bool ahead = false)
      : random_(seed),
        ahead_(ahead),
        limits_{.batch_size = 1 + pick(5),
                .sequence_length = 10 + pick(40),
                .pages = 12 + pick(40),
                .page_size = 1 + pick(5),
                .max_active_per_key = pick(3) == 0 ? 1 + pick(3) : 0,
                .prefix_cache = pick(8) > 0,
                .ahead = 1 + pick(8),
                .states = states ? 1 + pick(3 * limits_.batch_size + 6) : 0,
                .checkpoint_interval = limits_.page_size * (1 + pick(4)),
                .least_checkpoint = pick(3) * limits_.page_size},
        scheduler_(limits_),
        store_(limits_.pages, limits_.page_size, limits_.states) {}

  void run() {
    for (int round = 0; round < 300 || !requests_.empty() || flight_; ++round) {
      if (round < 300 && pick(2) == 0) submit();
      if (!requests_.empty() && pick(25) == 0) finish(any());
      if (pick(40) == 0) scheduler_.drop_cache();
      activate();
      if (::testing::Test::HasFatalFailure()) return;
      const RequestId oldest = oldest_active();
      const auto step = flight_ ? std::exchange(flight_, std::nullopt) : scheduler_.next(1 + pick(12));
      forget_slots();
      ASSERT_TRUE(oldest == 0 || scheduler_.is_active(oldest)) << "the oldest was given up";
      if (step && ahead_ && pick(8) > 0) flight_ = scheduler_.next_ahead(*step);
      foreseen += flight_.has_value();
      if (step && pick(15) == 0) {
        if (flight_) scheduler_.undo(*std::exchange(flight_, std::nullopt));
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
    EXPECT_EQ(scheduler_.states().free(), limits_.states);
    EXPECT_TRUE(scheduler_.idle());
    EXPECT_GT(finished, 3);
  }
  int finished = 0, foreseen = 0;
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
    request.root = root_numbered(root);
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

  /// At times what else a request needs is not there, but where nothing would run.
  void activate() {
    begin(scheduler_.activate([this](const Sequence&) {
      constexpr Scheduler::Verdict kNot[] = {Scheduler::Verdict::no_room, Scheduler::Verdict::not_yet};
      return pick(8) == 0 ? kNot[pick(2)] : Scheduler::Verdict::fits;
    }));
    if (scheduler_.active() == 0) begin(scheduler_.activate());
  }
  void begin(std::span<const RequestId> activated) {
    for (const RequestId id : activated) {
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
    for (const Segment& segment : step.batch.segments) {
      if (segment.state.to >= 0 && pick(2) == 0) store_.state(segment.state.to) = {-8};
    }
    scheduler_.undo(planned);
    if (pick(2) == 0) scheduler_.preempt();
    forget_slots();
  }

  void consume(const PlannedStep& planned) {
    exec::Step step = planned.step;
    step.batch.resolve_chosen(chosen_);
    chosen_.clear();
    check(step.batch, limits_.page_size, limits_.pages, limits_.states);
    ASSERT_EQ(planned.segments.size(), step.batch.segments.size());
    store_.play(step);
    std::map<RequestId, std::vector<int>> wanted;
    std::map<int32_t, int> root_of_page;
    for (size_t i = 0; i < planned.segments.size(); ++i) {
      const StepSegment& owner = planned.segments[i];
      const Segment& segment = step.batch.segments[i];
      if (!requests_.contains(owner.id)) continue;  // it ended while the step was on its way
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
      if (limits_.states > 0) {
        ASSERT_EQ(store_.state(segment.state.to), want) << "request " << owner.id;
      }
      if (owner.wants_logits) wanted[owner.id].push_back(owner.branch);
    }
    scheduler_.done(planned);
    for (const auto& [id, branches] : wanted) answer(id, branches);
    for (const StepSegment& owner : planned.segments) {
      if (!owner.wants_logits) continue;
      constexpr int32_t kOfNobody = 1 << 30;
      const auto found = requests_.find(owner.id);
      chosen_.push_back(found == requests_.end() ? kOfNobody : found->second.tokens.back());
    }
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
    if (scheduler_.at(id).in_flight == 0 && request.tokens.size() > request.prompt + 1 && pick(12) == 0) {
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
  const bool ahead_;
  SchedulerLimits limits_;
  Scheduler scheduler_;
  PlayedStore store_;
  std::map<RequestId, Simulated> requests_;
  std::optional<PlannedStep> flight_;  // the step after the one that was consumed last
  std::vector<int32_t> chosen_;        // by the logit rows of that one
  RequestId next_id_ = 1;
  int32_t token_ = 0;
  std::array<std::vector<std::vector<int32_t>>, 3> said_;  // by root
};

TEST(Scheduler, RandomSchedulesKeepSequencesApart) {
  int64_t cached = 0;
  uint64_t preemptions = 0;
  for (unsigned seed = 0; seed < 500; ++seed) {
    SCOPED_TRACE(seed);
    Simulation simulation(seed, false);
    simulation.run();
    if (HasFatalFailure()) return;
    cached += simulation.cached;
    preemptions += simulation.counters().preemptions;
  }
  EXPECT_GT(cached, 20'000);
  EXPECT_GT(preemptions, 3000u);
}

/// The same where a step is planned while the one before it is on its way, whose tokens nobody knows.
TEST(Scheduler, RandomSchedulesWithTwoStepsInFlightKeepSequencesApart) {
  int64_t cached = 0, foreseen = 0;
  for (unsigned seed = 0; seed < 500; ++seed) {
    SCOPED_TRACE(seed);
    Simulation simulation(seed, false, true);
    simulation.run();
    if (HasFatalFailure()) return;
    cached += simulation.cached;
    foreseen += simulation.foreseen;
  }
  EXPECT_GT(cached, 20'000);
  EXPECT_GT(foreseen, 20'000);
}

/// The same for a model with recurrent layers: whatever was shared, forked, given up, undone or forgotten, what a row
/// finds in its state is what stands before it.
TEST(Scheduler, RandomSchedulesKeepStatesApart) {
  int64_t cached = 0;
  uint64_t preemptions = 0;
  for (unsigned seed = 0; seed < 500; ++seed) {
    SCOPED_TRACE(seed);
    Simulation simulation(seed, true);
    simulation.run();
    if (HasFatalFailure()) return;
    cached += simulation.cached;
    preemptions += simulation.counters().preemptions;
  }
  EXPECT_GT(cached, 3'000);
  EXPECT_GT(preemptions, 1000u);
}

}  // namespace
}  // namespace bumblebee::engine
