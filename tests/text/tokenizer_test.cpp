// Our side of the tokenizer: control tokens as text, broken UTF-8, ids out of range, streaming, guarded prompts, small
// stacks.
#include "text/tokenizer.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "tests/text/small_tokenizer.h"

namespace bumblebee::txt {
namespace {

using testing::small_tokenizer;
using testing::small_tokenizer_json;
using Ids = std::vector<int32_t>;

constexpr EncodeOptions kText = {.add_special_tokens = false, .control = ControlTokens::as_text};
constexpr EncodeOptions kParse = {.add_special_tokens = false, .control = ControlTokens::parse};

template <class Call>
std::string error_of(ErrorCode code, Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return {};
}

bool has_control(const Tokenizer& tokenizer, const Ids& ids) {
  return std::any_of(ids.begin(), ids.end(), [&](int32_t id) { return tokenizer.is_control(id); });
}

TEST(Tokenizer, MergesAndNames) {
  const Tokenizer tokenizer = small_tokenizer();
  EXPECT_EQ(tokenizer.encode("hello"), (Ids{258, 'o' - 33 + 33}));
  EXPECT_EQ(tokenizer.vocab_size(), 265);
  EXPECT_EQ(tokenizer.id_of("hell"), 258);
  EXPECT_EQ(tokenizer.id_of("<|im_start|>"), 259);
  EXPECT_EQ(tokenizer.id_of("nothing"), std::nullopt);
  EXPECT_EQ(tokenizer.token_of(264), "</think>");
  EXPECT_EQ(tokenizer.token_of(265), std::nullopt);
  EXPECT_EQ(tokenizer.token_of(-1), std::nullopt);
  ASSERT_EQ(tokenizer.added_tokens().size(), 6u);
  EXPECT_TRUE(tokenizer.is_special(261));
  EXPECT_FALSE(tokenizer.is_special(263));
  EXPECT_TRUE(tokenizer.encode("").empty());
}

/// small_tokenizer() with a post-processor of `before`, the text and `after`.
Tokenizer with_ends(const std::vector<std::string>& before, const std::vector<std::string>& after, const char* config) {
  Json file = testing::small_tokenizer_json();
  Json single = Json::array(), tokens = Json::object();
  const auto put = [&](const std::vector<std::string>& names) {
    for (const std::string& name : names) {
      single.push_back({{"SpecialToken", {{"id", name}, {"type_id", 0}}}});
      tokens[name] = {{"id", name}, {"ids", {name == "<s>" ? 261 : 260}}, {"tokens", {name}}};
    }
  };
  put(before);
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  put(after);
  if (!tokens.empty())
    file["post_processor"] = {
        {"type", "TemplateProcessing"}, {"single", single}, {"pair", single}, {"special_tokens", tokens}};
  return Tokenizer::from_bytes(file.dump(), TokenizerConfig::from_json(config));
}

TEST(Tokenizer, DeclaredPropertiesOfTokensWin) {
  // 263 <think> is in tokenizer.json, without properties; 265 is next after all tokens.
  const auto ids = [](const char* declared, std::string_view text) {
    return testing::small_tokenizer(TokenizerConfig::from_json(cat(R"({"added_tokens_decoder": )", declared, "}")))
        .encode(text, {.control = ControlTokens::parse});
  };
  const std::vector<int32_t> spaced = {97, 32, 263, 32, 97};
  EXPECT_EQ(ids("{}", "a <think> a"), spaced);
  EXPECT_EQ(ids(R"({"263": {"content": "<think>", "normalized": false}})", "a <think> a"), spaced);
  EXPECT_EQ(ids(R"({"263": {"content": "<think>", "lstrip": true, "rstrip": true}})", "a <think> a"),
            (std::vector<int32_t>{97, 263, 97}));
  EXPECT_EQ(ids(R"({"265": {"content": "<new>"}})", "<new>"), std::vector<int32_t>{265});
  EXPECT_EQ(ids(R"({"265": {"content": "<new>"}, "266": {"content": "<one>"}})", "<one><new>"),
            (std::vector<int32_t>{266, 265}));
  EXPECT_EQ(ids(R"({"264": {"content": "<new>"}})", "<new>").size(), 5u) << "another token's place";
  EXPECT_EQ(ids(R"({"270": {"content": "<new>"}})", "<new>").size(), 5u);
  EXPECT_THROW(TokenizerConfig::from_json(R"({"added_tokens_decoder": {"1": {"content": "x", "lstrip": "no"}}})"),
               Error);
  const Tokenizer named = testing::small_tokenizer(TokenizerConfig::from_json(
      R"({"eos_token": "<think>", "added_tokens_decoder": {"263": {"content": "<think>", "special": false}}})"));
  EXPECT_TRUE(named.is_special(263)) << "a named token is special";
}

TEST(Tokenizer, TheConfigSaysWhatATextGetsAtItsEnds) {
  using Names = std::vector<std::string>;
  const std::string named = R"({"bos_token": "<s>", "eos_token": "<|im_end|>")";
  const auto ids = [&](const Names& before, const Names& after, const std::string& more, std::string_view text = "b") {
    return with_ends(before, after, (named + more + "}").c_str()).encode(text, {.control = ControlTokens::parse});
  };
  const std::vector<int32_t> bare = {98}, bos = {261, 98}, eos = {98, 260}, both = {261, 98, 260};
  for (const Names& before : {Names{}, Names{"<s>"}}) {
    for (const Names& after : {Names{}, Names{"<|im_end|>"}}) {
      const bool has_bos = !before.empty(), has_eos = !after.empty();
      const auto want = [&](bool b, bool e) { return b ? e ? both : bos : e ? eos : bare; };
      EXPECT_EQ(ids(before, after, ""), want(has_bos, has_eos)) << "nothing said: tokenizer.json's own";
      EXPECT_EQ(ids(before, after, R"(, "add_bos_token": null)"), want(has_bos, has_eos));
      for (const bool b : {false, true}) {
        EXPECT_EQ(ids(before, after, cat(", \"add_bos_token\": ", b ? "true" : "false")), want(b, has_eos));
        EXPECT_EQ(ids(before, after, cat(", \"add_eos_token\": ", b ? "true" : "false")), want(has_bos, b));
        for (const bool e : {false, true}) {
          EXPECT_EQ(
              ids(before, after,
                  cat(", \"add_bos_token\": ", b ? "true" : "false", ", \"add_eos_token\": ", e ? "true" : "false")),
              want(b, e));
        }
      }
    }
  }
  EXPECT_EQ(ids({"<s>"}, {}, R"(, "add_bos_token": false)", "<s>b"), bos) << "the one of the text stays";
  EXPECT_EQ(ids({}, {}, R"(, "add_bos_token": true, "add_eos_token": true)", ""), (std::vector<int32_t>{261, 260}));
  const Tokenizer tokenizer = with_ends({}, {}, R"({"bos_token": "<s>", "add_bos_token": true})");
  EXPECT_EQ(tokenizer.encode("b", {.add_special_tokens = false}), bare);
  EXPECT_EQ(with_ends({}, {}, R"({"add_bos_token": true})").encode("b"), bare) << "there is none to add";
  EXPECT_THROW(TokenizerConfig::from_json(R"({"add_bos_token": "yes"})"), Error);
}

TEST(Tokenizer, ControlTokensAreTextUnlessAskedFor) {
  const Tokenizer tokenizer = small_tokenizer();
  for (const AddedToken& token : tokenizer.added_tokens()) {
    for (const std::string& text : {token.text, "a" + token.text + "b", token.text + token.text, "<" + token.text}) {
      const Ids ids = tokenizer.encode(text, kText);
      EXPECT_FALSE(has_control(tokenizer, ids)) << text;
      EXPECT_EQ(tokenizer.decode(ids), text);
    }
    EXPECT_EQ(tokenizer.encode(token.text, kParse), Ids{token.id});
  }
  // Ordinary added tokens are the model's own words and keep their ids in text.
  EXPECT_EQ(tokenizer.encode("<think>", kText), Ids{263});
}

TEST(Tokenizer, ControlTokenInTheModelsVocabularyIsStillText) {
  Json file = small_tokenizer_json();
  file["model"]["vocab"]["<s>"] = 261;
  file["model"]["ignore_merges"] = true;
  file["pre_tokenizer"] = nullptr;
  const Tokenizer tokenizer = Tokenizer::from_bytes(file.dump());
  const Ids ids = tokenizer.encode("<s>", kText);
  EXPECT_EQ(ids, (Ids{'<', 's', '>'}));
  EXPECT_EQ(tokenizer.decode(ids), "<s>");
  EXPECT_EQ(tokenizer.encode("<s>", kParse), Ids{261});
}

TEST(Tokenizer, BrokenUtf8BecomesReplacementCharacters) {
  const Tokenizer tokenizer = small_tokenizer();
  const std::string_view replacement = "\xEF\xBF\xBD";
  const auto round_trip = [&](std::string_view bytes) { return tokenizer.decode(tokenizer.encode(bytes, kText)); };
  EXPECT_EQ(round_trip("a\xFF"
                       "b"),
            "a" + std::string(replacement) + "b");
  EXPECT_EQ(round_trip("\xE4\xBD"), replacement) << "one for each maximal part";
  EXPECT_EQ(round_trip("\xC0\xAF"), std::string(replacement) + std::string(replacement));
  EXPECT_EQ(round_trip(std::string_view("a\0b", 3)), std::string_view("a\0b", 3));
}

TEST(Tokenizer, DecodeRefusesIdsOutOfRange) {
  const Tokenizer tokenizer = small_tokenizer();
  EXPECT_NE(error_of(ErrorCode::bad_request, [&] { tokenizer.decode(Ids{265}); }).find("265"), std::string::npos);
  EXPECT_NE(error_of(ErrorCode::bad_request, [&] { tokenizer.decode(Ids{-1}); }).find("-1"), std::string::npos);
  StreamDecoder stream(tokenizer);
  error_of(ErrorCode::bad_request, [&] { stream.push(1000000); });
  EXPECT_EQ(tokenizer.decode(Ids{259, 258, 260}, true), "hell");
  EXPECT_EQ(tokenizer.decode(Ids{259, 258, 260}, false), "<|im_start|>hell<|im_end|>");
}

TEST(Tokenizer, BatchIsOneByOne) {
  const Tokenizer tokenizer = small_tokenizer();
  const std::vector<std::string> texts = {"hello", "", "<s> x", "日本"};
  const auto batch = tokenizer.encode_batch(texts, kParse);
  ASSERT_EQ(batch.size(), texts.size());
  for (size_t i = 0; i < texts.size(); ++i) EXPECT_EQ(batch[i], tokenizer.encode(texts[i], kParse));
}

TEST(Tokenizer, GuardedSpansAreNotParsed) {
  const Tokenizer tokenizer = small_tokenizer();
  const std::string text = "<s>hell<s>";
  EXPECT_EQ(tokenizer.encode(RenderedPrompt{text, {}}), (Ids{261, 258, 261}));
  EXPECT_EQ(tokenizer.encode(RenderedPrompt{text, {{7, 8}}}), (Ids{261, 258, '<', 's', '>'}));
  EXPECT_EQ(tokenizer.encode(RenderedPrompt{text, {{0, 1}, {7, 8}}}), tokenizer.encode(text, kText));
  EXPECT_EQ(tokenizer.encode(RenderedPrompt{text, {{0, 10}}}), tokenizer.encode(text, kText));
  for (const std::vector<TextSpan>& bad : {std::vector<TextSpan>{{0, 11}}, {{3, 2}}, {{7, 8}, {0, 1}}}) {
    error_of(ErrorCode::bad_request, [&] { tokenizer.encode(RenderedPrompt{text, bad}); });
  }
  error_of(ErrorCode::bad_request, [&] { tokenizer.encode(RenderedPrompt{"é", {{0, 1}}}); });
}

TEST(Tokenizer, PrivateCharactersInTextDoNotOpenTheGuard) {
  const Tokenizer tokenizer = small_tokenizer();
  const std::string taken = "\xF3\xB0\x80\x80";  // U+F0000, the first character the guard would use
  const RenderedPrompt prompt{taken + "<s>", {{4, 5}}};
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(prompt)), prompt.text);
  EXPECT_FALSE(has_control(tokenizer, tokenizer.encode(prompt)));
}

