// Streams of real tokenizers: pieces from the table of tokens' bytes are those of the window, and joined they are
// Hugging Face's text.
#include <nlohmann/json.hpp>

#include <gtest/gtest.h>

#include "base/mapped_file.h"
#include "tests/text/real_tokenizer.h"
#include "tests/text/text_generator.h"
#include "tests/text/two_streams.h"

namespace bumblebee::txt {
namespace {

using testing::expect_same_pieces;
using testing::expect_whole_text;
using testing::Lcg;

class RealStreams : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    table_.emplace(testing::real_tokenizer(GetParam()));
    static std::map<std::string, Tokenizer> windows;
    auto known = windows.find(GetParam());
    if (known == windows.end()) {
      const std::filesystem::path directory = std::filesystem::path(BB_TEST_TOKENIZERS) / GetParam();
      const Json file = Json::parse(read_text_file(directory / "tokenizer.json", size_t{64} << 20));
      known = windows
                  .emplace(GetParam(),
                           Tokenizer::from_bytes(testing::without_table(file).dump(), TokenizerConfig::load(directory)))
                  .first;
    }
    window_.emplace(known->second);
    ASSERT_NE(table_->token_table(), nullptr);
    ASSERT_EQ(window_->token_table(), nullptr);
    for (int32_t id = 0; id < table_->vocab_size(); ++id) {
      const TokenBytes::Token& token = table_->token_table()->tokens[size_t(id)];
      const std::string_view bytes = *table_->token_bytes(id);
      bool broken = false;
      for (size_t at = 0; at < bytes.size() && !broken;) at += first_unit(bytes.substr(at), broken);
      if (broken || token.special || token.kind != TokenBytes::Kind::text) odd_.push_back(id);
    }
  }

  int32_t any(Lcg& rng) const { return int32_t(rng.below(uint64_t(table_->vocab_size()))); }
  int32_t odd(Lcg& rng) const { return odd_[size_t(rng.below(odd_.size()))]; }

  std::optional<Tokenizer> table_, window_;
  std::vector<int32_t> odd_;  // control tokens, parts of characters, bytes
};

TEST_P(RealStreams, EveryTokenAlone) {
  for (int32_t id = 0; id < table_->vocab_size(); ++id) {
    StreamDecoder stream(*table_, false);
    const std::string piece = stream.push(id);
    ASSERT_EQ(piece + stream.flush(), table_->decode(std::vector<int32_t>{id})) << id;
  }
  for (const int32_t id : odd_) {
    for (const bool skip : {false, true}) ASSERT_NO_FATAL_FAILURE(expect_same_pieces(*table_, *window_, {id}, skip));
  }
}

TEST_P(RealStreams, Pairs) {
  ASSERT_GT(odd_.size(), 100u);
  Lcg rng(3);
  for (int i = 0; i < 10000; ++i) {
    const std::vector<int32_t> ids = {i % 2 == 0 ? any(rng) : odd(rng), i % 3 == 0 ? any(rng) : odd(rng)};
    ASSERT_NO_FATAL_FAILURE(expect_same_pieces(*table_, *window_, ids, i % 5 == 0)) << ids[0] << " " << ids[1];
  }
}

TEST_P(RealStreams, LongSequencesOfAnyIds) {
  Lcg rng(4);
  for (int i = 0; i < 20; ++i) {
    std::vector<int32_t> ids;
    for (int n = 0; n < 300; ++n) ids.push_back(int(rng.below(4)) < i % 4 ? odd(rng) : any(rng));
    for (const bool skip : {false, true}) {
      ASSERT_NO_FATAL_FAILURE(expect_whole_text(*table_, ids, skip));
      for (size_t at = 0; at + 12 <= ids.size(); at += 12) {
        const std::vector<int32_t> few(ids.begin() + ptrdiff_t(at), ids.begin() + ptrdiff_t(at + 12));
        ASSERT_NO_FATAL_FAILURE(expect_same_pieces(*table_, *window_, few, skip));
      }
    }
  }
}

TEST_P(RealStreams, Texts) {
  Lcg rng(5);
  for (int i = 0; i < 400; ++i) {
    const std::string text = i % 8 == 7 ? testing::byte_string(rng) : testing::mixed_line(rng);
    const std::vector<int32_t> ids = table_->encode(text, {.add_special_tokens = i % 2 == 0});
    for (const bool skip : {false, true}) ASSERT_NO_FATAL_FAILURE(expect_same_pieces(*table_, *window_, ids, skip));
    std::string bytes;  // the text itself is normalised when it is encoded
    for (const int32_t id : ids) bytes += *table_->token_bytes(id);
    ASSERT_EQ(bytes, table_->decode(ids));
  }
}

INSTANTIATE_TEST_SUITE_P(Families, RealStreams, ::testing::Values("qwen3", "llama3_1", "gemma3", "gpt_oss", "smollm2"),
                         [](const auto& test_info) { return std::string(test_info.param); });

}  // namespace
}  // namespace bumblebee::txt
