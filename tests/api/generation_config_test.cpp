// Reading Hugging Face's files and refusing what would change the result.
#include "bumblebee/generation_config.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "bumblebee/log.h"
#include "bumblebee/tokenizer.h"

namespace bumblebee {
namespace {

class GenerationConfigTest : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = std::filesystem::path(::testing::TempDir()) / ("bb_generation_" + std::to_string(::getpid()));
    std::filesystem::create_directories(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  void write(const char* name, const std::string& text) { std::ofstream(directory_ / name) << text; }
  GenerationConfig load(const std::string& text) {
    write("generation_config.json", text);
    return load_generation_config(local(directory_));
  }
  void refused(const std::string& text, ErrorCode code, const std::string& key) {
    try {
      load(text);
      ADD_FAILURE() << "accepted " << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      EXPECT_NE(std::string(error.what()).find(key), std::string::npos) << error.what();
    }
  }
  std::filesystem::path directory_;
};

TEST_F(GenerationConfigTest, ReadsQwen3) {
  write("config.json", R"({"eos_token_id": 1, "bos_token_id": 5})");
  const auto config =
      load(R"({"bos_token_id": 151643, "do_sample": true, "eos_token_id": [151645, 151643], "pad_token_id": 151643,
    "temperature": 0.6, "top_k": 20, "top_p": 0.95, "transformers_version": "4.51.0"})");
  const auto& sampling = std::get<MultinomialSampling>(config.strategy);
  EXPECT_EQ(sampling.top_k, 20);
  EXPECT_DOUBLE_EQ(sampling.top_p, 0.95);
  EXPECT_DOUBLE_EQ(config.temperature, 0.6);
  EXPECT_EQ(config.eos_token_ids, (std::vector<int32_t>{151645, 151643, 1})) << "and config.json's";
  EXPECT_EQ(config.bos_token_id, 151643);
  EXPECT_FALSE(config.max_new_tokens || config.max_length);
}

TEST_F(GenerationConfigTest, FallsBackToConfigJson) {
  write("config.json", R"({"eos_token_id": 2, "bos_token_id": 1, "max_length": 20, "hidden_size": 64})");
  const auto alone = load_generation_config(local(directory_));
  EXPECT_TRUE(std::holds_alternative<GreedySearch>(alone.strategy));
  EXPECT_EQ(alone.eos_token_ids, std::vector<int32_t>{2});
  EXPECT_FALSE(alone.max_length);  // transformers' own default, nobody's choice
  EXPECT_EQ(load(R"({"do_sample": false})").eos_token_ids, std::vector<int32_t>{2});
  EXPECT_EQ(load(R"({"eos_token_id": 9})").eos_token_ids, (std::vector<int32_t>{9, 2}));
}

TEST_F(GenerationConfigTest, EndingsAreAllThatAnyFileSays) {
  using Ids = std::vector<int32_t>;
  const std::filesystem::path tiny = BB_TEST_DATA "/apps/tiny";  // 256 <|endoftext|>, 257 <|im_start|>, 258 <|im_end|>
  const auto endings = [&](const char* own, const char* model, const char* tokenizer) {
    for (const char* name : {"generation_config.json", "config.json", "tokenizer.json", "tokenizer_config.json"})
      std::filesystem::remove(directory_ / name);
    if (own != nullptr) write("generation_config.json", own);
    write("config.json", model);
    if (tokenizer == nullptr) return load_generation_config(local(directory_)).eos_token_ids;
    std::filesystem::copy_file(tiny / "tokenizer.json", directory_ / "tokenizer.json");
    write("tokenizer_config.json", tokenizer);
    const Ids ids = load_generation_config(local(directory_)).eos_token_ids;
    EXPECT_EQ(load_generation_config(local(directory_), load_tokenizer(local(directory_))).eos_token_ids, ids);
    return ids;
  };
  EXPECT_EQ(endings(nullptr, "{}", R"({"eos_token": "<|im_end|>"})"), Ids{258});
  EXPECT_EQ(endings(nullptr, "{}", R"({"eos_token": {"content": "<|im_end|>", "special": true}})"), Ids{258});
  EXPECT_EQ(endings(R"({"eos_token_id": [256]})", R"({"eos_token_id": 256})", R"({"eos_token": "<|im_end|>"})"),
            (Ids{256, 258}));
  EXPECT_EQ(endings(R"({"eos_token_id": 256})", R"({"text_config": {"eos_token_id": [257, 256]}})", "{}"),
            (Ids{256, 257}));
  EXPECT_EQ(endings(nullptr, R"({"eos_token_id": 256, "text_config": {"eos_token_id": 258}})", nullptr),
            (Ids{256, 258}));
  EXPECT_EQ(endings(R"({"do_sample": false})", R"({"text_config": {"eos_token_id": 258}})", nullptr), Ids{258});
  EXPECT_EQ(endings(R"({"eos_token_id": null})", R"({"eos_token_id": null})", R"({"eos_token": null})"), Ids{});
  EXPECT_EQ(endings("{}", "{}", R"({"eos_token": "<|nowhere|>"})"), Ids{}) << "the model has no such token";
  // A default of transformers in a config for another vocabulary: 35 is '#' there.
  EXPECT_EQ(endings(R"({"eos_token_id": 258})", R"({"eos_token_id": 35})", "{}"), Ids{258});
  EXPECT_EQ(endings("{}", R"({"eos_token_id": 35})", "{}"), Ids{35}) << "nobody says otherwise";
}

TEST_F(GenerationConfigTest, MinusOneMeansNone) {
  const auto config = load(R"({"do_sample": true, "top_k": -1, "max_new_tokens": -1, "max_length": -1, "min_length": -1,
    "no_repeat_ngram_size": -1, "pad_token_id": -1, "eos_token_id": [7, -1], "suppress_tokens": [-1]})");
  EXPECT_EQ(std::get<MultinomialSampling>(config.strategy).top_k, 0);
  EXPECT_FALSE(config.max_new_tokens || config.max_length || config.min_length || config.pad_token_id);
  EXPECT_EQ(config.no_repeat_ngram_length, 0);
  EXPECT_EQ(config.eos_token_ids, std::vector<int32_t>{7});
  EXPECT_TRUE(config.suppressed_token_ids.empty());
  refused(R"({"top_k": -2})", ErrorCode::bad_config, "top_k");
  refused(R"({"eos_token_id": -2})", ErrorCode::bad_config, "eos_token_id");
}

