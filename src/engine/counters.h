// What an engine counts. Written by the engine's thread and by those that submit, read by anybody without a lock.
#pragma once

#include <atomic>
#include <cstdint>

#include "bumblebee/serving.h"

namespace bumblebee::engine {

struct Counters {
  template <class T>
  using Counter = std::atomic<T>;

  Counter<int> running{0}, waiting{0}, pages{0}, pages_used{0}, pages_cached{0}, page_tokens{0};
  Counter<int> states{0}, states_used{0}, states_cached{0};
  Counter<uint64_t> state_bytes{0};
  Counter<int64_t> waiting_tokens{0};
  Counter<uint64_t> page_bytes{0}, looked_up{0}, found{0}, prompt_tokens{0}, generated{0}, recomputed{0};
  Counter<uint64_t> preemptions{0}, stopped{0}, by_length{0}, cancelled{0}, failed{0}, refused{0}, steps{0}, rows{0};
  Counter<double> plan{0}, compute{0}, sample{0}, text{0};

  template <class T, class V>
  static void add(Counter<T>& counter, V value) {
    counter.fetch_add(T(value), std::memory_order_relaxed);
  }
  template <class T, class V>
  static void set(Counter<T>& counter, V value) {
    counter.store(T(value), std::memory_order_relaxed);
  }

  text::ServingStats stats() const {
    const auto get = [](const auto& counter) { return counter.load(std::memory_order_relaxed); };
    text::ServingStats stats;
    stats.running = get(running);
    stats.waiting = get(waiting);
    stats.waiting_tokens = get(waiting_tokens);
    stats.pages = get(pages);
    stats.pages_used = get(pages_used);
    stats.pages_cached = get(pages_cached);
    stats.page_tokens = get(page_tokens);
    stats.page_bytes = get(page_bytes);
    stats.states = get(states);
    stats.states_used = get(states_used);
    stats.states_cached = get(states_cached);
    stats.state_bytes = get(state_bytes);
    stats.prefix_queries = get(looked_up);
    stats.prefix_hits = get(found);
    stats.prompt_tokens = get(prompt_tokens);
    stats.generated_tokens = get(generated);
    stats.recomputed_tokens = get(recomputed);
    stats.preemptions = get(preemptions);
    stats.ended_stop = get(stopped);
    stats.ended_length = get(by_length);
    stats.ended_cancelled = get(cancelled);
    stats.failed = get(failed);
    stats.refused = get(refused);
    stats.steps = get(steps);
    stats.rows = get(rows);
    stats.step_seconds = {.plan = get(plan), .compute = get(compute), .sample = get(sample), .text = get(text)};
    return stats;
  }
};

}  // namespace bumblebee::engine
