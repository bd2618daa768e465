// One step of computation as plain arrays: which tokens, where they continue, which adapter each row uses. No policy
// here: the scheduler chose, the backend uploads. Whatever changes from step to step is in here and never an argument
// of a kernel.
#pragma once

#include <cstdint>
#include <vector>

namespace bumblebee {

/// `rows` consecutive rows of the batch continue one sequence that has `past` tokens in the cache already. The
/// sequence's pages, in order, are pages[first_page .. first_page + ceil((past + rows) / page_size)).
struct Segment {
  int first = 0, rows = 0, past = 0;
  int first_page = 0;
};

struct Batch {
  std::vector<int32_t> tokens, positions;  // [rows]
  std::vector<int32_t> slot;               // [rows] adapter slot, -1 for none
  std::vector<Segment> segments;           // cover all rows, in order
  std::vector<int32_t> wanted;             // rows whose predictions are needed, ascending
  std::vector<int32_t> pages;              // page tables of all segments, one after the other

  int rows() const { return int(tokens.size()); }
  bool has_adapters() const;
  /// Appends a segment of `tokens` after `past` cached ones; `pages` are all of the sequence's pages. Wants its last
  /// row, or all.
  enum class Want : uint8_t { none, last, all };
  void append(const std::vector<int32_t>& tokens_in, int past, const std::vector<int32_t>& pages_in, Want want,
              int32_t slot_in = -1);
};

/// Aborts (BB_CHECK) when the arrays contradict each other; backends call it in bind().
void check(const Batch& batch, int page_size, int page_count, int vocab);

}  // namespace bumblebee
