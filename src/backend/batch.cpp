// Building and checking batches, and reading what they computed.
#include "backend/batch.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "backend/stream.h"
#include "base/error.h"

namespace bumblebee {

bool Batch::has_adapters() const {
  return std::any_of(slot.begin(), slot.end(), [](int32_t s) { return s >= 0; });
}

std::vector<bool> Batch::stretched_rows() const {
  std::vector<bool> stretched(tokens.size(), false);
  for (const Segment& s : segments) std::fill_n(stretched.begin() + s.first, s.rows, s.stretched);
  return stretched;
}

void Batch::append(std::span<const int32_t> tokens_in, int past, std::span<const int32_t> pages_in, Want want,
                   int32_t slot_in, StateSlots state) {
  BB_CHECK(padding == 0);
  const int count = int(tokens_in.size());
  const int first = rows();
  segments.push_back({first, count, past, int(pages.size()), state});
  pages.insert(pages.end(), pages_in.begin(), pages_in.end());
  for (int i = 0; i < count; ++i) {
    tokens.push_back(tokens_in[size_t(i)]);
    positions.push_back(past + i);
    slot.push_back(slot_in);
    if (want == Want::all || (want == Want::last && i == count - 1)) logit_rows.push_back(first + i);
  }
}

bool Batch::rows_are_alone() const {
  return std::all_of(segments.begin(), segments.end(), [](const Segment& s) { return s.rows == 1; });
}

void Batch::pad(int rows_in, int logit_rows_in) {
  BB_CHECK(rows_in >= rows() && size_t(logit_rows_in) >= logit_rows.size() && padding == 0, "rows ", rows_in, " of ",
           rows());
  padding = rows_in - rows();
  tokens.resize(size_t(rows_in), 0);
  positions.resize(size_t(rows_in), 0);
  slot.resize(size_t(rows_in), -1);
  if (!logit_rows.empty()) logit_rows.resize(size_t(logit_rows_in), logit_rows.back());
  if (!sample.empty()) sample.resize(size_t(logit_rows_in));
}

void Batch::keep_logit_rows() {
  std::vector<Segment> kept;
  size_t at = 0;  // in logit_rows
  for (Segment segment : segments) {
    const size_t begin = at;
    const int end = segment.first + segment.rows;
    while (at < logit_rows.size() && logit_rows[at] >= segment.first && logit_rows[at] < end &&
           (at == begin || logit_rows[at] > logit_rows[at - 1]))
      ++at;
    const int count = int(at - begin);
    if (count == 0) continue;
    BB_CHECK(logit_rows[begin] == end - count, "logit row ", logit_rows[begin], " of ", count, " before row ", end);
    segment.past += segment.rows - count;
    segment.first = int(begin);
    segment.rows = count;
    kept.push_back(segment);
  }
  const auto keep = [&](std::vector<int32_t>& of_rows) {
    std::vector<int32_t> values;
    values.reserve(logit_rows.size());
    for (const int32_t row : logit_rows) values.push_back(of_rows[size_t(row)]);
    of_rows = std::move(values);
  };
  keep(tokens);
  keep(positions);
  keep(slot);
  segments = std::move(kept);
  padding = int(logit_rows.size() - at);
  for (size_t i = 0; i < logit_rows.size(); ++i) logit_rows[i] = int32_t(std::min(i, at - 1));
}

void Batch::resolve_chosen(std::span<const int32_t> ids) {
  for (int32_t& token : tokens) {
    if (token >= 0) continue;
    const size_t row = size_t(-1 - token);
    BB_CHECK(row < ids.size() && ids[row] >= 0, "row ", row, " of the step before chose no token");
    token = ids[row];
  }
}

int Batch::most_logprobs() const {
  int most = -1;
  for (const SampleRow& row : sample) {
    if (row.mode != SampleRow::Mode::none && row.logprob) most = std::max(most, row.top_logprobs);
  }
  return most;
}

namespace {

void check_samples(const Batch& batch) {
  BB_CHECK(batch.sample.empty() || batch.sample.size() == batch.logit_rows.size(), batch.sample.size(), " choices for ",
           batch.logit_rows.size(), " logit rows");
  for (const SampleRow& row : batch.sample) {
    BB_CHECK(float(row.temperature) > 0, "temperature ", row.temperature);
    BB_CHECK(row.first_change >= 0 && row.changes >= 0 &&
                 size_t(row.first_change) + size_t(row.changes) <= batch.changes.size(),
             "changes ", row.first_change, "+", row.changes, " of ", batch.changes.size());
    int32_t above = -1;
    for (int i = row.first_change; i < row.first_change + row.changes; ++i) {
      const int32_t token = batch.changes[size_t(i)].token;
      BB_CHECK(token > above, "change of token ", token, " after ", above);
      above = token;
    }
  }
}

void check_states(const Batch& batch, int states) {
  std::vector<int> writers(size_t(states), 0);
  for (const Segment& segment : batch.segments) {
    const auto [from, to] = segment.state;
    BB_CHECK(to >= 0 && to < states && from < states && (segment.past == 0) == (from < 0), "states ", from, " and ", to,
             " of ", states, " after ", segment.past);
    BB_CHECK(++writers[size_t(to)] == 1, "state ", to, " is written twice");
  }
  for (const Segment& segment : batch.segments) {
    const auto [from, to] = segment.state;
    BB_CHECK(from < 0 || from == to || writers[size_t(from)] == 0, "state ", from, " is read and written");
  }
}

}  // namespace

void check(const Batch& batch, int page_size, int page_count, int states) {
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
  BB_CHECK(size_t(next + batch.padding) == rows, "segments cover ", next, " of ", rows, " rows");
  for (int32_t page : batch.pages) BB_CHECK(page >= 0 && page < page_count, "page ", page, " of ", page_count);
  for (int32_t row : batch.logit_rows)
    BB_CHECK(row >= 0 && size_t(row) < rows - size_t(batch.padding), "logit row ", row);
  check_samples(batch);
  if (states > 0) check_states(batch, states);
}

void check_choices(const Batch& batch, int vocab) {
  for (const SampleRow& row : batch.sample) BB_CHECK(row.forced < vocab, "forced ", row.forced, " of ", vocab);
  for (const LogitChange& change : batch.changes)
    BB_CHECK(change.token < vocab, "change of token ", change.token, " of ", vocab);
}

void read_floats(Pending& pending, std::span<float> values) {
  pending.wait();
  const std::span<const std::byte> bytes = pending.bytes();
  BB_CHECK(bytes.size() == values.size() * size_t(size_of(pending.dtype())), "bytes ", bytes.size());
  if (pending.dtype() == DType::f32) {
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return;
  }
  BB_CHECK(pending.dtype() == DType::f64, to_string(pending.dtype()));
  for (size_t i = 0; i < values.size(); ++i) {
    double value;
    std::memcpy(&value, bytes.data() + i * sizeof(double), sizeof(double));
    values[i] = float(value);
  }
}

}  // namespace bumblebee