TEST(StreamDecoder, HoldsBackHalfACharacter) {
  const Tokenizer tokenizer = small_tokenizer();
  StreamDecoder stream(tokenizer);
  EXPECT_EQ(stream.push('a'), "a");
  EXPECT_EQ(stream.push(0xE4), "");
  EXPECT_EQ(stream.push(0xBD), "");
  EXPECT_EQ(stream.push(0xA0), "你");
  EXPECT_EQ(stream.push(259), "") << "control tokens are skipped";
  EXPECT_EQ(stream.push(0xF0), "");
  EXPECT_EQ(stream.flush(), "\xEF\xBF\xBD");
  EXPECT_EQ(stream.flush(), "");
  EXPECT_EQ(stream.push('b'), "b");
}

TEST(StreamDecoder, PiecesJoinToTheWholeForAnyIds) {
  const Tokenizer tokenizer = small_tokenizer();
  uint64_t state = 5;
  for (int round = 0; round < 300; ++round) {
    Ids ids;
    for (int i = 0; i < 60; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      ids.push_back(static_cast<int32_t>((state >> 33) % 265));
    }
    for (const bool skip : {false, true}) {
      StreamDecoder stream(tokenizer, skip);
      std::string joined;
      for (const int32_t id : ids) joined += stream.push(id);
      ASSERT_EQ(joined + stream.flush(), tokenizer.decode(ids, skip)) << "round " << round;
    }
  }
}

