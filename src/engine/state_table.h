// Which of the store's states is whose. As with pages, a state is a number here; its bytes are the KvStore's.
#pragma once

#include <cstdint>
#include <vector>

namespace bumblebee::engine {

/// States with reference counts. Sequences hold those that they go on from, and the cache holds some on; a state that
/// more than one holds is only read: who goes on from it writes another.
class StateTable {
 public:
  explicit StateTable(int states);

  /// One that nobody held, for one holder; -1 where there is none.
  int32_t take();
  /// One more holder, or one less; below 0: nothing happens. Never fail.
  void hold(int32_t state);
  void drop(int32_t state);
  /// The cache holds a state too, at most once.
  void retain(int32_t state);
  void release(int32_t state);

  /// Whether one holder has it, and the cache has not.
  bool is_alone(int32_t state) const { return holders_[size_t(state)] == 1 && !cached_[size_t(state)]; }
  /// Whether the cache alone has it.
  bool is_spare(int32_t state) const { return holders_[size_t(state)] == 0; }
  int total() const { return int(holders_.size()); }
  int free() const { return int(free_.size()); }
  /// Held by the cache and by nobody else.
  int cached() const;

 private:
  void give_back(int32_t state);
  std::vector<int> holders_;
  std::vector<bool> cached_;
  std::vector<int32_t> free_;  // a stack
};

}  // namespace bumblebee::engine
