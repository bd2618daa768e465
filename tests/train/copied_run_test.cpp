// The longest run of words that a sample shares with what was learned.
#include "train/copied_run.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/random.h"

namespace bumblebee::train {
namespace {

CopiedRun longest(const std::string& sample, const std::vector<std::string>& learned) {
  CopiedRuns runs({sample});
  for (const std::string& text : learned) runs.add(text);
  return runs.runs().front();
}

TEST(CopiedRun, IsTheLongestAndNamesItsText) {
  const CopiedRun run = longest("Today the moon came up, like SOMEBODY had remembered it.",
                                {"A moon.", "The moon came up like somebody had remembered it.", "the moon came up"});
  EXPECT_EQ(run.text, "the moon came up, like SOMEBODY had remembered it");
  EXPECT_EQ(run.words, 9);
  EXPECT_EQ(run.of_words, 10);
  EXPECT_EQ(run.characters, int64_t(run.text.size()));
  EXPECT_EQ(run.source, 1);
}

TEST(CopiedRun, DoesNotCrossTextsOrWords) {
  EXPECT_EQ(longest("one two three", {"one", "two three"}).words, 2);
  EXPECT_EQ(longest("moonlight", {"moon light"}).words, 0);
  EXPECT_EQ(longest("", {"one"}).words, 0);
  EXPECT_EQ(longest("one", {}).source, -1);
  EXPECT_EQ(longest("It’s fine", {"it's fine"}).words, 2) << "either apostrophe";
  EXPECT_EQ(longest("it's fine", {"It's  FINE!"}).words, 2);
}

TEST(CopiedRun, CountsCharactersWhereNoSpacesAre) {
  const CopiedRun run = longest("今日は月が出た。", {"昨日、月が出た"});
  EXPECT_EQ(run.text, "月が出た");
  EXPECT_EQ(run.words, 4);
  EXPECT_EQ(run.characters, 4);
  EXPECT_EQ(longest("Ein Gruß", {"mein gruß"}).text, "Gruß");
}

TEST(CopiedRun, AgreesWithTrying) {
  testing_support::Random random(5);
  for (int round = 0; round < 200; ++round) {
    const auto text = [&](int count) {
      std::vector<std::string> words;
      for (int i = 0; i < count; ++i) words.push_back(std::string(1, char('a' + random.integer(0, 2))));
      return words;
    };
    const auto joined = [](const std::vector<std::string>& words) {
      std::string out;
      for (const std::string& word : words) out += word + " ";
      return out;
    };
    const std::vector<std::string> sample = text(random.integer(1, 12)), learned = text(random.integer(1, 12));
    int want = 0;
    for (size_t i = 0; i < sample.size(); ++i) {
      for (size_t j = 0; j < learned.size(); ++j) {
        size_t length = 0;
        while (i + length < sample.size() && j + length < learned.size() && sample[i + length] == learned[j + length])
          ++length;
        want = std::max(want, int(length));
      }
    }
    EXPECT_EQ(longest(joined(sample), {joined(learned)}).words, want) << joined(sample) << "| " << joined(learned);
  }
}

}  // namespace
}  // namespace bumblebee::train