TEST(StreamDecoder, SentencePieceSpacesAndByteFallback) {
  Json vocab = {{"<unk>", 0},  {"<s>", 1},    {"▁", 2},      {"▁Hello", 3}, {"▁world", 4},
                {"<0xE4>", 5}, {"<0xBD>", 6}, {"<0xA0>", 7}, {"x", 8}};
  const Json file = {{"version", "1.0"},
                     {"added_tokens",
                      {{{"id", 1},
                        {"content", "<s>"},
                        {"single_word", false},
                        {"lstrip", false},
                        {"rstrip", false},
                        {"normalized", false},
                        {"special", true}}}},
                     {"decoder",
                      {{"type", "Sequence"},
                       {"decoders",
                        {{{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}},
                         {{"type", "ByteFallback"}},
                         {{"type", "Fuse"}},
                         {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}}},
                     {"model",
                      {{"type", "BPE"},
                       {"unk_token", "<unk>"},
                       {"fuse_unk", true},
                       {"byte_fallback", true},
                       {"vocab", vocab},
                       {"merges", Json::array()}}}};
  const Tokenizer tokenizer = Tokenizer::from_bytes(file.dump());
  EXPECT_TRUE(tokenizer.has_byte_fallback());
  for (const Ids& ids : {Ids{1, 3, 4, 5, 6, 7, 4}, Ids{2, 3, 5, 6, 4, 5}, Ids{3, 1, 4, 5, 6, 7, 8, 2, 2, 4},
                         Ids{2, 2, 2, 8}, Ids{1, 1, 4}}) {
    for (const bool skip : {false, true}) {
      StreamDecoder stream(tokenizer, skip);
      std::string joined;
      for (const int32_t id : ids) joined += stream.push(id);
      EXPECT_EQ(joined + stream.flush(), tokenizer.decode(ids, skip));
    }
  }
}

TEST(Tokenizer, LongRunsInLinearTime) {
  const Tokenizer tokenizer = small_tokenizer();
  for (const std::string unit : {"h", " ", "\n", "!", "你", "7", "\u200d"}) {
    std::string text;
    while (text.size() < 3'000'000) text += unit;
    const Ids ids = tokenizer.encode(text, kText);
    EXPECT_EQ(tokenizer.decode(ids), text) << "run of " << unit;
  }
}

/// Runs `work` on a thread with a small stack; a stack overflow would end the process.
void with_small_stack(const std::function<void()>& work) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, 256 << 10);
  pthread_t thread;
  const auto run = [](void* raw) -> void* {
    (*static_cast<const std::function<void()>*>(raw))();
    return nullptr;
  };
  ASSERT_EQ(pthread_create(&thread, &attributes, run, const_cast<std::function<void()>*>(&work)), 0);
  pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
}

