// Data files: which format a file has, what a broken row says, what is cut or left out.
#include "dataset/data_reader.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "base/error.h"
#include "tests/dataset/data_tokenizer.h"

namespace bumblebee::dataset {
namespace {

class DataReader : public ::testing::Test {
 protected:
  DataReader() : tokenizer_(testing::thinking_tokenizer()), chat_(testing::template_named("tiny", tokenizer_)) {}

  Splits read(const TrainData& data, const ReadOptions& options = {}) {
    return read_data(data, tokenizer_, &chat_, options);
  }
  Dataset train(std::vector<std::string> rows, bool mask = false, int limit = 2048) {
    TrainData data;
    data.train = std::move(rows);
    data.mask_prompt = mask;
    return read(data, {.max_seq_length = limit}).train;
  }
  void expect_error(std::vector<std::string> rows, ErrorCode code, const std::string& part, bool mask = false) {
    try {
      train(rows, mask);
      ADD_FAILURE() << "accepted: " << rows.back();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what() << "\nwithout: " << part;
    }
  }
  std::string text(const DataRow& row) { return tokenizer_.decode(row.tokens); }

  txt::Tokenizer tokenizer_;
  txt::ChatTemplate chat_;
};

const std::string kChat = R"({"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Yo"}]})";

TEST_F(DataReader, TheFirstRowSaysTheFormat) {
  EXPECT_EQ(train({R"({"prompt":"a","completion":"b","messages":[],"text":"c"})"}).format, DataFormat::completions);
  EXPECT_EQ(train({R"({"text":"c","messages":[{"role":"user","content":"x"}]})"}).format, DataFormat::chat);
  EXPECT_EQ(train({R"({"text":"c","prompt":"a"})"}).format, DataFormat::text);
  expect_error({R"({"question":"a","answer":"b"})"}, ErrorCode::bad_config, "got 'question', 'answer'");
}

TEST_F(DataReader, ListsMayBeText) {
  const Json call = {{"function", {{"name", "f"}, {"arguments", {{"a", 1}}}}}};
  const Json tool = {{"type", "function"}, {"function", {{"name", "f"}}}};
  const auto row = [](const Json& calls, const Json& tools) {
    return Json{{"messages", {{{"role", "user"}, {"content", "x"}}, {{"role", "assistant"}, {"tool_calls", calls}}}},
                {"tools", tools}}
        .dump();
  };
  const std::string source =
      "{{ tools | tojson }}{% for m in messages %}{{ m.role }}{{ (m.tool_calls or []) | tojson }}{% endfor %}";
  chat_ = txt::ChatTemplate::from_source(source, tokenizer_);
  const Json calls = Json::array({call}), tools = Json::array({tool});
  const std::string want = text(train({row(calls, tools)}).rows[0]);
  EXPECT_NE(want.find("\"a\": 1"), std::string::npos) << want;
  EXPECT_EQ(text(train({row(calls.dump(), tools.dump())}).rows[0]), want);
  expect_error({row(calls, "[broken")}, ErrorCode::bad_file, "train:1");
  expect_error({row(calls, "none")}, ErrorCode::bad_file, "'tools': expected an array");
}

TEST_F(DataReader, ATextThatSpellsItsBeginningGetsNoSecondOne) {
  Json file = parse_json(read_text_file(BB_TEST_DATA "/apps/tiny/tokenizer.json", 1 << 20), "tokenizer.json");
  txt::TokenizerConfig config = txt::TokenizerConfig::from_json(
      R"({"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "add_bos_token": true})");
  tokenizer_ = txt::Tokenizer::from_bytes(file.dump(), config);
  const Dataset plain = train({R"({"text": "Once"})"});
  const Dataset spelled = train({R"({"text": "<|endoftext|>Once"})", R"({"text": "Once"})"});
  EXPECT_EQ(spelled.rows[0].tokens, plain.rows[0].tokens);
  EXPECT_EQ(spelled.rows[0].tokens.front(), 256);
  EXPECT_EQ(spelled.began_twice, 1);
  EXPECT_EQ(plain.began_twice, 0);
  config.add_bos_token.reset();
  tokenizer_ = txt::Tokenizer::from_bytes(file.dump(), config);
  const Dataset own = train({R"({"text": "<|endoftext|><|endoftext|>Once"})"});  // nothing is put before it
  EXPECT_EQ(own.rows[0].tokens.size(), plain.rows[0].tokens.size() + 1);
  EXPECT_EQ(own.began_twice, 0);
}

TEST_F(DataReader, EveryRowIsOfTheSameMoment) {
  chat_ = txt::ChatTemplate::from_source("{{ strftime_now('%Y %H:%M:%S') }}", tokenizer_);
  TrainData data;
  data.train = {kChat};
  EXPECT_EQ(text(read(data, {.now = 86400.0 * 365}).train.rows[0]).substr(0, 4), "1971");
}

TEST_F(DataReader, RowsAsTextAreWhatIsTaughtAndWhatPrecedesIt) {
  TrainData data;
  data.train = {R"({"messages":[{"role":"system","content":"Be."},{"role":"user","content":"Hi"},
                  {"role":"assistant","content":"Yo"}]})",
                kChat};
  data.valid = {R"({"prompt":"a","completion":"b"})"};
  data.test = {R"({"text":"words alone"})"};
  const RowEncoder encoder(data, tokenizer_, &chat_);
  const auto texts = [&](const char* split, size_t most = 10) {
    std::vector<std::string> out;
    for_learned_texts(data, split, encoder, [&](const LearnedText& row, int64_t line) {
      std::string all = std::to_string(line);
      for (const auto& [role, content] : row.before) all += " " + role + "=" + content;
      out.push_back(all + " " + row.text);
      return out.size() < most;
    });
    return out;
  };
  EXPECT_EQ(texts("train"), (std::vector<std::string>{"1 system=Be. user=Hi Yo", "2 user=Hi Yo"}));
  EXPECT_EQ(texts("train", 1).size(), 1u);
  EXPECT_EQ(texts("valid"), std::vector<std::string>{"1 user=a b"});
  EXPECT_EQ(texts("test"), std::vector<std::string>{"1 words alone"});
}

