// Broken and hostile tokenizer.json files: each gives a named error, none a crash.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/text/small_tokenizer.h"

namespace bumblebee::txt {
namespace {

using testing::small_tokenizer_json;

struct Broken {
  const char* name;
  std::function<std::string()> make;
};

std::string changed(const std::function<void(Json&)>& change) {
  Json file = small_tokenizer_json();
  change(file);
  return file.dump();
}

class MalformedTokenizer : public ::testing::TestWithParam<Broken> {};

TEST_P(MalformedTokenizer, GivesANamedError) {
  try {
    const Tokenizer tokenizer = Tokenizer::from_bytes(GetParam().make(), {}, "broken.json");
    FAIL() << "accepted, with " << tokenizer.vocab_size() << " tokens";
  } catch (const Error& error) {
    EXPECT_TRUE(error.code() == ErrorCode::bad_file || error.code() == ErrorCode::unsupported) << error.what();
    EXPECT_TRUE(std::string_view(error.what()).starts_with("[broken.json] ")) << error.what();
  }
}

const Broken kBroken[] = {
    {"Empty", [] { return std::string(); }},
    {"NotJson", [] { return std::string("hello"); }},
    {"Nul", [] { return std::string(1000, '\0'); }},
    {"NotUtf8", [] { return std::string("{\"model\": \"\xFF\xFE\"}"); }},
    {"Array", [] { return std::string("[]"); }},
    {"Null", [] { return std::string("null"); }},
    {"Number", [] { return std::string("1e999"); }},
    {"EmptyObject", [] { return std::string("{}"); }},
    {"DeepArrays", [] { return std::string(1'000'000, '['); }},
    {"DeepObjects",
     [] {
       std::string text;
       for (int i = 0; i < 200'000; ++i) text += "{\"normalizer\":";
       return text;
     }},
    {"NoModel", [] { return changed([](Json& f) { f.erase("model"); }); }},
    {"ModelString", [] { return changed([](Json& f) { f["model"] = "BPE"; }); }},
    {"UnknownModel", [] { return changed([](Json& f) { f["model"]["type"] = "Magic"; }); }},
    {"ModelTypeNumber", [] { return changed([](Json& f) { f["model"]["type"] = 3; }); }},
    {"NoVocab", [] { return changed([](Json& f) { f["model"].erase("vocab"); }); }},
    {"VocabNull", [] { return changed([](Json& f) { f["model"]["vocab"] = nullptr; }); }},
    {"VocabOfStrings", [] { return changed([](Json& f) { f["model"]["vocab"]["a"] = "1"; }); }},
    {"NegativeId", [] { return changed([](Json& f) { f["model"]["vocab"]["a"] = -1; }); }},
    {"FractionalId", [] { return changed([](Json& f) { f["model"]["vocab"]["a"] = 1.5; }); }},
    {"HugeId", [] { return changed([](Json& f) { f["model"]["vocab"]["a"] = 4294967295u; }); }},
    {"IdBeyond32Bits", [] { return changed([](Json& f) { f["model"]["vocab"]["a"] = 1ull << 40; }); }},
    {"MergeOfAbsentToken", [] { return changed([](Json& f) { f["model"]["merges"].push_back("zz qq"); }); }},
    {"MergeWithoutSpace", [] { return changed([](Json& f) { f["model"]["merges"].push_back("he"); }); }},
    {"MergesNumber", [] { return changed([](Json& f) { f["model"]["merges"] = 7; }); }},
    {"MergeResultAbsent", [] { return changed([](Json& f) { f["model"]["merges"].push_back("a b"); }); }},
    {"AddedTokensObject", [] { return changed([](Json& f) {
                                 f["added_tokens"] = Json::object({{"a", 1}});
                               }); }},
    {"AddedTokenWithoutContent", [] { return changed([](Json& f) { f["added_tokens"][0].erase("content"); }); }},
    {"AddedTokenEmpty", [] { return changed([](Json& f) { f["added_tokens"][0]["content"] = ""; }); }},
    {"UnknownNormalizer", [] { return changed([](Json& f) {
                                 f["normalizer"] = {{"type", "Magic"}};
                               }); }},
    {"UnknownPreTokenizer", [] { return changed([](Json& f) {
                                   f["pre_tokenizer"] = {{"type", "Magic"}};
                                 }); }},
    {"UnknownDecoder", [] { return changed([](Json& f) {
                              f["decoder"] = {{"type", "Magic"}};
                            }); }},
    {"UnknownPostProcessor", [] { return changed([](Json& f) {
                                    f["post_processor"] = {{"type", "Magic"}};
                                  }); }},
    {"BrokenRegex",
     [] {
       return changed([](Json& f) {
         f["pre_tokenizer"] = {
             {"type", "Split"}, {"pattern", {{"Regex", "(((["}}}, {"behavior", "Isolated"}, {"invert", false}};
       });
     }},
    {"UnknownBehaviour",
     [] {
       return changed([](Json& f) {
         f["pre_tokenizer"] = {
             {"type", "Split"}, {"pattern", {{"String", " "}}}, {"behavior", "Magic"}, {"invert", false}};
       });
     }},
    {"PrecompiledGarbage",
     [] {
       return changed([](Json& f) { f["normalizer"] = {{"type", "Precompiled"}, {"precompiled_charsmap", "AAAA"}}; });
     }},
    {"TemplateWithoutToken",
     [] {
       return changed([](Json& f) {
         f["post_processor"] = {
             {"type", "TemplateProcessing"},
             {"single",
              {{{"SpecialToken", {{"id", "<gone>"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
             {"pair", Json::array()},
             {"special_tokens", Json::object()}};
       });
     }},
    {"Truncated", [] { return small_tokenizer_json().dump().substr(0, 2000); }},
    {"Trailing", [] { return small_tokenizer_json().dump() + "x"; }},
};

INSTANTIATE_TEST_SUITE_P(Files, MalformedTokenizer, ::testing::ValuesIn(kBroken),
                         [](const auto& test_info) { return std::string(test_info.param.name); });

TEST(MalformedTokenizerFiles, TruncatedAnywhereIsRefused) {
  const std::string whole = small_tokenizer_json().dump();
  for (size_t size = 0; size < whole.size(); size += 97) {
    EXPECT_THROW(Tokenizer::from_bytes(whole.substr(0, size)), Error) << size;
  }
}

TEST(MalformedTokenizerFiles, ExponentialRegexIsAnErrorOfTheRequest) {
  Json file = small_tokenizer_json();
  file["pre_tokenizer"] = {
      {"type", "Split"}, {"pattern", {{"Regex", "(a*)*b|(a|aa)+$"}}}, {"behavior", "Isolated"}, {"invert", false}};
  const Tokenizer tokenizer = Tokenizer::from_bytes(file.dump());
  EXPECT_THROW(tokenizer.encode(std::string(5000, 'a') + "c"), Error);
}

}  // namespace
}  // namespace bumblebee::txt