TEST(Tokenizer, SmallStacksAreEnough) {
  size_t ids = 0;
  with_small_stack([&] {
    const Tokenizer tokenizer = small_tokenizer();
    ids = tokenizer.encode(std::string(1'000'000, 'A'), kText).size();
  });
  EXPECT_EQ(ids, 1'000'000u);
}

TEST(Tokenizer, ManyThreadsAtOnce) {
  const Tokenizer tokenizer = small_tokenizer();
  const Ids expected = tokenizer.encode("hello hello <s>", kParse);
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 500; ++i) wrong += tokenizer.encode("hello hello <s>", kParse) != expected;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(Tokenizer, DirectoryWithoutFileIsNamed) {
  const std::filesystem::path directory = std::filesystem::path(::testing::TempDir()) / "bb_no_tokenizer";
  std::filesystem::create_directories(directory);
  EXPECT_NE(error_of(ErrorCode::bad_file, [&] { Tokenizer::load(directory); }).find("tokenizer.json"),
            std::string::npos);
  std::ofstream(directory / "tokenizer.model") << "x";
  EXPECT_NE(error_of(ErrorCode::bad_file, [&] { Tokenizer::load(directory); }).find("SentencePiece"),
            std::string::npos);
  std::filesystem::remove_all(directory);
}

