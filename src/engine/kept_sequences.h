// Finished sequences whose pages stay, so that the next request of the same session computes only what its prompt adds.
// Kept pages are spare: whoever needs room takes them. What finds a beginning for a prompt is decided here alone.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "engine/sequence.h"

namespace bumblebee::engine {

class KeptSequences {
 public:
  explicit KeptSequences(PageTable& table) : table_(table) {}

  /// Makes a place for what this sequence leaves, so that leave() needs no memory.
  void prepare(const Sequence& sequence);
  /// Pages that hold a beginning of the sequence's prompt, computed with its adapters: theirs are `pages`, `computed`
  /// and `reused` then. At least the prompt's last token is left to compute. False when there are none.
  bool resume(Sequence& sequence) noexcept;
  /// Takes the pages of a finished sequence over, in place of what its session had.
  void leave(Sequence& sequence) noexcept;

  /// Gives up what was kept the longest; false when nothing is.
  bool drop_oldest() noexcept;
  /// Gives up what nobody can ask for any more.
  void drop_orphans() noexcept;
  int pages() const { return pages_; }

 private:
  struct Kept {
    std::vector<int32_t> tokens;     // computed
    lora::AdapterId adapters;        // by what they are: nobody holds the set between two turns
    PageTable::Sequence pages = -1;  // -1: a request goes on with them
    uint64_t left = 0;               // when
  };
  void drop(Kept& kept) noexcept;

  PageTable& table_;
  std::map<std::weak_ptr<const void>, Kept, std::owner_less<>> sessions_;
  uint64_t clock_ = 0;
  int pages_ = 0;
};

}  // namespace bumblebee::engine
