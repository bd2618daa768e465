// Building batches, and the check that stands between a wrong page table and another user's text.
#include "backend/batch.h"

#include <gtest/gtest.h>

namespace bumblebee {
namespace {

Batch two_segments() {
  Batch batch;
  batch.append(std::vector<int32_t>{5, 6, 7}, 15, std::vector<int32_t>{3, 1}, Batch::Want::last);
  batch.append(std::vector<int32_t>{8}, 0, std::vector<int32_t>{0}, Batch::Want::all, 2);
  return batch;
}

TEST(Batch, AppendFillsEveryArray) {
  const Batch batch = two_segments();
  EXPECT_EQ(batch.rows(), 4);
  EXPECT_EQ(batch.tokens, (std::vector<int32_t>{5, 6, 7, 8}));
  EXPECT_EQ(batch.positions, (std::vector<int32_t>{15, 16, 17, 0}));
  EXPECT_EQ(batch.slot, (std::vector<int32_t>{-1, -1, -1, 2}));
  EXPECT_EQ(batch.logit_rows, (std::vector<int32_t>{2, 3}));
  EXPECT_EQ(batch.pages, (std::vector<int32_t>{3, 1, 0}));
  ASSERT_EQ(batch.segments.size(), 2u);
  EXPECT_EQ(batch.segments[1].first, 3);
  EXPECT_EQ(batch.segments[1].first_page, 2);
  EXPECT_EQ(batch.segments[0].past, 15);
}

TEST(Batch, KeepsItsLogitRowsAlone) {
  Batch batch = two_segments();
  batch.append(std::vector<int32_t>{1, 2}, 4, std::vector<int32_t>{2}, Batch::Want::none);
  batch.append(std::vector<int32_t>{3, 4, 5}, 20, std::vector<int32_t>{4, 5}, Batch::Want::last, 7);
  batch.pad(16, 5);
  batch.keep_logit_rows();
  EXPECT_EQ(batch.rows(), 5);
  EXPECT_EQ(batch.padding, 2);
  EXPECT_EQ(batch.tokens, (std::vector<int32_t>{7, 8, 5, 5, 5}));
  EXPECT_EQ(batch.positions, (std::vector<int32_t>{17, 0, 22, 22, 22}));
  EXPECT_EQ(batch.slot, (std::vector<int32_t>{-1, 2, 7, 7, 7}));
  EXPECT_EQ(batch.logit_rows, (std::vector<int32_t>{0, 1, 2, 2, 2}));
  Batch silent_last = two_segments();
  silent_last.append(std::vector<int32_t>{1, 2, 3, 4}, 4, std::vector<int32_t>{2}, Batch::Want::none);
  silent_last.pad(16, 5);
  silent_last.keep_logit_rows();
  EXPECT_EQ(silent_last.segments.size(), 2u) << "padding is nobody's";
  EXPECT_EQ(silent_last.padding, 3);

  ASSERT_EQ(batch.segments.size(), 3u);
  EXPECT_EQ(batch.segments[0].past, 17);
  EXPECT_EQ(batch.segments[2].first, 2);
  EXPECT_EQ(batch.segments[2].rows, 1);
  EXPECT_EQ(batch.segments[2].past, 22);
  EXPECT_EQ(batch.segments[2].first_page, 4);
  check(batch, 16, 6);
}

TEST(Batch, KnowsWhetherAnyRowHasAnAdapter) {
  EXPECT_TRUE(two_segments().has_adapters());
  Batch batch;
  EXPECT_FALSE(batch.has_adapters());
  batch.append(std::vector<int32_t>{1, 2}, 0, std::vector<int32_t>{0}, Batch::Want::none);
  EXPECT_FALSE(batch.has_adapters());
  EXPECT_TRUE(batch.logit_rows.empty());
}

TEST(BatchCheck, AcceptsWhatAppendMakes) {
  check(two_segments(), 16, 4);
  check(Batch(), 16, 4);
  EXPECT_EQ(two_segments().rows(), 4);
}

TEST(BatchCheckDeathTest, RefusesContradictions) {
  const auto broken = [](auto change, const char* message) {
    Batch batch = two_segments();
    change(batch);
    EXPECT_DEATH(check(batch, 16, 4), message);
  };
  broken([](Batch& b) { b.positions.pop_back(); }, "positions.size");
  broken([](Batch& b) { b.slot.push_back(0); }, "slot.size");
  broken([](Batch& b) { b.padding = 1; }, "segments cover 4 of 4 rows");
  broken([](Batch& b) { b.pages[0] = 4; }, "page 4 of 4");
  broken([](Batch& b) { b.pages[2] = -1; }, "page -1 of 4");
  broken([](Batch& b) { b.pages.pop_back(); }, "segment 1");       // the second segment has no page
  broken([](Batch& b) { b.segments[0].past = 48; }, "segment 0");  // needs a fourth page, and there are three
  broken([](Batch& b) { b.segments[1].first = 2; }, "segment 1");
  broken([](Batch& b) { b.segments.pop_back(); }, "segments cover 3 of 4 rows");
  broken([](Batch& b) { b.segments[0].past = -1; }, "segment 0");
  broken([](Batch& b) { b.segments[1].first_page = -1; }, "segment 1");
  broken([](Batch& b) { b.logit_rows.push_back(4); }, "logit row 4");
  broken([](Batch& b) { b.logit_rows[0] = -1; }, "logit row -1");
  const auto broken_choice = [&](auto change, const char* message) {
    broken(
        [&](Batch& b) {
          b.sample.assign(b.logit_rows.size(), {.mode = SampleRow::Mode::draw, .first_change = 0, .changes = 2});
          b.changes = {{.token = 1}, {.token = 8}};
          change(b);
        },
        message);
  };
  broken_choice([](Batch& b) { b.sample.pop_back(); }, "choices for");
  broken_choice([](Batch& b) { b.sample[0].temperature = 0; }, "temperature 0");
  broken_choice([](Batch& b) { b.sample[0].first_change = 1; }, "changes 1\\+2 of 2");
  broken_choice([](Batch& b) { b.changes[1].token = 1; }, "change of token 1 after 1");
}

TEST(BatchCheckDeathTest, RefusesChoicesOutsideTheVocabulary) {
  Batch batch = two_segments();
  batch.sample.assign(2, {.mode = SampleRow::Mode::greedy, .forced = 8});
  batch.changes = {{.token = 8}};
  check_choices(batch, 9);
  EXPECT_DEATH(check_choices(batch, 8), "forced 8 of 8");
  batch.sample[0].forced = batch.sample[1].forced = -1;
  EXPECT_DEATH(check_choices(batch, 8), "change of token 8 of 8");
}

TEST(Batch, PaddingBelongsToNobody) {
  Batch batch = two_segments();
  batch.sample.assign(2, {.mode = SampleRow::Mode::greedy});
  batch.pad(8, 4);
  check(batch, 16, 4);
  EXPECT_EQ(batch.rows(), 8);
  EXPECT_EQ(batch.padding, 4);
  EXPECT_EQ(batch.logit_rows, (std::vector<int32_t>{2, 3, 3, 3}));
  EXPECT_EQ(batch.slot.back(), -1);
  ASSERT_EQ(batch.sample.size(), 4u);
  EXPECT_EQ(batch.sample[2].mode, SampleRow::Mode::none);
}

TEST(Batch, TokensOfTheStepBeforeAreFilledIn) {
  Batch batch = two_segments();
  batch.tokens = {5, Batch::chosen(1), 7, Batch::chosen(0)};
  batch.resolve_chosen(std::vector<int32_t>{40, 41});
  EXPECT_EQ(batch.tokens, (std::vector<int32_t>{5, 41, 7, 40}));
  batch.tokens[0] = Batch::chosen(2);
  EXPECT_DEATH(batch.resolve_chosen(std::vector<int32_t>{40, -1}), "row 2 of the step before chose no token");
}

}  // namespace
}  // namespace bumblebee