TEST(Tokenizer, SidecarSpecialTokensBecomeControlTokens) {
  TokenizerConfig config = TokenizerConfig::from_json(
      R"({"eos_token": {"content": "</think>"}, "bos_token": "<s>", "pad_token": "absent",
          "added_tokens_decoder": {"265": {"content": "<next>", "special": true}, "9999": {"content": "<far>", "special": true}}})");
  const Tokenizer tokenizer = small_tokenizer(config);
  EXPECT_EQ(tokenizer.bos_id(), 261);
  EXPECT_EQ(tokenizer.eos_id(), 264);
  EXPECT_TRUE(tokenizer.is_control(264));
  EXPECT_EQ(tokenizer.pad_id(), std::nullopt);
  EXPECT_EQ(tokenizer.id_of("<next>"), 265);
  EXPECT_EQ(tokenizer.id_of("<far>"), std::nullopt) << "a token without a row in the embedding is not made up";
  EXPECT_EQ(tokenizer.vocab_size(), 266);
}

int bound_of(const Json& file) { return Tokenizer::from_bytes(file.dump()).max_token_bytes(); }

TEST(Tokenizer, KnowsHowMuchTextATokenMayBe) {
  Json file = small_tokenizer_json();
  const int longest = int(std::string("<|im_start|>").size());
  EXPECT_EQ(bound_of(file), longest);
  file["normalizer"] = {{"type", "NFC"}};
  EXPECT_EQ(bound_of(file), 9 * longest);
  file["normalizer"] = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "bb"}};
  EXPECT_EQ(bound_of(file), longest);
  file["normalizer"]["content"] = "";
  EXPECT_EQ(bound_of(file), 0) << "a text of any length may become nothing";
  file["normalizer"] = {{"type", "Strip"}, {"strip_left", true}, {"strip_right", true}};
  EXPECT_EQ(bound_of(file), 0);
  file = small_tokenizer_json();
  file["added_tokens"][0]["rstrip"] = true;
  EXPECT_EQ(bound_of(file), 0) << "it takes blanks with it";
  file = small_tokenizer_json();
  file["model"]["vocab"].erase("!");
  EXPECT_EQ(bound_of(file), 0) << "what no token spells is dropped";
}

}  // namespace
}  // namespace bumblebee::txt
