// `generate`: shapes, streaming, where the prompt comes from, sampling flags, Ctrl-C.
#include <gtest/gtest.h>

#include "tests/apps/harness.h"

namespace bumblebee::apps_test {
namespace {

TEST(Generate, JsonHasThePromisedShape) {
  Outcome got = run({"generate", "-m", tiny_model(), "-p", "Hi", "-n", "8", "--temp", "0", "--json"});
  ASSERT_EQ(got.status, 0) << got.err;
  nlohmann::json json = got.json();
  EXPECT_TRUE(json.at("text").is_string());
  EXPECT_LE(json.at("tokens").size(), 8u);
  EXPECT_GT(json.at("prompt_tokens").get<int>(), 2) << "the template adds tokens";
  EXPECT_TRUE(json.at("finish_reason") == "length" || json.at("finish_reason") == "stop");
  for (const char* key : {"load_s", "ttft_s", "prefill_tokens_per_s", "decode_tokens_per_s"}) {
    EXPECT_GE(json.at("timings").at(key).get<double>(), 0) << key;
  }
  EXPECT_GT(json.at("timings").at("load_s").get<double>(), 0);
  EXPECT_FALSE(json.contains("logprobs"));
  EXPECT_EQ(got.err, "") << "nothing but errors on stderr when it is no terminal";
}

TEST(Generate, StreamsTheSameTextThatJsonReports) {
  std::vector<std::string> arguments = {"generate", "-m", tiny_model(), "-p", "Hi", "-n", "12", "--greedy"};
  Outcome plain = run(arguments);
  arguments.push_back("--json");
  Outcome json = run(arguments);
  ASSERT_EQ(plain.status, 0) << plain.err;
  // JSON cannot hold bytes that are no UTF-8; neither may the stream.
  EXPECT_EQ(plain.out, json.json().at("text").get<std::string>() + "\n");
}

TEST(Generate, RunIsAnAlias) {
  EXPECT_EQ(run({"run", "-m", tiny_model(), "-p", "Hi", "-n", "4", "--greedy"}).out,
            run({"generate", "-m", tiny_model(), "-p", "Hi", "-n", "4", "--greedy"}).out);
}

TEST(Generate, EverySourceOfThePromptMeansTheSame) {
  Scratch scratch;
  write_file(scratch / "prompt", "Hello there");
  std::vector<std::string> start = {"generate", "-m", tiny_model(), "-n", "6", "--greedy", "--json"};
  auto with = [&](std::vector<std::string> more, std::string input) {
    std::vector<std::string> arguments = start;
    arguments.insert(arguments.end(), more.begin(), more.end());
    nlohmann::json json = run(Call{arguments, {}, std::move(input), 0, {}}).json();
    json.erase("timings");
    json.erase("seed");
    return json;
  };
  nlohmann::json expected = with({"-p", "Hello there"}, "");
  EXPECT_EQ(with({"Hello there"}, ""), expected) << "positional";
  EXPECT_EQ(with({"-p", "-"}, "Hello there"), expected) << "stdin";
  EXPECT_EQ(with({}, "Hello there"), expected) << "a pipe";
  EXPECT_EQ(with({"-f", (scratch / "prompt").string()}, ""), expected) << "file";
}

TEST(Generate, RawContinuesTheTextAndTokensMeanTheirText) {
  Outcome raw = run({"generate", "-m", tiny_model(), "--raw", "-p", "ab", "-n", "5", "--greedy", "--json"});
  ASSERT_EQ(raw.status, 0) << raw.err;
  EXPECT_EQ(raw.json().at("prompt_tokens"), 2);
  nlohmann::json ids = run({"tokenize", "-m", tiny_model(), "--json", "ab"}).json();
  std::string list = ids.dump();
  Outcome tokens = run({"generate", "-m", tiny_model(), "--tokens", list, "-n", "5", "--greedy", "--json"});
  ASSERT_EQ(tokens.status, 0) << tokens.err;
  EXPECT_EQ(tokens.json().at("tokens"), raw.json().at("tokens"));
}

TEST(Generate, ControlTokensInThePromptStayTextUnlessAsked) {
  auto count = [](std::vector<std::string> more) {
    std::vector<std::string> arguments = {"generate",   "-m", tiny_model(), "--raw", "-p",
                                          "<|im_end|>", "-n", "1",          "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(arguments).json().at("prompt_tokens").get<int>();
  };
  EXPECT_EQ(count({}), 10) << "ten bytes";
  EXPECT_EQ(count({"--parse-control-tokens"}), 1);
}

TEST(Generate, SystemPromptAndThinkingReachTheTemplate) {
  auto prompt_tokens = [](std::vector<std::string> more) {
    std::vector<std::string> arguments = {"generate", "-m", tiny_model(), "-p", "x", "-n", "1", "--greedy", "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    Outcome got = run(arguments);
    EXPECT_EQ(got.status, 0) << got.err;
    return got.json().at("prompt_tokens").get<int>();
  };
  int plain = prompt_tokens({});
  // <|im_start|> "system" "\n" "abc" <|im_end|> "\n"
  EXPECT_EQ(prompt_tokens({"--system-prompt", "abc"}), plain + 1 + 6 + 1 + 3 + 1 + 1);
  int quiet = prompt_tokens({"--no-thinking"});
  EXPECT_EQ(quiet, plain + 19) << "<think>, </think> and four line ends, byte by byte";
  EXPECT_EQ(prompt_tokens({"--chat-template-kwargs", R"({"enable_thinking": false})"}), quiet);
  EXPECT_EQ(prompt_tokens({"--chat-template", "{{ messages[0].content }}"}), 1);
}

TEST(Generate, ASeedRepeatsAndSeedsDiffer) {
  auto text = [](const char* seed) {
    return run({"generate", "-m", tiny_model(), "-p", "x", "-n", "24", "--temp", "1.5", "--seed", seed, "--json"})
        .json()
        .at("tokens");
  };
  EXPECT_EQ(text("1"), text("1"));
  EXPECT_NE(text("1"), text("2"));
  const auto fresh = [] {  // llama.cpp's word for a fresh one
    return run({"generate", "-m", tiny_model(), "-p", "x", "-n", "1", "--temp", "1", "--seed", "-1", "--json"})
        .json()
        .at("seed");
  };
  EXPECT_NE(fresh(), fresh());
}

TEST(Generate, AFilterThatIsOffDrawsNothing) {
  const auto text = [](std::vector<std::string> more) {
    std::vector<std::string> arguments = {"generate", "-m", tiny_model(), "-p", "x", "-n", "24"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(arguments).out;
  };
  const std::string likeliest = text({"--greedy"});
  EXPECT_EQ(text({}), likeliest) << "the model's own setting";
  for (const std::vector<std::string>& off :
       {std::vector<std::string>{"--top-k", "0"}, {"--top-p", "1"}, {"--min-p", "0"}})
    EXPECT_EQ(text(off), likeliest) << off[0];
}

TEST(Generate, SamplingFlagsDoWhatTheySay) {
  auto tokens = [](std::vector<std::string> more) {
    std::vector<std::string> arguments = {"generate", "-m", tiny_model(), "-p", "x", "-n", "16", "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    Outcome got = run(arguments);
    EXPECT_EQ(got.status, 0) << got.err;
    return got.json().at("tokens");
  };
  nlohmann::json greedy = tokens({"--greedy"});
  EXPECT_EQ(tokens({"--temp", "0"}), greedy);
  EXPECT_EQ(tokens({}), greedy) << "generation_config.json says do_sample: false";
  EXPECT_EQ(tokens({"--temp", "2", "--top-k", "1"}), greedy) << "one candidate leaves no choice";
  nlohmann::json forced = tokens({"--greedy", "--logit-bias", "65=1000", "--min-tokens", "16"});
  EXPECT_EQ(forced, nlohmann::json(std::vector<int>(16, 65)));
  nlohmann::json no_repeat = tokens({"--greedy", "--logit-bias", "65=1000,66=900", "--no-repeat-ngram", "1"});
  ASSERT_GE(no_repeat.size(), 2u);
  EXPECT_NE(no_repeat[0], no_repeat[1]);
  EXPECT_FALSE(tokens({"--contrastive-alpha", "0.6", "--top-k", "4"}).empty());
}

TEST(Generate, StopEndsTheText) {
  Outcome got = run({"generate", "-m", tiny_model(), "-p", "x", "-n", "16", "--greedy", "--logit-bias", "65=1000",
                     "--stop", "bbb", "--json"});
  ASSERT_EQ(got.status, 0) << got.err;
  std::string letter = run({"detokenize", "-m", tiny_model(), "65"}).out.substr(0, 1);
  EXPECT_EQ(letter, "A");
  Outcome stopped = run({"generate", "-m", tiny_model(), "-p", "x", "-n", "16", "--greedy", "--logit-bias", "65=1000",
                         "-r", "AAA", "--json"});
  EXPECT_EQ(stopped.json().at("finish_reason"), "stop");
  EXPECT_EQ(stopped.json().at("text"), "");
  EXPECT_EQ(got.json().at("finish_reason"), "length");
}

TEST(Generate, LogprobsComeWhenAsked) {
  Outcome got = run({"generate", "-m", tiny_model(), "-p", "x", "-n", "3", "--greedy", "--logprobs", "4", "--json"});
  ASSERT_EQ(got.status, 0) << got.err;
  nlohmann::json json = got.json();
  ASSERT_EQ(json.at("logprobs").size(), json.at("tokens").size());
  for (size_t i = 0; i < json["tokens"].size(); ++i) {
    const nlohmann::json& one = json["logprobs"][i];
    EXPECT_EQ(one.at("token"), json["tokens"][i]);
    EXPECT_LE(one.at("logprob").get<double>(), 0);
    ASSERT_EQ(one.at("top").size(), 4u);
    EXPECT_EQ(one["top"][0].at("token"), json["tokens"][i]) << "greedy takes the likeliest";
  }
}

TEST(Generate, DevicesAgree) {
  auto tokens = [](const char* device) {
    return run({"generate", "-m", tiny_model(), "-p", "x", "-n", "8", "--greedy", "--device", device, "--json"})
        .json()
        .at("tokens");
  };
  EXPECT_EQ(tokens("ref"), tokens("cpu"));
}

TEST(Generate, QuantizesADenseModelWhileLoading) {
  Outcome got = run({"generate", "-m", tiny_model(), "-p", "x", "-n", "4", "--greedy", "--quantization", "int8",
                     "--group-size", "32", "--json"});
  EXPECT_EQ(got.status, 0) << got.err;
  EXPECT_EQ(got.json().at("tokens").size(), 4u);
}

TEST(Generate, CtrlCStopsWith130AndShowsWhatThereWas) {
  // An answer of 30,000 tokens, none of which ends it: there is time to interrupt it on any machine.
  Outcome got = run(Call{{"generate", "-m", tiny_model(), "--raw", "-p", "x", "-n", "30000", "--greedy", "--logit-bias",
                          "65=1000", "--device", "ref", "-t", "1"},
                         {},
                         {},
                         0,
                         "A"});
  EXPECT_EQ(got.status, 130) << got.err;
  EXPECT_TRUE(got.out.starts_with("A"));
  EXPECT_TRUE(got.out.ends_with("\n"));
  EXPECT_LT(got.out.size(), 30001u);
}

TEST(Generate, VerboseShowsTheSpeed) {
  Outcome got = run({"generate", "-m", tiny_model(), "-p", "x", "-n", "4", "--greedy", "-v"});
  EXPECT_NE(got.err.find("tokens at"), std::string::npos) << got.err;
  got = run({"generate", "-m", tiny_model(), "-p", "x", "-n", "1", "-v", "--device", "auto"});
  EXPECT_NE(got.err.find(", device c"), std::string::npos) << "the one that it came to, cpu or cuda: " << got.err;
}

TEST(Generate, SeveralAnswersToOnePrompt) {
  std::vector<std::string> arguments = {"generate", "-m", tiny_model(), "-p", "Hi",      "-n", "6",
                                        "--temp",   "50", "--seed",     "7",  "--count", "3"};
  const Outcome plain = run(arguments);
  EXPECT_EQ(plain.status, 0) << plain.err;
  arguments.push_back("--json");
  const Outcome json = run(arguments);
  std::vector<nlohmann::json> answers;
  for (size_t at = 0, end = 0; at < json.out.size(); at = end + 1) {
    end = json.out.find('\n', at);
    answers.push_back(nlohmann::json::parse(json.out.substr(at, end - at)));
  }
  ASSERT_EQ(answers.size(), 3u);
  EXPECT_EQ(plain.out, answers[0].at("text").get<std::string>() + "\n---\n" + answers[1].at("text").get<std::string>() +
                           "\n---\n" + answers[2].at("text").get<std::string>() + "\n");
  EXPECT_NE(answers[0].at("tokens"), answers[1].at("tokens"));
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(answers[size_t(i)].at("seed"), 7 + i);
    const nlohmann::json alone = run({"generate", "-m", tiny_model(), "-p", "Hi", "-n", "6", "--temp", "50", "--seed",
                                      std::to_string(7 + i), "--json"})
                                     .json();
    EXPECT_EQ(alone.at("tokens"), answers[size_t(i)].at("tokens")) << "its seed repeats an answer by itself";
  }
  const Outcome same = run({"generate", "-m", tiny_model(), "-p", "Hi", "-n", "2", "--greedy", "-n-best", "2"});
  EXPECT_NE(same.err.find("all answers will be the same"), std::string::npos) << same.err;
}

TEST(Generate, CharactersBoundTheText) {
  const auto text = [](std::vector<std::string> more) {
    std::vector<std::string> arguments = {"generate", "-m", tiny_model(), "-p", "Hi", "--greedy", "-n", "60", "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Outcome got = run(arguments);
    EXPECT_EQ(got.status, 0) << got.err;
    return got.json().at("text").get<std::string>();
  };
  // 258 is <|im_end|>, 65 is A: it would end at once, and may not.
  EXPECT_EQ(text({"--logit-bias", "258=2000", "--logit-bias", "65=1000"}), "");
  EXPECT_EQ(text({"--logit-bias", "258=2000", "--logit-bias", "65=1000", "--min-chars", "5"}), "AAAAA");
  EXPECT_EQ(text({"--logit-bias", "65=1000", "--max-chars", "7"}), "AAAAAAA");
  EXPECT_EQ(text({"--logit-bias", "65=1000", "--min-chars", "3", "--max-chars", "7", "-n", "2"}), "AA");
  EXPECT_EQ(run({"generate", "-m", tiny_model(), "-p", "Hi", "--min-chars", "9", "--max-chars", "5"}).status, 8);
  EXPECT_EQ(run({"generate", "-m", tiny_model(), "-p", "Hi", "--strip", "smileys"}).status, 2);
}

TEST(Generate, NoLimitIsTheContext) {
  const Outcome got =
      run({"generate", "-m", tiny_model(), "-p", "Hi", "--greedy", "--logit-bias", "65=1000", "-n", "-1", "-c", "700"});
  EXPECT_EQ(got.status, 0) << got.err;
  EXPECT_GT(got.out.size(), 640u);
  EXPECT_NE(got.err.find("the context of 700 tokens is full"), std::string::npos) << got.err;
  const Outcome unasked = run({"generate", "-m", tiny_model(), "-p", "Hi", "--greedy", "--logit-bias", "65=1000"});
  EXPECT_EQ(unasked.out.size(), 513u);
  EXPECT_NE(unasked.err.find("the answer is cut at 512 tokens; -n sets another limit, -n -1 none"), std::string::npos)
      << unasked.err;
  for (const char* wrong : {"0", "-2", "x"})
    EXPECT_EQ(run({"generate", "-m", tiny_model(), "-p", "x", "-n", wrong}).status, 2);
}

}  // namespace
}  // namespace bumblebee::apps_test
