// Which page of the KV store belongs to which sequence. Host bookkeeping only: pages are numbers here, bytes are the
// KvStore's.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/kv_store.h"

namespace bumblebee::engine {

struct PageStats {
  int total = 0, used = 0, free = 0;
  int shared = 0;  // used by more than one sequence
};

/// Pages with reference counts. A fork shares all pages of its parent; whoever first writes into a shared page gets its
/// own copy.
class PageTable {
 public:
  using Sequence = int32_t;

  PageTable(int pages, int page_size);

  Sequence open();
  /// A sequence with the same tokens, sharing every page.
  Sequence fork(Sequence parent);
  /// Gives the pages back. Never fails.
  void close(Sequence sequence);
  /// Forgets the tokens from `length` on, and gives back the pages that held only such.
  void truncate(Sequence sequence, int length);

  /// Makes room to write tokens [length, length + count) and sets the length behind them. Copies that the store must do
  /// first are added to `copies`. False when there are not enough free pages; nothing has changed then.
  bool extend(Sequence sequence, int count, std::vector<PageCopy>& copies);

  int length(Sequence sequence) const;
  const std::vector<int32_t>& pages(Sequence sequence) const;
  PageStats stats() const;
  int page_size() const { return page_size_; }
  /// Pages that hold `tokens` tokens.
  int pages_for(int64_t tokens) const { return int((tokens + page_size_ - 1) / page_size_); }

  /// Pages that were used and are free now, since they were last asked for; each once.
  std::vector<int32_t> take_freed();

 private:
  struct Entry {
    std::vector<int32_t> pages;
    int length = 0;
    bool open = false;
  };
  int32_t take();
  void drop(int32_t page);
  const Entry& entry(Sequence sequence) const;

  int page_size_;
  std::vector<int> references_;  // [pages]
  std::vector<int32_t> free_;    // a stack: the page freed last is used next, its memory is warm
  std::vector<Entry> entries_;
  std::vector<Sequence> free_entries_;
  std::vector<bool> dirty_;  // [pages] freed, and not yet told of
  int used_ = 0, shared_ = 0;
};

}  // namespace bumblebee::engine
