// The public serving from end to end, on a tiny model with a byte tokenizer: text in, text out, nothing leaks between
// requests.
#include "bumblebee/generation.h"

#include <gtest/gtest.h>
#include <unistd.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <fstream>
#include <thread>

#include "base/utf8.h"
#include "bumblebee/error.h"
#include "bumblebee/log.h"

namespace bumblebee::text {
namespace {

const Repository kTiny = local(BB_TEST_DATA "/apps/tiny");

Model tiny_model() {
  ModelOptions options;
  options.threads = 1;
  return load_model(kTiny, options);
}

GenerationConfig config(int max_new) {
  GenerationConfig c;
  c.max_new_tokens = max_new;
  // A random model says anything: only bytes that spell text keep the assertions readable.
  for (int32_t id = 0; id < 288; ++id) {
    if (id < 32 || id > 126) c.suppressed_token_ids.push_back(id);
  }
  return c;
}

class TextTest : public ::testing::Test {
 protected:
  Model model_ = tiny_model();
  Tokenizer tokenizer_ = load_tokenizer(kTiny);
};

TEST_F(TextTest, RunsAndCounts) {
  const Generation serving = generation(model_, tokenizer_, config(12));
  const Result result = serving.run("Hello");
  EXPECT_EQ(result.tokens.size(), 12u);
  EXPECT_EQ(result.text, tokenizer_.decode(result.tokens));
  EXPECT_EQ(result.text.size(), 12u);
  EXPECT_EQ(result.token_summary.input, 5);
  EXPECT_EQ(result.token_summary.output, 12);
  EXPECT_EQ(result.finish_reason, FinishReason::length);
  EXPECT_STREQ(to_string(result.finish_reason), "length");
  EXPECT_GE(result.timings.ttft_s, result.timings.prefill_s);
  EXPECT_EQ(generation(model_, tokenizer_, GenerationConfig{}).run("Hello").tokens.size() <= 20,
            true);  // Bumblebee's default
}

/// Tokens that were added and never trained: the model has no row for them, and nobody has to use them.
TEST_F(TextTest, TheTokenizerMayHaveMoreTokensThanTheModel) {
  const std::filesystem::path folder =
      std::filesystem::path(::testing::TempDir()) / ("bb_tokenizer_" + std::to_string(::getpid()));
  std::filesystem::copy(BB_TEST_DATA "/apps/tiny", folder);
  nlohmann::json json = nlohmann::json::parse(std::ifstream(folder / "tokenizer.json"));
  for (int id = 259; id < 300; ++id) {
    nlohmann::json token = json["added_tokens"].back();
    token["id"] = id;
    token["content"] = "<added" + std::to_string(id) + ">";
    json["added_tokens"].push_back(token);
  }
  std::ofstream(folder / "tokenizer.json") << json;
  const Tokenizer larger = load_tokenizer(local(folder));
  ASSERT_EQ(larger.vocab_size(), 300);
  std::string told;
  set_log_sink([&](LogLevel, std::string_view line) { told = line; }, LogLevel::warning);
  const Generation serving = generation(model_, larger, config(8));
  set_log_sink({});
  EXPECT_EQ(told, "[tokenizer] 300 tokens, of which the model has 288: ids from 288 on cannot be used");
  EXPECT_EQ(serving.run("Hello").tokens, generation(model_, tokenizer_, config(8)).run("Hello").tokens);
  Input beyond;
  beyond.tokens = std::vector<int32_t>{72, 299};
  EXPECT_THROW(serving.run(beyond), Error);
  std::filesystem::remove_all(folder);
}

TEST_F(TextTest, StreamsWhatRunReturns) {
  const Generation serving = generation(model_, tokenizer_, config(30));
  const Result whole = serving.run("Once");
  std::string streamed;
  int pieces = 0;
  const Result result = serving.stream("Once", [&](std::string_view piece) {
    streamed += piece;
    ++pieces;
    return true;
  });
  EXPECT_EQ(streamed, whole.text);
  EXPECT_EQ(result.text, whole.text);
  EXPECT_GT(pieces, 10);
}

TEST_F(TextTest, StreamsWholeCharactersOnly) {
  GenerationConfig anything;
  anything.max_new_tokens = 60;
  anything.strategy = MultinomialSampling{};
  anything.temperature = 2;
  const Generation serving = generation(model_, tokenizer_, anything);
  for (uint64_t seed = 0; seed < 5; ++seed) {
    Input input("x");
    input.seed = seed;
    std::string streamed;
    const Result result = serving.stream(input, [&](std::string_view piece) {
      EXPECT_TRUE(valid_utf8(piece));
      streamed += piece;
      return true;
    });
    EXPECT_EQ(streamed, result.text);
  }
}

TEST_F(TextTest, StopsBeforeAStopString) {
  const Result whole = generation(model_, tokenizer_, config(40)).run("Stop test");
  GenerationConfig stopping = config(40);
  stopping.stop_strings = {whole.text.substr(17, 5), "no such text"};
  const size_t at = whole.text.find(stopping.stop_strings[0]);
  std::string streamed;
  const Result result = generation(model_, tokenizer_, stopping).stream("Stop test", [&](std::string_view piece) {
    streamed += piece;
    return true;
  });
  EXPECT_EQ(result.text, whole.text.substr(0, at));
  EXPECT_EQ(streamed, result.text);
  EXPECT_EQ(result.finish_reason, FinishReason::stop);
  EXPECT_EQ(result.tokens.size(), at + 5);  // tokens are what was computed; text is what is shown
}

TEST_F(TextTest, CancelsFromTheCallbackAndTheHandle) {
  const Generation serving = generation(model_, tokenizer_, config(2000),
                                        {.limits = {.batch_size = 2, .sequence_length = 4096}, .prefill_chunk = 64});
  int pieces = 0;
  const Result stopped = serving.stream("a", [&](std::string_view) { return ++pieces < 3; });
  EXPECT_EQ(stopped.finish_reason, FinishReason::cancelled);
  EXPECT_EQ(pieces, 3);
  EXPECT_EQ(serving.stream("a", [&, n = 0](std::string_view) mutable { return ++n < 3; }).tokens, stopped.tokens)
      << "what was computed before the cancel came is not part of the answer";
  Input input("a");
  const Result cancelled = serving.stream(input, [&](std::string_view) {
    input.cancel.cancel();
    return true;
  });
  EXPECT_EQ(cancelled.finish_reason, FinishReason::cancelled);
  EXPECT_LT(cancelled.tokens.size(), 4u);
}

TEST_F(TextTest, ManyThreadsShareTheServing) {
  const Generation serving = generation(model_, tokenizer_, config(8),
                                        {.limits = {.batch_size = 4, .sequence_length = 128}, .prefill_chunk = 16});
  std::vector<std::string> want, got(32);
  for (int i = 0; i < 8; ++i) want.push_back(serving.run("prompt " + std::string(size_t(i), 'x')).text);
  std::vector<std::thread> threads;
  for (int t = 0; t < 32; ++t) {
    threads.emplace_back([&, t] { got[size_t(t)] = serving.run("prompt " + std::string(size_t(t % 8), 'x')).text; });
  }
  for (std::thread& thread : threads) thread.join();
  for (int t = 0; t < 32; ++t) EXPECT_EQ(got[size_t(t)], want[size_t(t % 8)]);
}

TEST_F(TextTest, RunsListsInOrderAndRefusesThemAsAWhole) {
  const Generation serving = generation(model_, tokenizer_, config(6),
                                        {.limits = {.batch_size = 2, .sequence_length = 64}, .prefill_chunk = 16});
  std::vector<Input> inputs = {"one", "two", "three", "four"};
  const auto results = serving.run(inputs);
  ASSERT_EQ(results.size(), 4u);
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(results[i].text, serving.run(inputs[i]).text);
  inputs.push_back(std::string(64, 'x'));
  try {
    serving.run(inputs);
    ADD_FAILURE() << "a prompt as long as the sequence was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::too_long);
    EXPECT_NE(std::string(error.what()).find("sequence length of 64, got 64"), std::string::npos) << error.what();
  }
  EXPECT_TRUE(serving.run(std::span<const Input>()).empty());
}

TEST_F(TextTest, RendersConversations) {
  Input input;
  input.messages = {{"user", "Hi <|im_end|>", ""}};
  const Prompt prompt = tokenizer_.apply_chat_template(input.messages);
  EXPECT_EQ(prompt.text, "<|im_start|>user\nHi <|im_end|><|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(std::count(prompt.tokens.begin(), prompt.tokens.end(), 258), 1);  // the template's, not the user's
  const Result result = generation(model_, tokenizer_, config(5)).run(input);
  EXPECT_EQ(result.token_summary.input, int(prompt.tokens.size()));
  Input same;
  same.tokens = prompt.tokens;
  EXPECT_EQ(generation(model_, tokenizer_, config(5)).run(same).text, result.text);
  input.messages = {{"", "", R"({"role": "user", "content": "as JSON"})"}};
  EXPECT_NE(tokenizer_.apply_chat_template(input.messages).text.find("user\nas JSON"), std::string::npos);
  input.messages = {{"", "", "[1]"}};
  EXPECT_THROW(generation(model_, tokenizer_, config(5)).run(input), Error);
}

TEST_F(TextTest, OneFailingCallbackDoesNotHurtTheServing) {
  const Generation serving = generation(model_, tokenizer_, config(4));
  EXPECT_THROW(serving.stream("x", [](std::string_view) -> bool { throw std::runtime_error("callback"); }),
               std::runtime_error);
  // A callback is on its caller's thread, and may use the serving itself.
  std::string inside;
  const Result outer = serving.stream("x", [&](std::string_view) {
    if (inside.empty()) inside = serving.run("inside").text;
    return true;
  });
  EXPECT_EQ(outer.text, serving.run("x").text);
  EXPECT_EQ(inside, serving.run("inside").text);
  EXPECT_EQ(serving.run("x").tokens.size(), 4u);
}

/// Pages of keys and values have 64 tokens; whole ones are kept.
TEST_F(TextTest, WhatWasComputedIsNotComputedAgain) {
  const Generation serving = generation(model_, tokenizer_, config(70));
  Input turn(std::string(200, 'x'));
  const Result first = serving.run(turn);
  EXPECT_EQ(first.token_summary.cached, 0);
  turn.tokens = tokenizer_.encode(turn.text);
  turn.tokens.insert(turn.tokens.end(), first.tokens.begin(), first.tokens.end());
  turn.tokens.push_back('?');
  turn.cache = false;
  const Result alone = serving.run(turn);
  EXPECT_EQ(alone.token_summary.cached, 0);
  turn.cache = true;
  turn.cache_salt = "another";
  EXPECT_EQ(serving.run(turn).token_summary.cached, 0);
  turn.cache_salt.clear();
  const Result second = serving.run(turn);
  EXPECT_GE(second.token_summary.cached, 256) << "the answer of before as well";
  EXPECT_EQ(second.tokens, alone.tokens);
  turn.config = config(6);
  turn.config->strategy = ContrastiveSearch{};
  EXPECT_EQ(serving.run(turn).token_summary.cached, 0) << "it compares the hidden states of all tokens";
}

TEST_F(TextTest, PromptsTellHowFarTheyAre) {
  const Generation serving = generation(model_, tokenizer_, config(1),
                                        {.limits = {.batch_size = 1, .sequence_length = 3000}, .prefill_chunk = 32});
  Input input(std::string(2500, 'x'));
  int last = 0, calls = 0;
  const auto caller = std::this_thread::get_id();
  input.prompt_progress = [&](int done, int total) {
    EXPECT_EQ(total, 2500);
    EXPECT_GE(done, last);
    EXPECT_EQ(std::this_thread::get_id(), caller);
    last = done;
    ++calls;
  };
  serving.run(input);
  EXPECT_GT(calls, 0);
  input.prompt_progress = [](int, int) { throw std::runtime_error("enough"); };
  EXPECT_THROW(serving.run(input), std::runtime_error);
  EXPECT_EQ(serving.run("x").tokens.size(), 1u);
}

TEST_F(TextTest, StreamsSeveralOneAfterTheOther) {
  const Generation serving = generation(model_, tokenizer_, config(6),
                                        {.limits = {.batch_size = 3, .sequence_length = 64}, .prefill_chunk = 16});
  const std::vector<Input> inputs = {"one", "two", "three"};
  std::vector<std::string> heard(3);
  size_t last = 0;
  const auto results = serving.stream(inputs, [&](size_t input, std::string_view piece) {
    EXPECT_GE(input, last);
    last = input;
    heard.at(input) += piece;
    return true;
  });
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(heard[i], results[i].text);
    EXPECT_EQ(results[i].text, serving.run(inputs[i]).text);
  }
}

TEST_F(TextTest, SeveralAreCancelledTogetherOrOneByOne) {
  const Generation serving = generation(model_, tokenizer_, config(40),
                                        {.limits = {.batch_size = 3, .sequence_length = 64}, .prefill_chunk = 16});
  std::vector<Input> inputs = {"one", "two", "three"};
  int calls = 0;
  for (const Result& result : serving.stream(inputs, [&](size_t, std::string_view) { return ++calls < 2; }))
    EXPECT_EQ(result.finish_reason, FinishReason::cancelled);
  EXPECT_EQ(calls, 2) << "false is the last word";
  const auto results = serving.stream(inputs, [&](size_t input, std::string_view) {
    if (input == 0) inputs[0].cancel.cancel();
    return true;
  });
  EXPECT_EQ(results[0].finish_reason, FinishReason::cancelled);
  for (const size_t i : {1, 2}) EXPECT_EQ(results[i].text, serving.run(inputs[i]).text);
}

/// Spells `text` byte by byte, then ends, unless that is not allowed yet: then '+' until it is.
GenerationConfig spelling(const std::string& text) {
  GenerationConfig c;
  c.max_new_tokens = 100;
  c.eos_token_ids = {258};
  c.logit_bias[258] = 1000;
  c.logit_bias['+'] = 500;
  for (size_t i = 0; i < text.size(); ++i) c.forced_token_ids[int(i)] = uint8_t(text[i]);
  return c;
}

TEST_F(TextTest, NoAnswerEndsBeforeItsCharacters) {
  const Generation serving = generation(model_, tokenizer_, {});
  Input input("x");
  input.config = spelling("gr\xC3\xBC\xC3\x9F");
  EXPECT_EQ(serving.run(input).text, "gr\xC3\xBC\xC3\x9F");
  input.config->min_chars = 4;
  EXPECT_EQ(serving.run(input).text, "gr\xC3\xBC\xC3\x9F") << "four characters, in six bytes";
  input.config->min_chars = 7;
  const Result result = serving.run(input);
  EXPECT_EQ(result.text, "gr\xC3\xBC\xC3\x9F+++");
  EXPECT_EQ(result.finish_reason, FinishReason::stop);
  input.config = spelling("word \xF0\x9F\x98\x80 #tag");
  input.config->min_chars = 8;
  input.config->strip = {.hashtags = true, .emoji = true};
  EXPECT_EQ(serving.run(input).text, "word +++") << "what goes does not count";
}

TEST_F(TextTest, ATextEndsWithASentenceWithinItsCharacters) {
  const Generation serving = generation(model_, tokenizer_, {});
  Input input("x");
  input.config = spelling("One two. Three four. Five six seven.");
  input.config->max_chars = 25;
  std::string heard;
  const Result result = serving.stream(input, [&](std::string_view piece) {
    heard += piece;
    return true;
  });
  EXPECT_EQ(result.text, "One two. Three four.");
  EXPECT_EQ(heard, result.text);
  EXPECT_EQ(result.finish_reason, FinishReason::length);
  EXPECT_EQ(result.tokens.size(), 26u) << "the one that is too many was computed";
  input.config->max_chars = 36;
  EXPECT_EQ(serving.run(input).finish_reason, FinishReason::stop);
  input.config->max_chars = 25;
  input.config->min_chars = 22;
  EXPECT_EQ(serving.run(input).text, "One two. Three four. Five") << "the last sentence would be too short";
  input.config->min_chars = 26;
  EXPECT_THROW(serving.run(input), Error);
}

TEST_F(TextTest, LeavesOutWhatIsAskedFor) {
  const Generation serving = generation(model_, tokenizer_, {});
  Input input("x");
  input.config = spelling("<think>no. no.</think>\n\nYes #tag.");
  input.config->strip = {.think = true, .hashtags = true};
  const Result result = serving.run(input);
  EXPECT_EQ(result.text, "Yes.");
  EXPECT_EQ(result.tokens.size(), 33u) << "tokens are what was computed";
  input.text = "Say it.<think>\n";
  input.config = spelling("so</think>Yes");
  input.config->strip.think = true;
  EXPECT_EQ(serving.run(input).text, "Yes") << "the prompt had begun the thought";
  input.text = "x";
  EXPECT_EQ(serving.run(input).text, "soYes");
}

TEST_F(TextTest, PerRequestSettings) {
  const Generation serving = generation(model_, tokenizer_, config(4));
  Input input("x");
  input.config = config(7);
  input.config->top_logprobs = 3;
  const Result result = serving.run(input);
  EXPECT_EQ(result.tokens.size(), 7u);
  ASSERT_EQ(result.logprobs.size(), 7u);
  EXPECT_EQ(result.logprobs[0].token, result.tokens[0]);
  EXPECT_EQ(result.logprobs[0].top.size(), 3u);
  EXPECT_LE(result.logprobs[0].logprob, result.logprobs[0].top[0].second);
  input.config->temperature = -1;
  EXPECT_THROW(serving.run(input), Error);
  EXPECT_THROW(serving.run(""), Error);
}

TEST_F(TextTest, RefusesServingsThatCannotBe) {
  EXPECT_THROW(generation(model_, tokenizer_, {}, {.limits = {.batch_size = 0}}), Error);
  EXPECT_THROW(generation(model_, tokenizer_, {}, {.limits = {.batch_size = 1, .sequence_length = 1 << 20}}), Error);
  ModelOptions options;
  const Model narrow = load_model(local(BB_TEST_DATA "/goldens/models/llama"), options);  // 128 rows, 259 tokens
  try {
    generation(narrow, tokenizer_, {});
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::bad_config);
    EXPECT_NE(std::string(error.what()).find("259"), std::string::npos);
  }
}

TEST_F(TextTest, MemoryForKeysAndValuesBoundsAServing) {
  const uint64_t page = model_.info().kv_bytes(64, model_.options().kv_type);
  const auto limits = [&](int length, uint64_t bytes) {
    return generation(model_, tokenizer_, config(4),
                      {.limits = {.batch_size = 2, .sequence_length = length}, .prefill_chunk = 16, .kv_bytes = bytes})
        .limits();
  };
  EXPECT_EQ(limits(0, 3 * page).sequence_length, 192) << "as much of the context as fits";
  EXPECT_EQ(limits(0, 3 * page).kv_bytes, 3 * page);
  EXPECT_EQ(limits(0, 0).sequence_length, model_.info().context);
  EXPECT_EQ(limits(100, 3 * page).sequence_length, 100);
  try {
    limits(200, 3 * page);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::out_of_memory);
    const std::string what = error.what();
    EXPECT_NE(what.find(std::to_string(4 * page)), std::string::npos) << what;
    EXPECT_NE(what.find(std::to_string(3 * page)), std::string::npos) << what;
  }
  // Requests that do not fit beside each other wait for each other.
  const Generation serving =
      generation(model_, tokenizer_, config(100),
                 {.limits = {.batch_size = 4, .sequence_length = 180}, .prefill_chunk = 16, .kv_bytes = 3 * page});
  const std::vector<Input> inputs(4, Input("a"));
  for (const Result& result : serving.run(inputs)) EXPECT_EQ(result.tokens.size(), 100u);
}

}  // namespace
}  // namespace bumblebee::text
