// An entry stays one node of a list from its push to its end, so that only push() and next() need memory.
#include "engine/fair_queue.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace bumblebee::engine {
namespace {

/// Requests of one key that are asked about at a time.
constexpr int kMostAsked = 64;

}  // namespace

std::optional<int64_t> FairQueue::least_served() const {
  std::optional<int64_t> least;
  for (const auto& [name, key] : keys_) {
    if (key.requests > 0) least = std::min(least.value_or(key.served), key.served);
  }
  return least;
}

/// Keys that would be lifted anyway need not be remembered.
void FairQueue::forget_idle() noexcept {
  const std::optional<int64_t> least = least_served();
  std::erase_if(keys_,
                [&](const auto& key) { return key.second.requests == 0 && (!least || key.second.served <= *least); });
}

void FairQueue::push(Id id, int priority, const std::string& name) {
  forget_idle();
  const std::optional<int64_t> least = least_served();
  const auto key = keys_.try_emplace(name).first;
  Entries entry;
  entry.push_back({.id = id});
  const auto [place, fresh] = entries_.emplace(id, entry.begin());
  BB_CHECK(fresh, "request ", id, " twice");
  try {
    Line& line = lines_[priority].try_emplace(name).first->second;
    line.priority = priority;
    line.key = key;
    entry.front().line = &line;
    line.waiting.splice(line.waiting.end(), entry);
  } catch (...) {
    entries_.erase(place);
    if (const auto lines = lines_.find(priority); lines != lines_.end() && lines->second.empty()) lines_.erase(lines);
    throw;
  }
  if (key->second.requests++ == 0) key->second.served = std::max(key->second.served, least.value_or(0));
  ++waiting_;
}

std::optional<FairQueue::Id> FairQueue::next(FunctionRef<Verdict(Id)> ask) {
  if (waiting_ == 0) return std::nullopt;
  no_room_.clear();
  for (auto& [priority, lines] : lines_) {
    order_.clear();
    for (auto& [name, line] : lines) {
      if (!line.waiting.empty()) order_.push_back(&line);
    }
    std::sort(order_.begin(), order_.end(), [](const Line* a, const Line* b) {
      return std::pair(a->key->second.served, a->waiting.front().id) <
             std::pair(b->key->second.served, b->waiting.front().id);
    });
    for (Line* line : order_) {
      Key& key = line->key->second;
      if (most_running_ > 0 && key.running >= most_running_) continue;
      int asked = 0;
      for (auto entry = line->waiting.begin(); entry != line->waiting.end() && asked < kMostAsked; ++entry) {
        const Verdict verdict = ask(entry->id);
        if (verdict == Verdict::awaits) continue;
        ++asked;
        if (verdict == Verdict::not_yet) continue;
        if (verdict == Verdict::no_room) {
          if (entry->overtaken >= kMostOvertakes) return std::nullopt;
          no_room_.push_back(&*entry);
          continue;
        }
        for (Entry* overtaken : no_room_) ++overtaken->overtaken;
        resume(entry->id);
        return entry->id;
      }
    }
  }
  return std::nullopt;
}

void FairQueue::put_back(Id id) noexcept {
  const Entries::iterator entry = entries_.at(id);
  Line& line = *entry->line;
  BB_CHECK(entry->running, "request ", id);
  entry->running = false;
  --line.key->second.running;
  ++waiting_;
  // Several that were put back stand in the order of their numbers.
  const auto later = std::find_if(line.waiting.begin(), line.waiting.end(), [id](const Entry& e) { return e.id > id; });
  line.waiting.splice(later, line.running, entry);
}

void FairQueue::resume(Id id) noexcept {
  const Entries::iterator entry = entries_.at(id);
  Line& line = *entry->line;
  BB_CHECK(!entry->running, "request ", id);
  entry->running = true;
  entry->overtaken = 0;
  ++line.key->second.running;
  --waiting_;
  line.running.splice(line.running.end(), line.waiting, entry);
}

void FairQueue::charge(Id id, int64_t tokens) noexcept { entries_.at(id)->line->key->second.served += tokens; }

void FairQueue::erase(Id id) noexcept {
  const auto found = entries_.find(id);
  if (found == entries_.end()) return;
  const Entries::iterator entry = found->second;
  Line& line = *entry->line;
  Key& key = line.key->second;
  --key.requests;
  if (entry->running) {
    --key.running;
    line.running.erase(entry);
  } else {
    --waiting_;
    line.waiting.erase(entry);
  }
  entries_.erase(found);
  if (line.waiting.empty() && line.running.empty()) {
    const auto lines = lines_.find(line.priority);
    lines->second.erase(line.key->first);
    if (lines->second.empty()) lines_.erase(lines);
  }
  forget_idle();
}

}  // namespace bumblebee::engine
