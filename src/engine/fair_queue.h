// Who is next. Pure logic: no threads, no clock. Priorities are strict. Within one, the key that was served least is
// next (virtual token counters: Sheng et al., 2024, arXiv:2401.00588), and within a key, who came first. Who does not
// fit is overtaken by those who do, but only so many times.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/function_ref.h"

namespace bumblebee::engine {

class FairQueue {
 public:
  using Id = uint64_t;
  /// Requests that may be served before one that came earlier in the order and did not fit.
  static constexpr int kMostOvertakes = 16;

  /// At most so many requests of a key run at once; 0: any number.
  explicit FairQueue(int most_running_per_key = 0) : most_running_(most_running_per_key) {}

  /// Adds a request that waits. When it throws, nothing has changed.
  void push(Id id, int priority, const std::string& key);
  /// no_room: others have what it needs. not_yet: it has a reason of its own to wait; awaits: the same, and nothing had
  /// to be looked up to know it.
  enum class Verdict : uint8_t { fits, no_room, not_yet, awaits };
  /// The first in order that fits: it runs from now on. Asks about a few of each key at most.
  std::optional<Id> next(FunctionRef<Verdict(Id)> ask);
  /// A request that runs waits again, before all others of its key.
  void put_back(Id id) noexcept;
  /// A request that waits runs out of turn.
  void resume(Id id) noexcept;
  /// A request was served so many tokens.
  void charge(Id id, int64_t tokens) noexcept;
  /// Forgets a request; unknown ones are fine.
  void erase(Id id) noexcept;

  int waiting() const { return waiting_; }

 private:
  struct Key {
    int64_t served = 0;  // tokens; lifted to the least of the others when it comes back
    int requests = 0, running = 0;
  };
  struct Line;
  struct Entry {
    Id id = 0;
    Line* line = nullptr;
    int overtaken = 0;
    bool running = false;
  };
  using Entries = std::list<Entry>;
  /// Requests of one key and priority.
  struct Line {
    int priority = 0;
    std::map<std::string, Key>::iterator key;
    Entries waiting, running;
  };
  /// The least that any key with requests was served.
  std::optional<int64_t> least_served() const;
  void forget_idle() noexcept;

  int most_running_, waiting_ = 0;
  std::map<std::string, Key> keys_;
  std::map<int, std::map<std::string, Line>> lines_;  // by priority and key
  std::unordered_map<Id, Entries::iterator> entries_;
  std::vector<Line*> order_;     // for next()
  std::vector<Entry*> no_room_;  // the same
};

}  // namespace bumblebee::engine
