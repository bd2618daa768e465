// What bind() copies: every array where the view says it is, and small batches all laid out alike.
#include "backend/cuda/batch_region.h"

#include <gtest/gtest.h>

#include <cstring>

namespace bumblebee::cuda {
namespace {

/// Two sequences over three pages, padded, with choices.
Batch some_batch() {
  Batch batch;
  batch.append(std::vector<int32_t>{5, 6, 7}, 15, std::vector<int32_t>{2, 0}, Batch::Want::last, 3);
  batch.append(std::vector<int32_t>{Batch::chosen(0)}, 4, std::vector<int32_t>{1}, Batch::Want::last);
  batch.segments.back().stretched = true;
  batch.pad(8, 4);
  batch.sample.resize(4);
  batch.sample[1] = {.mode = SampleRow::Mode::draw, .top_k = 7, .temperature = 0.5, .seed = 9, .changes = 1};
  batch.changes = {{.token = 11, .add = 2}};
  return batch;
}

struct Filled {
  explicit Filled(const Batch& batch, std::vector<StateView> kept = {})
      : layout(plan_region(batch)), bytes(layout.bytes), states(std::move(kept)) {
    for (const int32_t page : batch.pages) pages.push_back(reinterpret_cast<const uint8_t*>(uintptr_t(1000 + page)));
    fill_region(batch, layout, pages, states, bytes);
    view = view_region(batch, layout, bytes.data(), nullptr);
  }
  RegionLayout layout;
  std::vector<std::byte> bytes;
  std::vector<const uint8_t*> pages;
  std::vector<StateView> states;
  BatchView view;
};

TEST(BatchRegion, HoldsTheBatch) {
  const Batch batch = some_batch();
  const Filled filled(batch);
  const BatchView& view = filled.view;
  ASSERT_EQ(view.rows, 8);
  ASSERT_EQ(view.logit_row_count, 4);
  for (int r = 0; r < 8; ++r) {
    EXPECT_EQ(view.tokens[r], batch.tokens[size_t(r)]);
    EXPECT_EQ(view.positions[r], batch.positions[size_t(r)]);
    EXPECT_EQ(view.slot[r], batch.slot[size_t(r)]);
  }
  const int cached[] = {15, 16, 17, 4, -1, -1, -1, -1}, first[] = {0, 0, 0, 2};
  for (int r = 0; r < 8; ++r) EXPECT_EQ(view.cached[r], cached[r]) << r;
  for (int r = 0; r < 4; ++r) EXPECT_EQ(view.first_page[r], first[r]) << r;
  for (int r = 0; r < 8; ++r) EXPECT_EQ(view.stretched[r], r == 3 ? 1 : 0) << r;
  EXPECT_EQ(view.pages[0], filled.pages[0]);
  EXPECT_EQ(view.pages[2], filled.pages[2]);
  EXPECT_EQ(view.logit_rows[1], 3);
  EXPECT_EQ(view.sample[1].top_k, 7);
  EXPECT_EQ(view.sample[1].temperature, 0.5f);
  EXPECT_EQ(view.sample[1].mode, 2);
  ChangeView change;
  std::memcpy(&change, filled.bytes.data() + view.header->changes_at, sizeof(change));
  EXPECT_EQ(change.token, 11);
  EXPECT_EQ(change.add, 2.0f);
}

TEST(BatchRegion, SmallBatchesAreLaidOutAlike) {
  Batch one;
  one.append(std::vector<int32_t>{1}, 0, std::vector<int32_t>{0}, Batch::Want::last);
  Batch many;
  std::vector<int32_t> pages(40);
  many.append(std::vector<int32_t>(kRecordedRows, 1), 2000, pages, Batch::Want::all);
  const RegionLayout a = plan_region(one), b = plan_region(many), c = plan_region(some_batch());
  for (const RegionLayout* other : {&b, &c}) {
    EXPECT_EQ(a.tokens, other->tokens);
    EXPECT_EQ(a.positions, other->positions);
    EXPECT_EQ(a.slot, other->slot);
    EXPECT_EQ(a.cached, other->cached);
    EXPECT_EQ(a.first_page, other->first_page);
    EXPECT_EQ(a.stretched, other->stretched);
    EXPECT_EQ(a.logit_rows, other->logit_rows);
    EXPECT_EQ(a.sample, other->sample);
    EXPECT_EQ(a.states, other->states);
    EXPECT_EQ(a.pages, other->pages);
  }
}

TEST(BatchRegion, LargeBatchesNameTheirSegments) {
  Batch batch;
  batch.append(std::vector<int32_t>{1}, 9, std::vector<int32_t>{2}, Batch::Want::last);
  batch.append(std::vector<int32_t>(40, 1), 20, std::vector<int32_t>{0, 1, 5, 6}, Batch::Want::last);
  batch.append(std::vector<int32_t>{1}, 3, std::vector<int32_t>{3}, Batch::Want::last);
  batch.append(std::vector<int32_t>{1, 2}, 0, std::vector<int32_t>{4}, Batch::Want::last);
  batch.pad(48, 4);
  const Filled filled(batch);
  const BatchView& view = filled.view;
  ASSERT_EQ(view.segment_count, 2);
  EXPECT_EQ(view.segments[0].first, 1);
  EXPECT_EQ(view.segments[0].rows, 40);
  EXPECT_EQ(view.segments[0].past, 20);
  EXPECT_EQ(view.segments[0].first_page, 1);
  EXPECT_EQ(view.segments[1].first, 42);
  EXPECT_EQ(view.segments[1].first_page, 6);
  ASSERT_EQ(view.lone_row_count, 2);
  EXPECT_EQ(view.lone_rows[0], 0);
  EXPECT_EQ(view.lone_rows[1], 41);
  EXPECT_EQ(Filled(some_batch()).view.segment_count, 0) << "rows of small batches are all alike";
}

/// Replayed steps keep their grids: what differs from batch to batch is in the header.
TEST(BatchRegion, NamesTheStatesOfSegments) {
  float kept[2] = {};
  const std::vector<StateView> states = {{.from = kept, .to = kept + 1, .first = 0, .rows = 3},
                                         {.from = nullptr, .to = kept, .first = 3, .rows = 1}};
  const Filled small(some_batch(), states);
  EXPECT_EQ(small.view.header->state_count, 2);
  EXPECT_EQ(small.view.header->covered_rows, 4);
  EXPECT_EQ(small.view.state_slots, 8) << "as many as rows, whatever the batch";
  EXPECT_EQ(small.view.longest_segment, 8);
  EXPECT_EQ(small.view.states[0].from, kept);
  EXPECT_EQ(small.view.states[0].to, kept + 1);
  EXPECT_EQ(small.view.states[1].from, nullptr);
  EXPECT_EQ(small.view.states[1].first, 3);
  EXPECT_EQ(Filled(some_batch()).view.header->state_count, 0);

  Batch large;
  large.append(std::vector<int32_t>(40, 1), 0, std::vector<int32_t>{0, 1, 2}, Batch::Want::last);
  large.append(std::vector<int32_t>{1}, 3, std::vector<int32_t>{3}, Batch::Want::last);
  large.pad(48, 4);
  const Filled filled(large, states);
  EXPECT_EQ(filled.view.state_slots, 9);
  EXPECT_EQ(filled.view.longest_segment, 40);
  EXPECT_EQ(filled.view.header->covered_rows, 41);
}

TEST(BatchRegion, NobodyAsksWithoutChoices) {
  Batch batch = some_batch();
  batch.sample.clear();
  EXPECT_EQ(Filled(batch).view.sample, nullptr);
}

TEST(Buckets, AreAtLeastTheRowsAndFew) {
  for (int rows = 1; rows <= 100; ++rows) {
    for (const bool alone : {false, true}) {
      EXPECT_GE(bucket_of(rows, alone), rows);
      EXPECT_EQ(bucket_of(bucket_of(rows, alone), alone), bucket_of(rows, alone));
    }
    EXPECT_TRUE(rows <= kRecordedRows || bucket_of(rows, false) == rows) << rows;
    EXPECT_TRUE(rows <= kRecordedAlone || bucket_of(rows, true) == rows) << rows;
  }
  EXPECT_EQ(bucket_of(1, false), 1);
  EXPECT_EQ(bucket_of(3, true), 4);
  EXPECT_EQ(bucket_of(17, false), 24);
  EXPECT_EQ(bucket_of(33, true), 64);
}

}  // namespace
}  // namespace bumblebee::cuda
