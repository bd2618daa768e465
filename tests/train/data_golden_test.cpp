// Rows and batches beside mlx-lm's (tools/goldens/train_data.py): ids, masks, which rows share a batch, what is scored.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>

#include "base/error.h"
#include "dataset/row_encoder.h"
#include "tests/dataset/data_tokenizer.h"
#include "train/batch_stream.h"

namespace bumblebee::train {
namespace {

using namespace dataset;

OrderedJson golden() {
  return parse_ordered_json(read_text_file(BB_TEST_DATA "/goldens/train_data.json", 1 << 20), "train_data.json");
}

DataFormat format_named(const std::string& kind) {
  return kind == "ChatDataset"          ? DataFormat::chat
         : kind == "CompletionsDataset" ? DataFormat::completions
                                        : DataFormat::text;
}

TEST(DataGolden, IdsAndMasksAreMlxLms) {
  const txt::Tokenizer tokenizer = testing::thinking_tokenizer();
  const OrderedJson all = golden();
  int rows = 0, thoughts = 0;
  for (const OrderedJson& want : all["rows"]) {
    const auto name = want["template"].get<std::string>();
    SCOPED_TRACE(name + " " + want["kind"].get<std::string>() + " " + want["index"].dump() + " " + want["mask"].dump());
    TrainData data;
    data.mask_prompt = want["mask"].get<bool>();
    const txt::ChatTemplate chat = testing::template_named(name, tokenizer);
    const RowEncoder encoder(data, tokenizer, &chat);
    const DataFormat format = encoder.detect(want["row"], "row");
    EXPECT_EQ(format, format_named(want["kind"].get<std::string>()));
    const DataRow got = encoder.encode(want["row"], format, "row");
    EXPECT_EQ(got.tokens, want["tokens"].get<std::vector<int32_t>>());
    EXPECT_EQ(got.first_scored, want["first_scored"].get<int32_t>());
    ++rows;
    thoughts += want["first_scored"].get<int>() > std::max(1, want["offset"].get<int>()) ? 1 : 0;
  }
  EXPECT_GE(rows, 30);
  EXPECT_GE(thoughts, 5) << "empty thoughts before an answer belong to the prompt";
}

TEST(DataGolden, BatchesHoldTheSameRowsAndScoreTheSameTokens) {
  const OrderedJson all = golden();
  const OrderedJson& want = all["batches"];
  Dataset data;
  data.name = "train";
  for (size_t i = 0; i < want["lengths"].size(); ++i) {
    DataRow row;
    for (int k = 0; k < want["lengths"][i].get<int>(); ++k) row.tokens.push_back(int32_t(100 * i) + k);
    row.first_scored = std::max(1, want["offsets"][i].get<int>());
    data.rows.push_back(std::move(row));
  }
  BatchStream stream(data, {.batch_size = want["batch_size"].get<int>()});
  ASSERT_EQ(stream.groups().size(), want["groups"].size());
  for (size_t g = 0; g < stream.groups().size(); ++g) {
    EXPECT_EQ(stream.groups()[g], want["groups"][g]["rows"].get<std::vector<int64_t>>()) << "batch " << g;
  }
  for (size_t i = 0; i < stream.groups().size(); ++i) {
    const TrainBatch batch = stream.next();
    std::vector<int32_t> targets;
    for (const int32_t target : batch.targets) {
      if (target >= 0) targets.push_back(target);
    }
    const auto same = std::find_if(want["groups"].begin(), want["groups"].end(), [&](const OrderedJson& group) {
      return group["rows"].get<std::vector<int64_t>>() == batch.rows_of_dataset;
    });
    ASSERT_NE(same, want["groups"].end());
    EXPECT_EQ(batch.scored, (*same)["scored"].get<int64_t>());
    EXPECT_EQ(targets, (*same)["targets"].get<std::vector<int32_t>>());
  }
}

}  // namespace
}  // namespace bumblebee::train
