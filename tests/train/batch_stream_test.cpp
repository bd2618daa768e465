// Which rows share a batch, exact borders, and an order that a cursor brings back.
#include "train/batch_stream.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "base/error.h"

namespace bumblebee::train {
namespace {

using namespace dataset;

/// Rows of the given lengths; the ids of row i begin at 1000·i.
Dataset data_of(const std::vector<int>& lengths) {
  Dataset data;
  data.name = "train";
  for (size_t i = 0; i < lengths.size(); ++i) {
    DataRow row;
    for (int k = 0; k < lengths[i]; ++k) row.tokens.push_back(int32_t(1000 * i) + k);
    row.line = int64_t(i) + 1;
    data.rows.push_back(std::move(row));
  }
  return data;
}

Dataset many() {
  std::vector<int> lengths;
  for (int i = 0; i < 103; ++i) lengths.push_back(2 + (i * 37) % 61);
  return data_of(lengths);
}

/// What every batch must be, wherever its rows came from.
void check(const TrainBatch& batch, const Dataset& data) {
  ASSERT_EQ(batch.positions.size(), batch.tokens.size());
  ASSERT_EQ(batch.targets.size(), batch.tokens.size());
  ASSERT_EQ(batch.segments.size(), batch.rows_of_dataset.size());
  int next = 0;
  int64_t scored = 0;
  for (size_t s = 0; s < batch.segments.size(); ++s) {
    const Segment& segment = batch.segments[s];
    const DataRow& row = data.rows[size_t(batch.rows_of_dataset[s])];
    EXPECT_EQ(segment.first, next);
    EXPECT_EQ(segment.past, 0);
    ASSERT_EQ(segment.rows, int(row.tokens.size()) - 1);
    for (int i = 0; i < segment.rows; ++i) {
      const auto at = size_t(segment.first + i);
      EXPECT_EQ(batch.tokens[at], row.tokens[size_t(i)]);
      EXPECT_EQ(batch.positions[at], i);
      const bool is_scored = i + 1 >= row.first_scored;
      EXPECT_EQ(batch.targets[at], is_scored ? row.tokens[size_t(i) + 1] : -1);
      scored += is_scored ? 1 : 0;
    }
    next += segment.rows;
  }
  EXPECT_EQ(next, batch.rows());
  EXPECT_EQ(batch.scored, scored);
  EXPECT_GT(batch.scored, 0);
}

void check_epochs(const Dataset& data, const BatchOptions& options) {
  BatchStream stream(data, options);
  for (uint64_t epoch = 0; epoch < 3; ++epoch) {
    std::multiset<int64_t> seen;
    for (int64_t i = 0; i < stream.batches_per_epoch(); ++i) {
      EXPECT_EQ(stream.cursor(), (Cursor{epoch, uint64_t(i)}));
      const TrainBatch batch = stream.next();
      check(batch, data);
      EXPECT_LE(batch.rows(), stream.largest_batch());
      seen.insert(batch.rows_of_dataset.begin(), batch.rows_of_dataset.end());
    }
    EXPECT_EQ(int64_t(seen.size()), data.size()) << "epoch " << epoch;
    EXPECT_EQ(int64_t(std::set(seen.begin(), seen.end()).size()), data.size());
  }
}

TEST(BatchStream, EveryEpochHasEveryRowOnce) {
  check_epochs(many(), {.batch_size = 4});
  check_epochs(many(), {.batch_size = 2, .max_seq_length = 64, .packed = true});
}

TEST(BatchStream, RowsOfABatchAreOfOneLengthAndTheRestIsABatchToo) {
  const Dataset data = many();
  const BatchStream stream(data, {.batch_size = 4});
  ASSERT_EQ(stream.groups().size(), 26u);
  EXPECT_EQ(stream.groups().back().size(), 3u) << "103 = 25·4 + 3";
  size_t last = 0;
  for (const std::vector<int64_t>& group : stream.groups()) {
    for (size_t i = 0; i < group.size(); ++i) {
      const size_t length = data.rows[size_t(group[i])].tokens.size();
      EXPECT_GE(length, last);
      if (i > 0 && length == last) {
        EXPECT_GT(group[i], group[i - 1]) << "ties keep their order";
      }
      last = length;
    }
  }
}

TEST(BatchStream, TheOrderIsOfTheSeedAndTheEpoch) {
  const Dataset data = many();
  const auto order = [&data](uint64_t seed, uint64_t epoch) {
    BatchStream stream(data, {.batch_size = 4, .seed = seed});
    stream.seek({epoch, 0});
    std::vector<int64_t> rows;
    for (int64_t i = 0; i < stream.batches_per_epoch(); ++i) rows.push_back(stream.next().rows_of_dataset[0]);
    return rows;
  };
  EXPECT_EQ(order(3, 0), order(3, 0));
  EXPECT_NE(order(3, 0), order(4, 0));
  EXPECT_NE(order(3, 0), order(3, 1));
  auto a = order(3, 0), b = order(3, 1);
  std::sort(a.begin(), a.end()), std::sort(b.begin(), b.end());
  EXPECT_EQ(a, b) << "the same batches in another order";
}

TEST(BatchStream, ACursorBringsTheSameBatchesBack) {
  const Dataset data = many();
  for (const bool packed : {false, true}) {
    const BatchOptions options = {.batch_size = 3, .max_seq_length = 64, .packed = packed, .seed = 9};
    BatchStream first(data, options), second(data, options);
    for (int i = 0; i < 50; ++i) first.next();
    second.seek(first.cursor());
    for (int i = 0; i < 80; ++i) {
      EXPECT_EQ(first.cursor(), second.cursor());
      EXPECT_EQ(first.next().tokens, second.next().tokens);
    }
    EXPECT_THROW(second.seek({0, uint64_t(second.batches_per_epoch())}), Error);
  }
}

TEST(BatchStream, PacksAreFullAndWithinTheirRoom) {
  const Dataset data = many();
  const BatchStream stream(data, {.batch_size = 1, .max_seq_length = 64, .packed = true});
  int64_t room = 0;
  for (const std::vector<int64_t>& group : stream.groups()) {
    int64_t tokens = 0;
    for (const int64_t row : group) tokens += int64_t(data.rows[size_t(row)].tokens.size());
    EXPECT_LE(tokens, 64);
    room += 64;
  }
  EXPECT_GT(double(data.tokens()) / double(room), 0.97) << "best fit leaves little over on many short rows";
  const BatchStream wide(data, {.batch_size = 4, .max_seq_length = 64, .packed = true});
  EXPECT_EQ(wide.groups().size(), (stream.groups().size() + 3) / 4);
}

TEST(BatchStream, TooFewRowsAreAnError) {
  const Dataset data = data_of({3, 4, 5});
  try {
    BatchStream(data, {.batch_size = 4});
    FAIL() << "3 rows are no batch of 4";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::bad_config);
    EXPECT_NE(std::string(error.what()).find("batch_size = 4 rows, got 3"), std::string::npos) << error.what();
  }
  EXPECT_EQ(BatchStream(data, {.batch_size = 4, .short_data = true}).batches_per_epoch(), 1);
  EXPECT_THROW(BatchStream(data_of({}), {.batch_size = 1, .short_data = true}), Error);
}

TEST(BatchStream, MasksLeaveTargetsOut) {
  Dataset data = data_of({6, 6});
  data.rows[0].first_scored = 4;
  BatchStream stream(data, {.batch_size = 2});
  const TrainBatch batch = stream.next();
  EXPECT_EQ(batch.targets, (std::vector<int32_t>{-1, -1, -1, 4, 5, 1001, 1002, 1003, 1004, 1005}));
  EXPECT_EQ(batch.scored, 7);
}

TEST(Dataset, TheHashKnowsIdsMasksAndBorders) {
  const Dataset one = data_of({3, 4});
  Dataset masked = one, joined = one;
  masked.rows[0].first_scored = 2;
  joined.rows[0].tokens.push_back(joined.rows[1].tokens[0]);
  joined.rows[1].tokens.erase(joined.rows[1].tokens.begin());
  EXPECT_EQ(one.hash(), data_of({3, 4}).hash());
  EXPECT_EQ(one.hash().size(), 64u);
  EXPECT_NE(one.hash(), masked.hash());
  EXPECT_NE(one.hash(), joined.hash());
}

}  // namespace
}  // namespace bumblebee::train