TEST_F(DataReader, KeysCanBeNamed) {
  TrainData data;
  data.train = {R"({"question":"a","answer":"b"})"};
  data.prompt_feature = "question";
  data.completion_feature = "answer";
  EXPECT_EQ(read(data).train.format, DataFormat::completions);
}

TEST_F(DataReader, CompletionsAreConversations) {
  const Dataset data = train({R"({"prompt":"Hi","completion":"Yo"})"}, true);
  const Dataset same = train({kChat}, true);
  EXPECT_EQ(data.rows[0].tokens, same.rows[0].tokens);
  EXPECT_EQ(data.rows[0].first_scored, same.rows[0].first_scored);
  const std::vector<int32_t> learned(data.rows[0].tokens.begin() + data.rows[0].first_scored,
                                     data.rows[0].tokens.end());
  EXPECT_EQ(tokenizer_.decode(learned), "Yo<|im_end|>\n");
}

TEST_F(DataReader, OnlyTheLastMessageIsLearnedWhateverTheTemplateDoes) {
  // Without the last question, Qwen3's template puts thoughts before the answer; with it, none.
  const txt::ChatTemplate qwen3 = testing::template_named("Qwen-Qwen3-0.6B", tokenizer_);
  TrainData data;
  data.mask_prompt = true;
  data.train = {
      R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"}]})",
      R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"Ah."}]})"};
  const Dataset read = read_data(data, tokenizer_, &qwen3, {}).train;
  const auto learned = [&](const DataRow& row) {
    return tokenizer_.decode(std::span(row.tokens).subspan(size_t(row.first_scored)));
  };
  EXPECT_EQ(learned(read.rows[0]), "c<|im_end|>\n");
  EXPECT_EQ(learned(read.rows[1]), "Ah.<|im_end|>\n") << "the empty thoughts are the prompt's";
}

TEST_F(DataReader, APromptThatIsNoPrefixIsNoTrouble) {
  // The prompt of generation ends with <think>, the conversation has none.
  const txt::ChatTemplate thinker = txt::ChatTemplate::from_source(
      "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]<think>"
      "{% endif %}",
      tokenizer_);
  TrainData data;
  data.mask_prompt = true;
  data.train = {R"({"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"Answer"}]})"};
  const DataRow row = read_data(data, tokenizer_, &thinker, {}).train.rows[0];
  EXPECT_EQ(tokenizer_.decode(std::span(row.tokens).subspan(size_t(row.first_scored))), "Answer");
}

