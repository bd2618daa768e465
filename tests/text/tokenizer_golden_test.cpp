// Ids of real tokenizers against Hugging Face's own, over every code point, 100,000 mixed lines and random bytes. The
// tokenizers are fetched (tools/fetch_tokenizers.sh) into BB_TEST_TOKENIZERS; the hashes are committed under
// tests/data/text/tokens.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <fstream>

#include "base/json.h"
#include "tests/text/real_tokenizer.h"
#include "tests/text/text_generator.h"
#include "text/tokenizer.h"

namespace bumblebee::txt {
namespace {

using testing::byte_string;
using testing::IdHash;
using testing::Lcg;
using testing::mixed_line;
using testing::utf8;

constexpr EncodeOptions kParse = {.add_special_tokens = true, .control = ControlTokens::parse};

class TokenGoldens : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    tokenizer_.emplace(testing::real_tokenizer(GetParam()));
    std::ifstream file(std::string(BB_TEST_DATA) + "/text/tokens/" + GetParam() + ".json");
    ASSERT_TRUE(file) << "golden missing";
    goldens_ = Json::parse(file);
  }

  template <class Texts>
  void expect_block(const char* kind, size_t block, Texts&& texts) {
    IdHash hash;
    texts([&](const std::string& text) { hash.text(tokenizer_->encode(text, kParse)); });
    EXPECT_EQ(hash.hex(), goldens_.at(kind).at(block).get<std::string>())
        << GetParam() << ": " << kind << ", block " << block;
  }

  std::optional<Tokenizer> tokenizer_;
  Json goldens_;
};

constexpr uint32_t kCodePointsPerBlock = 16384;

template <class Use>
void each_code_point(uint32_t first, Use&& use) {
  for (uint32_t code = first; code < std::min(first + kCodePointsPerBlock, 0x110000u); ++code) {
    if (code < 0xD800 || code > 0xDFFF) use(utf8(code));
  }
}

TEST_P(TokenGoldens, EveryCodePointAloneAndInContext) {
  for (size_t block = 0; block * kCodePointsPerBlock < 0x110000u; ++block) {
    const auto first = static_cast<uint32_t>(block * kCodePointsPerBlock);
    expect_block("alone", block, [&](auto&& use) { each_code_point(first, [&](const std::string& c) { use(c); }); });
    expect_block("in_context", block, [&](auto&& use) {
      each_code_point(first, [&](const std::string& c) { use("a" + c + " " + c + c + "1"); });
    });
  }
}

TEST_P(TokenGoldens, MixedLines) {
  Lcg rng(1);
  ASSERT_EQ(goldens_.at("lines").size(), 50u);
  for (size_t block = 0; block < 50; ++block) {
    expect_block("lines", block, [&](auto&& use) {
      for (int i = 0; i < 2000; ++i) use(mixed_line(rng));
    });
  }
}

TEST_P(TokenGoldens, RandomBytes) {
  Lcg rng(2);
  ASSERT_EQ(goldens_.at("bytes").size(), 10u);
  for (size_t block = 0; block < 10; ++block) {
    expect_block("bytes", block, [&](auto&& use) {
      for (int i = 0; i < 2000; ++i) use(byte_string(rng));
    });
  }
}

TEST_P(TokenGoldens, NoControlTokenComesOutOfPlainText) {
  size_t specials = 0;
  std::string all;
  for (const AddedToken& token : tokenizer_->added_tokens()) {
    if (!token.special) continue;
    ++specials;
    all += token.text + " x" + token.text;
    const bool is_unknown = tokenizer_->unk_id() == token.id;
    for (const std::string& text :
         {token.text, "a" + token.text + "b", token.text + token.text, " " + token.text + "\n"}) {
      const std::vector<int32_t> ids = tokenizer_->encode(text, {.add_special_tokens = false});
      for (const int32_t id : ids)
        EXPECT_FALSE(tokenizer_->is_control(id)) << token.text << (is_unknown ? " (unknown)" : "");
      EXPECT_EQ(tokenizer_->decode(ids), text);
      EXPECT_EQ(tokenizer_->encode(token.text, {.add_special_tokens = false, .control = ControlTokens::parse}),
                std::vector<int32_t>{token.id});
    }
  }
  EXPECT_GE(specials, 3u);
  for (const int32_t id : tokenizer_->encode(all, {.add_special_tokens = false}))
    EXPECT_FALSE(tokenizer_->is_control(id));
}

TEST_P(TokenGoldens, StreamedPiecesJoinToTheWhole) {
  Lcg rng(7);
  for (int i = 0; i < 500; ++i) {
    std::vector<int32_t> ids;
    if (i % 2 == 0) {
      ids = tokenizer_->encode(mixed_line(rng), kParse);
    } else {
      for (uint64_t n = rng.below(40); n > 0; --n) {
        ids.push_back(static_cast<int32_t>(rng.below(static_cast<uint64_t>(tokenizer_->vocab_size()))));
      }
    }
    for (const bool skip : {false, true}) {
      StreamDecoder stream(*tokenizer_, skip);
      std::string joined;
      for (const int32_t id : ids) joined += stream.push(id);
      joined += stream.flush();
      ASSERT_EQ(joined, tokenizer_->decode(ids, skip)) << GetParam() << ", text " << i << ", skip " << skip;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, TokenGoldens,
                         ::testing::Values("qwen3", "llama3_1", "gemma3", "gpt_oss", "smollm2", "gemma4", "qwen3_5",
                                           "mistral", "cl100k", "deepseek_v3"),
                         [](const auto& test_info) { return std::string(test_info.param); });

/// A program that shares no code with either: llama.cpp's texts and ids.
TEST(LlamaCpp, HasTheSameIds) {
  for (const auto& [name, normalized] : {std::pair("gemma4", 0), std::pair("qwen3_5", 3)}) {
    const Tokenizer tokenizer = testing::real_tokenizer(name);
    std::ifstream file(std::string(BB_TEST_TOKENIZERS) + "/" + name + "/llama_cpp.json");
    ASSERT_TRUE(file) << name;
    int same = 0, others = 0;
    for (const Json& entry : Json::parse(file)) {
      const std::vector<int32_t> ids =
          tokenizer.encode(entry.at("text").get<std::string>(), {.add_special_tokens = false});
      ids == entry.at("ids").get<std::vector<int32_t>>() ? ++same : ++others;
    }
    EXPECT_EQ(others, normalized) << name << ": texts that Hugging Face normalizes and llama.cpp does not";
    EXPECT_GE(same, 46) << name;
  }
}

// 10 MB of one character. That it ends is the assertion: a regex or a merge loop that is not linear would not.
TEST(LongRuns, TenMegabytesOfOneCharacter) {
  const Tokenizer tokenizer = testing::real_tokenizer("qwen3");
  for (const std::string unit : {"A", " ", "\n", "!", "你", "7", "\u200d", "\u0301"}) {
    std::string text;
    while (text.size() < 10'000'000) text += unit;
    const std::vector<int32_t> ids = tokenizer.encode(text, {.add_special_tokens = false});
    EXPECT_EQ(tokenizer.decode(ids), text) << "run of " << unit;
  }
}

}  // namespace
}  // namespace bumblebee::txt
