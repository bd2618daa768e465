// Building and checking batches.
#include "backend/batch.h"

#include <algorithm>

#include "base/error.h"

namespace bumblebee {

bool Batch::has_adapters() const {
  return std::any_of(slot.begin(), slot.end(), [](int32_t s) { return s >= 0; });
}

void Batch::append(const std::vector<int32_t>& tokens_in, int past, const std::vector<int32_t>& pages_in, Want want,
                   int32_t slot_in) {
  const int count = int(tokens_in.size());
  const int first = rows();
  segments.push_back({first, count, past, int(pages.size())});
  pages.insert(pages.end(), pages_in.begin(), pages_in.end());
  for (int i = 0; i < count; ++i) {
    tokens.push_back(tokens_in[size_t(i)]);
    positions.push_back(past + i);
    slot.push_back(slot_in);
    if (want == Want::all || (want == Want::last && i == count - 1)) wanted.push_back(first + i);
  }
}

namespace {

void check_samples(const Batch& batch, int vocab) {
  BB_CHECK(batch.sample.empty() || batch.sample.size() == batch.wanted.size(), batch.sample.size(), " choices for ",
           batch.wanted.size(), " wanted rows");
  for (const SampleRow& row : batch.sample) {
    BB_CHECK(float(row.temperature) > 0 && row.forced < vocab, "temperature ", row.temperature, " forced ", row.forced);
    BB_CHECK(row.first_change >= 0 && row.changes >= 0 &&
                 size_t(row.first_change) + size_t(row.changes) <= batch.changes.size(),
             "changes ", row.first_change, "+", row.changes, " of ", batch.changes.size());
    int32_t above = -1;
    for (int i = row.first_change; i < row.first_change + row.changes; ++i) {
      const int32_t token = batch.changes[size_t(i)].token;
      BB_CHECK(token > above && token < vocab, "change of token ", token, " after ", above);
      above = token;
    }
  }
}

}  // namespace

void check(const Batch& batch, int page_size, int page_count, int vocab) {
  const size_t rows = batch.tokens.size();
  BB_CHECK(batch.positions.size() == rows && batch.slot.size() == rows);
  int next = 0;
  for (size_t s = 0; s < batch.segments.size(); ++s) {
    const Segment& segment = batch.segments[s];
    BB_CHECK(segment.first == next && segment.rows > 0 && segment.past >= 0, "segment ", s);
    const int needed = (segment.past + segment.rows + page_size - 1) / page_size;
    // A table may not run into the next one: its last pages would be another sequence's.
    const bool last = s + 1 == batch.segments.size();
    const size_t end = last ? batch.pages.size() : size_t(batch.segments[s + 1].first_page);
    BB_CHECK(segment.first_page >= 0 && size_t(segment.first_page) + size_t(needed) <= end, "segment ", s, " needs ",
             needed, " pages");
    next += segment.rows;
  }
  BB_CHECK(size_t(next) == rows, "segments cover ", next, " of ", rows, " rows");
  for (int32_t page : batch.pages) BB_CHECK(page >= 0 && page < page_count, "page ", page, " of ", page_count);
  for (int32_t token : batch.tokens) BB_CHECK(token >= 0 && token < vocab, "token ", token, " of ", vocab);
  for (int32_t row : batch.wanted) BB_CHECK(row >= 0 && size_t(row) < rows, "wanted ", row);
  check_samples(batch, vocab);
}

}  // namespace bumblebee
