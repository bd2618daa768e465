// Vocabularies that llama.cpp tests with, read as `convert` reads them: its texts have its ids.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "io/gguf.h"
#include "io/gguf_tokenizer.h"
#include "text/tokenizer.h"

namespace bumblebee {
namespace {

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

class LlamaCppVocabulary : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(All, LlamaCppVocabulary, testing::Values("llama-spm", "phi-3", "qwen2", "llama-bpe"),
                         [](const auto& p) {
                           std::string name = p.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

TEST_P(LlamaCppVocabulary, HasItsIds) {
  const std::string path = std::string(BB_TEST_TOKENIZERS) + "/llama_cpp/ggml-vocab-" + GetParam() + ".gguf";
  const auto file = GgufFile::open(path);
  const GgufTokenizer made = read_gguf_tokenizer(*file, 1 << 20);
  const txt::Tokenizer tokenizer = txt::Tokenizer::from_bytes(made.tokenizer.dump(), {}, GetParam());
  const std::string texts = read(path + ".inp"), mark = "\n__ggml_vocab_test__\n";
  std::istringstream lines(read(path + ".out"));
  size_t at = 0;
  int compared = 0;
  for (std::string line; std::getline(lines, line);) {
    const size_t end = texts.find(mark, at);
    ASSERT_NE(end, std::string::npos);
    std::vector<int32_t> ids;
    std::istringstream words(line);
    for (int32_t id = 0; words >> id;) ids.push_back(id);
    const std::string text = texts.substr(at, end - at);
    const std::vector<int32_t> got = tokenizer.encode(text, {.add_special_tokens = false});
    EXPECT_EQ(got, ids) << text;
    EXPECT_EQ(tokenizer.decode(ids), text);
    ++compared;
    at = end + mark.size();
  }
  EXPECT_GE(compared, 46);
}

}  // namespace
}  // namespace bumblebee