/// mlx-lm and transformers go on without it, too; a note names it.
TEST_F(GenerationConfigTest, AFileThatIsNoJsonIsLeftOut) {
  write("config.json", R"({"eos_token_id": 2})");
  std::string told;
  set_log_sink([&](LogLevel, std::string_view line) { told = line; }, LogLevel::warning);
  const auto config = load(R"({"eos_token_id": 3, "do_sample": true,})");
  set_log_sink({});
  EXPECT_EQ(config.eos_token_ids, std::vector<int32_t>{2});
  EXPECT_TRUE(std::holds_alternative<GreedySearch>(config.strategy));
  EXPECT_NE(told.find("generation_config.json] invalid JSON at byte"), std::string::npos) << told;
  EXPECT_NE(told.find("its settings are left out"), std::string::npos) << told;
  EXPECT_EQ(load(R"({"eos_token_id": 3, "eos_token_id": 4})").eos_token_ids, (std::vector<int32_t>{4, 2}));
  refused("[]", ErrorCode::bad_config, "expected a JSON object");
}

TEST_F(GenerationConfigTest, ReadsTheOtherKeys) {
  const auto config =
      load(R"({"max_length": 4096, "min_length": 3, "repetition_penalty": 1.1, "no_repeat_ngram_size": 3,
    "suppress_tokens": [4, 5], "penalty_alpha": 0.6, "top_k": 4, "bad_words_ids": [[7]], "sequence_bias": [[[3], 1.5]],
    "stop_strings": ["END"], "num_beams": 1, "typical_p": 0.2, "use_cache": true, "cache_implementation": "static"})");
  EXPECT_EQ(config.max_length, 4096);
  EXPECT_EQ(config.min_length, 3);
  EXPECT_DOUBLE_EQ(config.repetition_penalty, 1.1);
  EXPECT_EQ(config.no_repeat_ngram_length, 3);
  EXPECT_EQ(config.suppressed_token_ids, (std::vector<int32_t>{4, 5, 7}));
  EXPECT_DOUBLE_EQ(config.logit_bias.at(3), 1.5);
  EXPECT_EQ(std::get<ContrastiveSearch>(config.strategy).top_k, 4);
  EXPECT_EQ(config.stop_strings, std::vector<std::string>{"END"});
  EXPECT_EQ(load(R"({"max_new_tokens": 64, "max_length": 100})").max_new_tokens, 64);
}

