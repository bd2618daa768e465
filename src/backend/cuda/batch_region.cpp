// Rows first, in the order of their alignment, then pages and changes, which have no fixed number. Batches that are not
// recorded also say which rows are of one sequence.
#include "backend/cuda/batch_region.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/error.h"

namespace bumblebee::cuda {
namespace {

constexpr std::array kBuckets = {1, 2, 4, 8, 16, 24, kRecordedRows};

template <class T>
std::span<T> array_at(std::span<std::byte> out, size_t at, size_t count) {
  BB_CHECK(at + count * sizeof(T) <= out.size(), "at ", at, " of ", out.size());
  return {reinterpret_cast<T*>(out.data() + at), count};
}

SampleView view_of(const SampleRow& row) {
  return {.top_p = row.top_p,
          .min_p = row.min_p,
          .seed = row.seed,
          .draw = row.draw,
          .temperature = float(row.temperature),
          .mode = int32_t(row.mode),
          .logprob = row.logprob ? 1 : 0,
          .top_logprobs = row.top_logprobs,
          .top_k = row.top_k,
          .forced = row.forced,
          .first_change = row.first_change,
          .changes = row.changes};
}

/// Whether attention looks at segments; a segment of one row is a row like those of small batches.
bool has_segments(const Batch& batch) { return batch.rows() > kRecordedRows; }
int segments_of_several_rows(const Batch& batch) {
  return int(std::ranges::count_if(batch.segments, [](const Segment& s) { return s.rows > 1; }));
}
int lone_rows(const Batch& batch) {
  return int(std::ranges::count_if(batch.segments, [](const Segment& s) { return s.rows == 1; }));
}

int longest_segment(const Batch& batch) {
  int longest = 0;
  for (const Segment& s : batch.segments) longest = std::max(longest, s.rows);
  return longest;
}

}  // namespace

int bucket_of(int rows, bool alone) {
  if (rows > kRecordedRows) return alone && rows <= kRecordedAlone ? kRecordedAlone : rows;
  return *std::lower_bound(kBuckets.begin(), kBuckets.end(), rows);
}

RegionLayout plan_region(const Batch& batch) {
  const size_t rows = size_t(std::max(batch.rows(), kRecordedRows));
  const size_t logit_rows = std::max(batch.logit_rows.size(), size_t(kRecordedRows));
  RegionLayout layout;
  size_t at = 0;
  const auto take = [&](size_t count, size_t size) {
    const size_t begin = at;
    at = (at + count * size + 15) / 16 * 16;
    return begin;
  };
  take(1, sizeof(RegionHeader));
  layout.sample = take(logit_rows, sizeof(SampleView));
  layout.tokens = take(rows, sizeof(int32_t));
  layout.positions = take(rows, sizeof(int32_t));
  layout.slot = take(rows, sizeof(int32_t));
  layout.cached = take(rows, sizeof(int32_t));
  layout.first_page = take(rows, sizeof(int32_t));
  layout.stretched = take(rows, sizeof(int32_t));
  layout.logit_rows = take(logit_rows, sizeof(int32_t));
  layout.states =
      take(std::max(batch.segments.size() + size_t(batch.padding), size_t(kRecordedRows)), sizeof(StateView));
  layout.pages = take(batch.pages.size(), sizeof(const uint8_t*));
  layout.changes = take(batch.changes.size(), sizeof(ChangeView));
  if (has_segments(batch)) {
    layout.segments = take(size_t(segments_of_several_rows(batch)), sizeof(SegmentView));
    layout.lone_rows = take(size_t(lone_rows(batch)), sizeof(int32_t));
  }
  layout.bytes = at;
  return layout;
}

void fill_region(const Batch& batch, const RegionLayout& layout, std::span<const uint8_t* const> pages,
                 std::span<const StateView> states, std::span<std::byte> out) {
  const size_t rows = size_t(batch.rows());
  BB_CHECK(states.empty() || states.size() == batch.segments.size(), "states ", states.size());
  array_at<RegionHeader>(out, 0, 1)[0] = {.changes_at = int64_t(layout.changes),
                                          .state_count = int32_t(states.size()),
                                          .covered_rows = batch.rows() - batch.padding};
  std::ranges::copy(states, array_at<StateView>(out, layout.states, states.size()).begin());
  std::ranges::copy(batch.tokens, array_at<int32_t>(out, layout.tokens, rows).begin());
  std::ranges::copy(batch.positions, array_at<int32_t>(out, layout.positions, rows).begin());
  std::ranges::copy(batch.slot, array_at<int32_t>(out, layout.slot, rows).begin());
  const auto cached = array_at<int32_t>(out, layout.cached, rows);
  const auto first_page = array_at<int32_t>(out, layout.first_page, rows);
  std::ranges::fill(cached, -1);
  std::ranges::fill(first_page, 0);
  const auto stretched = array_at<int32_t>(out, layout.stretched, rows);
  std::ranges::fill(stretched, 0);
  for (const Segment& segment : batch.segments) {
    for (int i = 0; i < segment.rows; ++i) {
      cached[size_t(segment.first + i)] = segment.past + i;
      first_page[size_t(segment.first + i)] = segment.first_page;
      stretched[size_t(segment.first + i)] = segment.stretched ? 1 : 0;
    }
  }
  std::ranges::copy(batch.logit_rows, array_at<int32_t>(out, layout.logit_rows, batch.logit_rows.size()).begin());
  std::ranges::transform(batch.sample, array_at<SampleView>(out, layout.sample, batch.sample.size()).begin(), view_of);
  std::ranges::copy(pages, array_at<const uint8_t*>(out, layout.pages, pages.size()).begin());
  std::ranges::transform(
      batch.changes, array_at<ChangeView>(out, layout.changes, batch.changes.size()).begin(), [](const LogitChange& c) {
        return ChangeView{.token = c.token, .add = c.add, .penalty = c.penalty, .subtract = c.subtract};
      });
  if (!has_segments(batch)) return;
  auto next = array_at<SegmentView>(out, layout.segments, size_t(segments_of_several_rows(batch))).begin();
  auto lone = array_at<int32_t>(out, layout.lone_rows, size_t(lone_rows(batch))).begin();
  for (const Segment& s : batch.segments) {
    if (s.rows > 1) *next++ = {.first = s.first, .rows = s.rows, .past = s.past, .first_page = s.first_page};
    if (s.rows == 1) *lone++ = s.first;
  }
}

BatchView view_region(const Batch& batch, const RegionLayout& layout, std::byte* base, const SlotTableView* slots) {
  const auto ints = [&](size_t at) { return reinterpret_cast<int32_t*>(base + at); };
  return {.header = reinterpret_cast<const RegionHeader*>(base),
          .slots = slots,
          .tokens = ints(layout.tokens),
          .positions = ints(layout.positions),
          .slot = ints(layout.slot),
          .cached = ints(layout.cached),
          .first_page = ints(layout.first_page),
          .stretched = ints(layout.stretched),
          .logit_rows = ints(layout.logit_rows),
          .sample = batch.sample.empty() ? nullptr : reinterpret_cast<const SampleView*>(base + layout.sample),
          .pages = reinterpret_cast<const uint8_t* const*>(base + layout.pages),
          .rows = batch.rows(),
          .logit_row_count = int32_t(batch.logit_rows.size()),
          .segments = reinterpret_cast<const SegmentView*>(base + layout.segments),
          .lone_rows = ints(layout.lone_rows),
          .segment_count = has_segments(batch) ? segments_of_several_rows(batch) : 0,
          .lone_row_count = has_segments(batch) ? lone_rows(batch) : 0,
          .alone = batch.rows_are_alone(),
          .states = reinterpret_cast<const StateView*>(base + layout.states),
          .state_slots = has_segments(batch) ? int32_t(batch.segments.size()) + batch.padding : batch.rows(),
          .longest_segment = has_segments(batch) ? longest_segment(batch) : batch.rows()};
}

}  // namespace bumblebee::cuda
