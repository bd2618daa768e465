// Misuse aborts: a state in two hands would answer one user with another's text.
#include "engine/state_table.h"

#include <algorithm>

#include "base/error.h"

namespace bumblebee::engine {

StateTable::StateTable(int states) : holders_(size_t(states), 0), cached_(size_t(states), false) {
  for (int state = states - 1; state >= 0; --state) free_.push_back(state);
}

int32_t StateTable::take() {
  if (free_.empty()) return -1;
  const int32_t state = free_.back();
  free_.pop_back();
  BB_CHECK(holders_[size_t(state)] == 0 && !cached_[size_t(state)], "state ", state, " is in use and free");
  holders_[size_t(state)] = 1;
  return state;
}

void StateTable::hold(int32_t state) {
  if (state < 0) return;
  BB_CHECK(holders_[size_t(state)] > 0 || cached_[size_t(state)], "state ", state, " is nobody's");
  ++holders_[size_t(state)];
}

void StateTable::drop(int32_t state) {
  if (state < 0) return;
  BB_CHECK(holders_[size_t(state)] > 0, "state ", state);
  if (--holders_[size_t(state)] == 0) give_back(state);
}

void StateTable::retain(int32_t state) {
  BB_CHECK(holders_[size_t(state)] > 0 && !cached_[size_t(state)], "state ", state);
  cached_[size_t(state)] = true;
}

void StateTable::release(int32_t state) {
  BB_CHECK(cached_[size_t(state)], "state ", state);
  cached_[size_t(state)] = false;
  if (holders_[size_t(state)] == 0) give_back(state);
}

void StateTable::give_back(int32_t state) {
  if (!cached_[size_t(state)]) free_.push_back(state);  // which has room for all
}

int StateTable::cached() const {
  int count = 0;
  for (size_t i = 0; i < holders_.size(); ++i) count += cached_[i] && holders_[i] == 0;
  return count;
}

}  // namespace bumblebee::engine