TEST_F(DataReader, TextEndsWithOneEndOfText) {
  const Dataset data = train({R"({"text":"ab"})", R"({"text":"ab<|im_end|>"})"});
  EXPECT_EQ(data.rows[0].tokens, data.rows[1].tokens);
  EXPECT_EQ(text(data.rows[0]), "ab<|im_end|>");
  EXPECT_EQ(data.rows[0].first_scored, 1);
  expect_error({R"({"text":"ab"})"}, ErrorCode::bad_config, "mask_prompt", true);
}

TEST_F(DataReader, ContentNeverBecomesAControlToken) {
  const Dataset data = train({R"({"messages":[{"role":"user","content":"<|im_end|>"}]})"});
  EXPECT_EQ(std::count(data.rows[0].tokens.begin(), data.rows[0].tokens.end(), *tokenizer_.id_of("<|im_end|>")), 1);
}

TEST_F(DataReader, BrokenRowsNameTheirLine) {
  const auto broken = [this](const std::string& row, const std::string& part) {
    SCOPED_TRACE(row);
    expect_error({kChat, row}, ErrorCode::bad_file, part);
    expect_error({kChat, row}, ErrorCode::bad_file, "train:2");
  };
  broken("{\"messages\": [", "invalid JSON");
  broken("[1]", "expected a JSON object");
  broken(R"({"text":"x"})", "missing key 'messages'");
  broken(R"({"messages":"x"})", "expected a list of messages");
  broken(R"({"messages":[]})", "expected a list of messages");
  broken(R"({"messages":[7]})", "message 1: expected an object");
  broken(R"({"messages":[{"content":"x"}]})", "message 1: expected a 'role'");
  broken(R"({"messages":[{"role":"user"}]})", "message 1 (user): missing 'content'");
  broken(R"({"messages":[{"role":"user","content":"x"}],"tools":7})", "'tools': expected an array");
  broken(R"({"messages":[{"role":"user","content":NaN}]})", "'content': expected a string");
  broken(R"({"messages":[{"role":"user","content":"x","score":NaN}]})", "NaN or Infinity in a message");
  broken("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", "a Git LFS pointer");
  expect_error({R"({"prompt":"x","completion":"y"})", R"({"prompt":"x"})"}, ErrorCode::bad_file, "'completion'");
  expect_error({R"({"messages":[{"role":"user","content":[{"type":"image"}]}]})"}, ErrorCode::unsupported, "parts");
  expect_error({R"({"messages":[{"role":"assistant","content":"x"}]})"}, ErrorCode::bad_file, "only one", true);
}

/// A system prompt, a user or a tool that says nothing means just that; mlx-lm takes them all.
TEST_F(DataReader, EmptyTurnsAreTurns) {
  const Dataset data = train({R"({"messages":[{"role":"system","content":""},{"role":"user","content":"Hi"},
      {"role":"tool","content":""},{"role":"assistant","content":"Yo"}]})",
                              R"({"messages":[{"role":"user","content":" \n"},{"role":"assistant","content":""}]})"});
  ASSERT_EQ(data.size(), 2);
  EXPECT_EQ(data.blank, 0);
  EXPECT_NE(text(data.rows[0]).find("<|im_start|>system\n<|im_end|>"), std::string::npos) << text(data.rows[0]);
  const Dataset completions = train({R"({"prompt":"","completion":"b"})"}, true);
  ASSERT_EQ(completions.size(), 1);
  EXPECT_GT(completions.rows[0].scored(), 0);
}

TEST_F(DataReader, RowsThatSayNothingWhereTheyAreLearnedAreLeftOutAndCounted) {
  const std::string empty = R"({"messages":[{"role":"user","content":"x"},{"role":"assistant","content":""}]})";
  const Dataset data = train({kChat, empty, empty}, true);
  EXPECT_EQ(data.size(), 1);
  EXPECT_EQ(data.blank, 2);
  EXPECT_EQ(data.unscored, 0);
  EXPECT_EQ(train({kChat, empty}).size(), 2) << "the whole row is learned";
  const Dataset texts = train({R"({"text":"ab"})", R"({"text":""})"});
  EXPECT_EQ(texts.size(), 1);
  EXPECT_EQ(texts.blank, 1);
  expect_error({empty}, ErrorCode::bad_config, "nothing to learn: 1 rows are empty", true);
}

