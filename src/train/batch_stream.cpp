// Groups rows into batches once, shuffles the batches anew for each epoch.
#include "train/batch_stream.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "base/error.h"
#include "dataset/shuffle.h"

namespace bumblebee::train {
namespace {

std::vector<int64_t> by_length(const dataset::Dataset& data) {
  std::vector<int64_t> order(size_t(data.size()));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&data](int64_t a, int64_t b) {
    return data.rows[size_t(a)].tokens.size() < data.rows[size_t(b)].tokens.size();
  });
  return order;
}

std::vector<std::vector<int64_t>> groups_by_length(const dataset::Dataset& data, int batch_size) {
  const std::vector<int64_t> order = by_length(data);
  std::vector<std::vector<int64_t>> groups;
  for (size_t first = 0; first < order.size(); first += size_t(batch_size)) {
    const size_t end = std::min(order.size(), first + size_t(batch_size));
    groups.emplace_back(order.begin() + ptrdiff_t(first), order.begin() + ptrdiff_t(end));
  }
  return groups;
}

/// Best fit, longest row first: each goes where the least room is left over.
std::vector<std::vector<int64_t>> packs_of(const dataset::Dataset& data, int64_t room) {
  std::vector<int64_t> order = by_length(data);
  std::reverse(order.begin(), order.end());
  std::vector<std::vector<int64_t>> packs;
  std::multimap<int64_t, size_t> open;  // room left -> pack
  for (const int64_t row : order) {
    const auto need = int64_t(data.rows[size_t(row)].tokens.size());
    auto best = open.lower_bound(need);
    const size_t pack = best == open.end() ? packs.size() : best->second;
    int64_t left = room;
    if (best == open.end()) {
      packs.emplace_back();
    } else {
      left = best->first;
      open.erase(best);
    }
    packs[pack].push_back(row);
    open.emplace(left - need, pack);
  }
  return packs;
}

std::vector<std::vector<int64_t>> groups_packed(const dataset::Dataset& data, const BatchOptions& options) {
  std::vector<std::vector<int64_t>> packs = packs_of(data, options.max_seq_length);
  // The first packs hold the longest rows: without a shuffle, batches would differ in what they are about.
  dataset::shuffle(packs, options.seed, 0, dataset::ShuffleOf::packs);
  std::vector<std::vector<int64_t>> groups;
  for (size_t i = 0; i < packs.size(); ++i) {
    if (i % size_t(options.batch_size) == 0) groups.emplace_back();
    groups.back().insert(groups.back().end(), packs[i].begin(), packs[i].end());
  }
  return groups;
}

void append(TrainBatch& batch, const dataset::DataRow& row, int64_t index) {
  const auto rows = int(row.tokens.size()) - 1;
  batch.segments.push_back({.first = batch.rows(), .rows = rows});
  batch.rows_of_dataset.push_back(index);
  for (int i = 0; i < rows; ++i) {
    const bool scored = i + 1 >= row.first_scored;
    batch.tokens.push_back(row.tokens[size_t(i)]);
    batch.positions.push_back(i);
    batch.targets.push_back(scored ? row.tokens[size_t(i) + 1] : -1);
    batch.scored += scored ? 1 : 0;
  }
}

int64_t activations(const dataset::Dataset& data, const std::vector<int64_t>& group) {
  int64_t sum = 0;
  for (const int64_t row : group) sum += int64_t(data.rows[size_t(row)].tokens.size()) - 1;
  return sum;
}

}  // namespace

BatchStream::BatchStream(const dataset::Dataset& data, const BatchOptions& options) : data_(&data), options_(options) {
  if (options.batch_size < 1)
    throw Error(ErrorCode::bad_config, "batch_size", cat("expected at least 1, got ", options.batch_size));
  if (data.empty()) throw Error(ErrorCode::bad_config, data.name, "expected rows, got none");
  if (!options.packed && !options.short_data && data.size() < options.batch_size) {
    throw Error(ErrorCode::bad_config, data.name,
                cat("expected at least batch_size = ", options.batch_size, " rows, got ", data.size()));
  }
  groups_ = options.packed ? groups_packed(data, options) : groups_by_length(data, options.batch_size);
  shuffle();
}

void BatchStream::shuffle() {
  order_.resize(groups_.size());
  std::iota(order_.begin(), order_.end(), 0u);
  dataset::shuffle(order_, options_.seed, cursor_.epoch, dataset::ShuffleOf::batches);
}

TrainBatch BatchStream::next() {
  TrainBatch batch;
  for (const int64_t row : groups_[order_[size_t(cursor_.batch)]]) append(batch, data_->rows[size_t(row)], row);
  if (++cursor_.batch == groups_.size()) seek({cursor_.epoch + 1, 0});
  return batch;
}

void BatchStream::seek(Cursor cursor) {
  if (cursor.batch >= groups_.size()) {
    throw Error(ErrorCode::bad_file, data_->name,
                cat("the place to go on from: expected a batch below ", groups_.size(), ", got ", cursor.batch));
  }
  const bool other = cursor.epoch != cursor_.epoch;
  cursor_ = cursor;
  if (other) shuffle();
}

int64_t BatchStream::largest_batch() const {
  int64_t largest = 0;
  for (const std::vector<int64_t>& group : groups_) largest = std::max(largest, activations(*data_, group));
  return largest;
}

int64_t BatchStream::rows_per_epoch() const {
  int64_t sum = 0;
  for (const std::vector<int64_t>& group : groups_) sum += activations(*data_, group);
  return sum;
}

}  // namespace bumblebee::train
