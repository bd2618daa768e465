// Which page of the KV store belongs to which sequence. Host bookkeeping only: pages are numbers here, bytes are the
// KvStore's.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/kv_store.h"

namespace bumblebee::engine {

/// free + used + cached = total.
struct PageStats {
  int total = 0, used = 0, free = 0;
  int cached = 0;  // held by the cache and by no sequence
  int shared = 0;  // used by more than one sequence
};

/// Pages with reference counts. A fork shares all pages of its parent, and a cache may hold pages on: whoever first
/// writes into a page that others hold gets its own copy.
class PageTable {
 public:
  using Sequence = int32_t;

  PageTable(int pages, int page_size);

  Sequence open();
  /// A sequence with the same tokens, sharing every page.
  Sequence fork(Sequence parent);
  /// Gives the pages back. Never fails.
  void close(Sequence sequence);
  /// An empty sequence becomes one of `tokens` tokens that lie in `pages`, of which others may use more.
  void adopt(Sequence sequence, std::span<const int32_t> pages, int tokens);
  /// Takes the page of the same contents in place of the sequence's own, which it gives back.
  void exchange(Sequence sequence, int index, int32_t page);
  /// Forgets the tokens from `length` on, and gives back the pages that held only such.
  void truncate(Sequence sequence, int length);

  /// Makes room to write tokens [length, length + count) and sets the length behind them. Copies that the store must do
  /// first are added to `copies`. False when there are not enough free pages; nothing has changed then.
  bool extend(Sequence sequence, int count, std::vector<PageCopy>& copies);

  /// The cache holds a page, which at least one sequence uses now; at most once. Never fails.
  void retain(int32_t page);
  void release(int32_t page);
  bool is_used(int32_t page) const { return users_[size_t(page)] > 0; }
  /// Whether writing the next token would copy a page first.
  bool copies_before_write(Sequence sequence) const;

  int length(Sequence sequence) const;
  const std::vector<int32_t>& pages(Sequence sequence) const;
  PageStats stats() const;
  int page_size() const { return page_size_; }
  /// Pages that hold `tokens` tokens.
  int pages_for(int64_t tokens) const { return int((tokens + page_size_ - 1) / page_size_); }

  /// At most `most` free pages that were written to and were not yet given back.
  std::vector<int32_t> take_freed(int most);
  bool has_freed() const { return dirty_count_ > 0; }

 private:
  struct Entry {
    std::vector<int32_t> pages;
    int length = 0;
    bool open = false;
  };
  int32_t take();
  void drop(int32_t page);
  void give_back(int32_t page);
  void use(int32_t page);
  const Entry& entry(Sequence sequence) const;

  int page_size_;
  std::vector<int> users_;     // [pages] sequences
  std::vector<bool> cached_;   // [pages] held by the cache
  std::vector<int32_t> free_;  // a stack: the page freed last is used next, its memory is warm
  std::vector<Entry> entries_;
  std::vector<Sequence> free_entries_;
  std::vector<bool> dirty_;  // [pages] freed, and not yet given back
  int used_ = 0, shared_ = 0, cached_only_ = 0, dirty_count_ = 0;
};

}  // namespace bumblebee::engine
