// A broken page table would answer one user with another's text: every misuse aborts.
#include "engine/page_table.h"

#include <utility>

#include "base/error.h"

namespace bumblebee::engine {

PageTable::PageTable(int pages, int page_size)
    : page_size_(page_size), references_(size_t(pages), 0), dirty_(size_t(pages), false) {
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
    free_entries_.reserve(entries_.size() + 1);  // so that close() never allocates
    entries_.emplace_back();
    free_entries_.push_back(Sequence(entries_.size() - 1));
  }
  const Sequence sequence = free_entries_.back();
  free_entries_.pop_back();
  entries_[size_t(sequence)].open = true;
  return sequence;
}

PageTable::Sequence PageTable::fork(Sequence parent) {
  std::vector<int32_t> pages = entry(parent).pages;
  const int length = entry(parent).length;
  const Sequence child = open();
  Entry& to = entries_[size_t(child)];
  to.pages = std::move(pages);
  to.length = length;
  for (int32_t page : to.pages) shared_ += ++references_[size_t(page)] == 2;
  return child;
}

void PageTable::close(Sequence sequence) {
  for (int32_t page : entry(sequence).pages) drop(page);
  entries_[size_t(sequence)] = {};
  free_entries_.push_back(sequence);
}

void PageTable::truncate(Sequence sequence, int length) {
  BB_CHECK(length >= 0 && length <= entry(sequence).length, "length ", length, " of ", entry(sequence).length);
  Entry& e = entries_[size_t(sequence)];
  for (const size_t kept = size_t(pages_for(length)); e.pages.size() > kept; e.pages.pop_back()) drop(e.pages.back());
  e.length = length;
}

int32_t PageTable::take() {
  BB_CHECK(!free_.empty());
  const int32_t page = free_.back();
  free_.pop_back();
  BB_CHECK(references_[size_t(page)] == 0, "page ", page, " is in use and free");
  references_[size_t(page)] = 1;
  dirty_[size_t(page)] = false;
  ++used_;
  return page;
}

void PageTable::drop(int32_t page) {
  int& references = references_[size_t(page)];
  BB_CHECK(references > 0, "page ", page);
  shared_ -= references == 2;
  if (--references > 0) return;
  --used_;
  dirty_[size_t(page)] = true;
  free_.push_back(page);  // which has room for all pages
}

bool PageTable::extend(Sequence sequence, int count, std::vector<PageCopy>& copies) {
  BB_CHECK(count >= 0, "count ", count);
  const Entry& old = entry(sequence);
  const int wanted = pages_for(int64_t(old.length) + count);
  const bool writes_inside = count > 0 && old.length % page_size_ != 0;
  const bool copy = writes_inside && references_[size_t(old.pages.back())] > 1;
  if (size_t(wanted) - old.pages.size() + size_t(copy) > free_.size()) return false;
  Entry& e = entries_[size_t(sequence)];
  e.pages.reserve(size_t(wanted));  // what can fail comes first
  if (copy) {
    copies.reserve(copies.size() + 1);
    const int32_t from = e.pages.back(), to = take();
    copies.push_back({from, to});
    drop(from);
    e.pages.back() = to;
  }
  while (e.pages.size() < size_t(wanted)) e.pages.push_back(take());
  e.length += count;
  return true;
}

int PageTable::length(Sequence sequence) const { return entry(sequence).length; }
const std::vector<int32_t>& PageTable::pages(Sequence sequence) const { return entry(sequence).pages; }

PageStats PageTable::stats() const {
  return {.total = int(references_.size()), .used = used_, .free = int(free_.size()), .shared = shared_};
}

std::vector<int32_t> PageTable::take_freed() {
  std::vector<int32_t> pages;
  for (size_t page = 0; page < dirty_.size(); ++page) {
    if (!dirty_[page]) continue;
    pages.push_back(int32_t(page));
    dirty_[page] = false;
  }
  return pages;
}

}  // namespace bumblebee::engine
