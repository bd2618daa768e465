// A broken page table would answer one user with another's text: every misuse aborts.
#include "engine/page_table.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace bumblebee::engine {

PageTable::PageTable(int pages, int page_size)
    : page_size_(page_size), users_(size_t(pages), 0), cached_(size_t(pages), false), dirty_(size_t(pages), false) {
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
  for (int32_t page : to.pages) shared_ += ++users_[size_t(page)] == 2;
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
  BB_CHECK(users_[size_t(page)] == 0 && !cached_[size_t(page)], "page ", page, " is in use and free");
  users_[size_t(page)] = 1;
  dirty_count_ -= dirty_[size_t(page)];
  dirty_[size_t(page)] = false;
  ++used_;
  return page;
}

void PageTable::drop(int32_t page) {
  int& users = users_[size_t(page)];
  BB_CHECK(users > 0, "page ", page);
  shared_ -= users == 2;
  if (--users > 0) return;
  --used_;
  if (cached_[size_t(page)]) {
    ++cached_only_;
  } else {
    give_back(page);
  }
}

void PageTable::give_back(int32_t page) {
  dirty_count_ += !dirty_[size_t(page)];
  dirty_[size_t(page)] = true;
  free_.push_back(page);  // which has room for all pages
}

void PageTable::use(int32_t page) {
  int& users = users_[size_t(page)];
  BB_CHECK(users > 0 || cached_[size_t(page)], "page ", page, " is nobody's");
  ++users;
  if (users == 1) --cached_only_, ++used_;
  shared_ += users == 2;
}

void PageTable::retain(int32_t page) {
  BB_CHECK(users_[size_t(page)] > 0 && !cached_[size_t(page)], "page ", page, " users ", users_[size_t(page)]);
  cached_[size_t(page)] = true;
}

void PageTable::release(int32_t page) {
  BB_CHECK(cached_[size_t(page)], "page ", page);
  cached_[size_t(page)] = false;
  if (users_[size_t(page)] > 0) return;
  --cached_only_;
  give_back(page);
}

void PageTable::adopt(Sequence sequence, std::span<const int32_t> pages, int tokens) {
  BB_CHECK(entry(sequence).pages.empty() && int(pages.size()) == pages_for(tokens), "pages ", pages.size(), " tokens ",
           tokens);
  Entry& e = entries_[size_t(sequence)];
  e.pages.reserve(pages.size());  // what can fail comes first
  e.pages.assign(pages.begin(), pages.end());
  e.length = tokens;
  for (const int32_t page : pages) use(page);
}

void PageTable::exchange(Sequence sequence, int index, int32_t page) {
  BB_CHECK(index >= 0 && size_t(index) < entry(sequence).pages.size(), "index ", index);
  int32_t& mine = entries_[size_t(sequence)].pages[size_t(index)];
  use(page);
  drop(std::exchange(mine, page));
}

bool PageTable::copies_before_write(Sequence sequence) const {
  const Entry& e = entry(sequence);
  if (e.length % page_size_ == 0) return false;
  const size_t last = size_t(e.pages.back());
  return users_[last] > 1 || cached_[last];
}

bool PageTable::extend(Sequence sequence, int count, std::vector<PageCopy>& copies) {
  BB_CHECK(count >= 0, "count ", count);
  const Entry& old = entry(sequence);
  const int wanted = pages_for(int64_t(old.length) + count);
  const bool copy = count > 0 && copies_before_write(sequence);
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
  return {
      .total = int(users_.size()), .used = used_, .free = int(free_.size()), .cached = cached_only_, .shared = shared_};
}

std::vector<int32_t> PageTable::take_freed(int most) {
  std::vector<int32_t> pages;
  const size_t count = size_t(std::min(most, dirty_count_));
  pages.reserve(count);
  for (size_t page = 0; pages.size() < count; ++page) {
    if (!dirty_[page]) continue;
    --dirty_count_;
    pages.push_back(int32_t(page));
    dirty_[page] = false;
  }
  return pages;
}

}  // namespace bumblebee::engine