TEST_F(GenerationConfigTest, RefusesWhatIsNotImplemented) {
  refused(R"({"num_beams": 4})", ErrorCode::unsupported, "num_beams");
  refused(R"({"guidance_scale": 1.5})", ErrorCode::unsupported, "guidance_scale");
  refused(R"({"diversity_penalty": 0.5})", ErrorCode::unsupported, "diversity_penalty");
  refused(R"({"do_sample": true, "typical_p": 0.9})", ErrorCode::unsupported, "typical_p");
  refused(R"({"do_sample": true, "epsilon_cutoff": 0.001})", ErrorCode::unsupported, "epsilon_cutoff");
  refused(R"({"do_sample": true, "eta_cutoff": 0.001})", ErrorCode::unsupported, "eta_cutoff");
  refused(R"({"begin_suppress_tokens": [1]})", ErrorCode::unsupported, "begin_suppress_tokens");
  refused(R"({"forced_eos_token_id": 1})", ErrorCode::unsupported, "forced_eos_token_id");
  refused(R"({"bad_words_ids": [[1, 2]]})", ErrorCode::unsupported, "bad_words_ids");
}

TEST_F(GenerationConfigTest, RefusesBadValues) {
  refused(R"({"temperature": -1})", ErrorCode::bad_config, "temperature");
  refused(R"({"temperature": "hot"})", ErrorCode::bad_config, "temperature");
  refused(R"({"do_sample": true, "top_p": 1.5})", ErrorCode::bad_config, "top_p");
  refused(R"({"eos_token_id": "x"})", ErrorCode::bad_config, "eos_token_id");
  refused(R"({"eos_token_id": [1, -4]})", ErrorCode::bad_config, "eos_token_id");
  refused(R"([])", ErrorCode::bad_config, "object");
}

TEST(ValidateGenerationConfig, NamesTheField) {
  const auto message = [](const GenerationConfig& config) {
    try {
      validate(config);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::bad_request);
      return std::string(error.what());
    }
    return std::string();
  };
  GenerationConfig config;
  EXPECT_EQ(message(config), "");
  config.max_new_tokens = 5;
  config.max_length = 9;
  EXPECT_NE(message(config).find("only one of max_new_tokens and max_length"), std::string::npos);
  config = {};
  config.top_logprobs = 21;
  EXPECT_NE(message(config).find("top_logprobs"), std::string::npos);
  config = {};
  config.stop_strings = {""};
  EXPECT_NE(message(config).find("stop_strings"), std::string::npos);
  config = {};
  config.stop_strings = {"\xff"};
  EXPECT_NE(message(config).find("UTF-8"), std::string::npos);
  config = {};
  config.strategy = MultinomialSampling{.top_k = 0, .top_p = 0, .min_p = 0};
  EXPECT_NE(message(config).find("top_p"), std::string::npos);
}

}  // namespace
}  // namespace bumblebee
