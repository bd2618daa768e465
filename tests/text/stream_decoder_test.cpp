// Streams of small tokenizers: which decoders have a table of bytes, and that both ways give the same pieces.
#include <gtest/gtest.h>

#include "tests/text/small_tokenizer.h"
#include "tests/text/text_generator.h"
#include "tests/text/two_streams.h"

namespace bumblebee::txt {
namespace {

using testing::expect_same_pieces;
using testing::expect_whole_text;
using testing::small_tokenizer_json;
using testing::without_table;
using Ids = std::vector<int32_t>;

const Json kReplace = {{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}};
const Json kSpaces = {{"type", "Replace"}, {"pattern", {{"Regex", "▁+"}}}, {"content", "_"}};
const Json kFallback = {{"type", "ByteFallback"}}, kFuse = {{"type", "Fuse"}};
Json strip(int start, int stop) { return {{"type", "Strip"}, {"content", " "}, {"start", start}, {"stop", stop}}; }
Json sequence(const Json& steps) { return {{"type", "Sequence"}, {"decoders", steps}}; }

/// Words with spaces, bytes that make characters and bytes that do not, U+FFFD as a token, a control token, and no
/// token at 12.
Json sentence_piece(const Json& decoder) {
  Json vocab = {{"<unk>", 0},   {"<s>", 1},    {"▁", 2},      {"▁Hello", 3}, {"▁world", 4},
                {"<0xE4>", 5},  {"<0xBD>", 6}, {"<0xA0>", 7}, {"x", 8},      {"\xEF\xBF\xBD", 9},
                {"<0x20>", 10}, {"▁▁", 11},    {"<0x+5>", 13}};
  const Json control = {{"id", 1},         {"content", "<s>"},    {"single_word", false}, {"lstrip", false},
                        {"rstrip", false}, {"normalized", false}, {"special", true}};
  return {{"version", "1.0"},
          {"added_tokens", {control}},
          {"decoder", decoder},
          {"model",
           {{"type", "BPE"},
            {"unk_token", "<unk>"},
            {"fuse_unk", true},
            {"byte_fallback", true},
            {"vocab", vocab},
            {"merges", Json::array()}}}};
}

Tokenizer made(const Json& file) { return Tokenizer::from_bytes(file.dump()); }

void compare(const Json& file, int ids_below) {
  const Tokenizer with_table = made(file), with_window = made(without_table(file));
  ASSERT_NE(with_table.token_table(), nullptr);
  ASSERT_EQ(with_window.token_table(), nullptr);
  testing::Lcg rng(9);
  for (int round = 0; round < 300; ++round) {
    Ids ids;
    for (uint64_t n = rng.below(40); n > 0; --n) ids.push_back(int32_t(rng.below(uint64_t(ids_below))));
    for (const bool skip : {false, true}) {
      expect_whole_text(with_table, ids, skip);
      // The window takes an id without a token for the end of a run of bytes, which it is not.
      std::erase_if(ids, [&](int32_t id) { return !with_table.token_of(id); });
      ids.resize(std::min<size_t>(ids.size(), 12));
      expect_same_pieces(with_table, with_window, ids, skip);
      if (::testing::Test::HasFatalFailure()) FAIL() << "round " << round;
    }
  }
}

TEST(StreamsOfTwoWays, ByteLevel) { compare(small_tokenizer_json(), 265); }

TEST(StreamsOfTwoWays, SentencePiece) {
  for (const Json& steps : {Json{kReplace, kFallback, kFuse}, Json{kReplace, kFallback, kFuse, strip(1, 0)},
                            Json{kReplace, kFallback, kFuse, strip(3, 0)}, Json{kFallback, kFuse},
                            Json{kReplace, kFuse}, Json{kReplace}, Json{kSpaces, kReplace, kFallback, kFuse}}) {
    SCOPED_TRACE(steps.dump());
    compare(sentence_piece(sequence(steps)), 14);
  }
}

TEST(TokenBytes, AreTheirText) {
  const Tokenizer byte_level = made(small_tokenizer_json());
  EXPECT_EQ(byte_level.token_bytes(0xE4), "\xE4");
  EXPECT_EQ(byte_level.token_bytes(' '), " ");
  EXPECT_EQ(byte_level.token_bytes(258), "hell");
  EXPECT_EQ(byte_level.token_bytes(259), "<|im_start|>");
  EXPECT_EQ(byte_level.token_bytes(-1), std::nullopt);
  EXPECT_EQ(byte_level.token_bytes(265), std::nullopt);
  const Tokenizer pieces = made(sentence_piece(sequence({kReplace, kFallback, kFuse, strip(1, 0)})));
  EXPECT_EQ(pieces.token_bytes(4), " world");
  EXPECT_EQ(pieces.token_bytes(5), "\xE4");
  EXPECT_EQ(pieces.token_bytes(12), "");
  EXPECT_EQ(pieces.token_table()->tokens[12].kind, TokenBytes::Kind::nothing);
  EXPECT_TRUE(pieces.token_table()->tokens[1].special);
}

TEST(TokenBytes, AreNotThereWhereNeighboursMatter) {
  const Json metaspace = {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "always"}, {"split", true}};
  const Json word_piece = {{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", true}};
  for (const Json& decoder :
       {Json(nullptr), metaspace, word_piece, sequence({kReplace, kFallback, kFuse, strip(1, 1)}),
        sequence({kReplace, kFallback, strip(1, 0)}), sequence({kFuse, kReplace}), sequence({kFallback, kReplace})}) {
    SCOPED_TRACE(decoder.dump());
    const Tokenizer tokenizer = made(sentence_piece(decoder));
    EXPECT_EQ(tokenizer.token_table(), nullptr);
    EXPECT_EQ(tokenizer.token_bytes(3), std::nullopt);
  }
  for (const Json& decoder : {metaspace, sequence({kReplace, kFallback, kFuse, kReplace, strip(1, 0)})}) {
    const Tokenizer tokenizer = made(sentence_piece(decoder));
    for (const Ids& ids : {Ids{3, 4, 8, 3}, Ids{2, 3, 8, 4}, Ids{8, 4, 4}}) {
      StreamDecoder stream(tokenizer, true);
      std::string joined;
      for (const int32_t id : ids) joined += stream.push(id);
      EXPECT_EQ(joined + stream.flush(), tokenizer.decode(ids, true));
    }
  }
}

/// A table is made of as many ids as there are below the greatest: not for a file that has one of two billion.
TEST(TokenBytes, AreNotMadeOfAGreatHole) {
  Json file = small_tokenizer_json();
  file["model"]["vocab"]["far"] = 2000000000;
  const Tokenizer tokenizer = made(file);
  EXPECT_EQ(tokenizer.token_table(), nullptr);
  StreamDecoder stream(tokenizer);
  EXPECT_EQ(stream.push(2000000000) + stream.push('a'), "fara");
}

TEST(FirstUnit, CutsBrokenTextAsReplacingDecodersDo) {
  const auto units = [](std::string_view text) {
    std::string lengths;
    while (!text.empty()) {
      bool broken = false;
      const size_t length = first_unit(text, broken);
      lengths += std::to_string(length) + (broken ? "!" : " ");
      text.remove_prefix(length);
    }
    return lengths;
  };
  EXPECT_EQ(units("aé你\xF0\x9F\x98\x80"), "1 2 3 4 ");
  EXPECT_EQ(units("\xE4\xBD"), "2!");
  EXPECT_EQ(units("\xF0\x9F\x98z"), "3!1 ");
  EXPECT_EQ(units("\xC0\x80"), "1!1!");        // overlong
  EXPECT_EQ(units("\xE0\x9F\x80"), "1!1!1!");  // overlong
  EXPECT_EQ(units("\xED\xA0\x80"), "1!1!1!");  // a surrogate
  EXPECT_EQ(units("\xF4\x90\x80\x80"), "1!1!1!1!");
  EXPECT_EQ(units("\xF5\xFF\x80"), "1!1!1!");
}

}  // namespace
}  // namespace bumblebee::txt