/// As Python's json reads them: a column that nobody learns from may hold anything.
TEST_F(DataReader, RowsThatPythonReads) {
  const Dataset plain = train({kChat});
  const Dataset data = train(
      {R"({"score":NaN,"limits":[Infinity,-Infinity,1e999],"messages":[{"role":"user","content":"Hi"},
      {"role":"assistant","content":"Yo"}]})",
       R"({"messages":"first","messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Yo"}]})"});
  ASSERT_EQ(data.size(), 2);
  EXPECT_EQ(data.repeated, 1);
  for (const DataRow& row : data.rows) EXPECT_EQ(row.tokens, plain.rows[0].tokens);
}

TEST_F(DataReader, ACallOfAToolNeedsNoContent) {
  const Dataset data = train({R"({"messages":[{"role":"user","content":"x"},
      {"role":"assistant","content":"","tool_calls":[{"type":"function","function":{"name":"f","arguments":{}}}]}]})"});
  EXPECT_EQ(data.size(), 1);
}

TEST_F(DataReader, LongRowsAreCutAndCounted) {
  const Dataset whole = train({kChat, kChat});
  const int length = int(whole.rows[0].tokens.size());
  EXPECT_EQ(whole.longest, length);
  EXPECT_EQ(whole.truncated, 0);
  EXPECT_EQ(train({kChat}, false, length).truncated, 0);
  const Dataset cut = train({kChat, R"({"messages":[{"role":"user","content":"x"}]})"}, false, length - 1);
  EXPECT_EQ(cut.truncated, 1);
  EXPECT_EQ(cut.longest, length);
  ASSERT_EQ(int(cut.rows[0].tokens.size()), length - 1);
  EXPECT_TRUE(std::equal(cut.rows[0].tokens.begin(), cut.rows[0].tokens.end(), whole.rows[0].tokens.begin()));
}

TEST_F(DataReader, RowsThatTheMaskAndTheLimitEmptyAreLeftOut) {
  const std::string longer =
      R"({"messages":[{"role":"user","content":"a much longer question than the other"},{"role":"assistant","content":"Yo"}]})";
  const Dataset data = train({kChat, longer}, true, 40);
  EXPECT_EQ(data.size(), 1);
  EXPECT_EQ(data.unscored, 1);
  EXPECT_EQ(data.truncated, 1);
  EXPECT_THROW(train({longer}, true, 40), Error);
}

TEST_F(DataReader, FilesGiveLinesAndMissingOnesAreErrors) {
  std::string name = (std::filesystem::temp_directory_path() / "bumblebee-data-XXXXXX").string();
  ASSERT_NE(::mkdtemp(name.data()), nullptr);
  const std::filesystem::path folder = name;
  TrainData data;
  data.directory = folder;
  EXPECT_THROW(read(data), Error) << "no train.jsonl";
  std::ofstream(folder / "train.jsonl") << "\xEF\xBB\xBF" << kChat << "\r\n\n" << kChat << "\n";
  Splits splits = read(data);
  ASSERT_EQ(splits.train.size(), 2);
  EXPECT_EQ(splits.train.rows[1].line, 3);
  EXPECT_EQ(splits.train.where(1), (folder / "train.jsonl").string() + ":3");
  EXPECT_TRUE(splits.valid.empty());
  EXPECT_THROW(read(data, {.test = true}), Error) << "no test.jsonl";
  std::ofstream(folder / "valid.jsonl") << kChat << "\n{\"broken\n";
  try {
    read(data);
    ADD_FAILURE() << "a broken line was accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("valid.jsonl:2"), std::string::npos) << error.what();
  }
  std::ofstream(folder / "valid.jsonl") << "[\n  " << kChat << "\n]\n";
  try {
    read(data);
    ADD_FAILURE() << "an array was accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("jq -c '.[]'"), std::string::npos) << error.what();
  }
  data.directory = folder / "nowhere";
  EXPECT_THROW(read(data), Error);
  std::filesystem::remove_all(folder);
}

TEST_F(DataReader, WithoutATemplateOnlyTextIsLearned) {
  TrainData data;
  data.train = {R"({"text":"ab"})"};
  EXPECT_EQ(read_data(data, tokenizer_, nullptr, {}).train.size(), 1);
  data.train = {kChat};
  try {
    read_data(data, tokenizer_, nullptr, {});
    ADD_FAILURE() << "a chat without a template";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::unsupported);
  }
}

}  // namespace
}  // namespace bumblebee::dataset
