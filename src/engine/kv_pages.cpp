// A broken page table would answer one user with another's text: every misuse aborts.
#include "engine/kv_pages.h"

#include <algorithm>

#include "base/error.h"

namespace bumblebee::engine {

PageTable::PageTable(int pages, int page_size) : page_size_(page_size), references_(size_t(pages), 0) {
  BB_CHECK(pages > 0 && page_size > 0, "pages ", pages, " page_size ", page_size);
  for (int page = pages - 1; page >= 0; --page) free_.push_back(page);
}

const PageTable::Entry& PageTable::entry(Sequence sequence) const {
  BB_CHECK(sequence >= 0 && size_t(sequence) < entries_.size() && entries_[size_t(sequence)].open, "sequence ",
           sequence);
  return entries_[size_t(sequence)];
}

PageTable::Sequence PageTable::open() {
  if (free_entries_.empty()) {
    free_entries_.push_back(Sequence(entries_.size()));
    entries_.emplace_back();
  }
  const Sequence sequence = free_entries_.back();
  free_entries_.pop_back();
  entries_[size_t(sequence)].open = true;
  return sequence;
}

PageTable::Sequence PageTable::fork(Sequence parent) {
  const Sequence child = open();
  const Entry& from = entry(parent);
  Entry& to = entries_[size_t(child)];
  to.pages = from.pages;
  to.length = from.length;
  for (int32_t page : to.pages) ++references_[size_t(page)];
  return child;
}

void PageTable::close(Sequence sequence, std::vector<int32_t>* freed) {
  for (int32_t page : entry(sequence).pages) drop(page, freed);
  entries_[size_t(sequence)] = {};
  free_entries_.push_back(sequence);
}

int32_t PageTable::take() {
  BB_CHECK(!free_.empty());
  const int32_t page = free_.back();
  free_.pop_back();
  BB_CHECK(references_[size_t(page)] == 0, "page ", page, " is in use and free");
  references_[size_t(page)] = 1;
  return page;
}

void PageTable::drop(int32_t page, std::vector<int32_t>* freed) {
  BB_CHECK(references_[size_t(page)] > 0, "page ", page);
  if (--references_[size_t(page)] > 0) return;
  free_.push_back(page);
  if (freed != nullptr) freed->push_back(page);
}

bool PageTable::extend(Sequence sequence, int count, std::vector<PageCopy>& copies) {
  BB_CHECK(count >= 0, "count ", count);
  const Entry& old = entry(sequence);
  const int wanted = pages_for(int64_t(old.length) + count);
  const bool writes_inside = count > 0 && old.length % page_size_ != 0;
  const bool copy = writes_inside && references_[size_t(old.pages.back())] > 1;
  if (size_t(wanted) - old.pages.size() + size_t(copy) > free_.size()) return false;
  Entry& e = entries_[size_t(sequence)];
  if (copy) {
    const int32_t from = e.pages.back(), to = take();
    copies.push_back({from, to});
    drop(from, nullptr);
    e.pages.back() = to;
  }
  while (e.pages.size() < size_t(wanted)) e.pages.push_back(take());
  e.length += count;
  return true;
}

int PageTable::length(Sequence sequence) const { return entry(sequence).length; }
const std::vector<int32_t>& PageTable::pages(Sequence sequence) const { return entry(sequence).pages; }

PageStats PageTable::stats() const {
  PageStats s{.total = int(references_.size()), .used = 0, .free = int(free_.size()), .shared = 0};
  for (int count : references_) {
    s.used += count > 0;
    s.shared += count > 1;
  }
  return s;
}

}  // namespace bumblebee::engine
