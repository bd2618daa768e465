// Every flag of every verb has an environment variable, variables work, and the command line beats them.
#include <gtest/gtest.h>

#include <set>
#include <sstream>

#include "tests/apps/harness.h"

namespace bumblebee::apps_test {
namespace {

std::string capitals(std::string name) {
  for (char& c : name) c = c == '-' ? '_' : char(std::toupper(c));
  return name;
}

Outcome with(std::map<std::string, std::string> environment, std::vector<std::string> arguments) {
  return run(Call{std::move(arguments), std::move(environment), {}, 0, {}});
}

TEST(Environment, EveryFlagOfEveryVerbHasATwin) {
  nlohmann::json verbs = run({"help", "--json"}).json().at("verbs");
  ASSERT_GE(verbs.size(), 12u);
  // Verbs that write or delete have variables of their own, but for what says where and how a verb runs and prints.
  const std::set<std::string> writing = {"convert", "quantize", "adapter", "fuse", "prepare", "train", "cache"};
  std::set<std::string> shared = {"--json",      "--verbose", "--no-progress", "--color",
                                  "--log-level", "--device",  "--threads",     "--pin"};
  int flags = 0;
  for (const nlohmann::json& verb : verbs) {
    std::set<std::string> variables;
    const std::string name = verb.at("name");
    const bool own = writing.contains(name);
    // The default model reaches what trains on it and counts its tokens; what makes a model says of which.
    name == "train" || name == "prepare" ? void(shared.insert("--model")) : void(shared.erase("--model"));
    for (const nlohmann::json& option : verb.at("options")) {
      if (option.at("names").empty()) continue;  // a positional
      std::string last = option["names"].back().get<std::string>();
      if (last == "--help") continue;
      SCOPED_TRACE(name + " " + last);
      std::string expected;
      for (const std::string& flag : option["names"].get<std::vector<std::string>>()) {
        if (!expected.empty() || !flag.starts_with("--")) continue;
        expected = own && !shared.contains(flag) ? "BUMBLEBEE_" + capitals(name) + "_" : "BUMBLEBEE_";
        expected += capitals(flag.substr(2));
      }
      EXPECT_FALSE(expected.empty()) << "a flag needs a long name";
      EXPECT_EQ(option.at("environment"), expected);
      EXPECT_TRUE(variables.insert(expected).second) << "two flags share a variable";
      ++flags;
    }
  }
  EXPECT_GT(flags, 80);
}

TEST(Environment, EveryTwinIsRead) {
  // A value that no flag accepts, or a flag that accepts everything: whichever it is, the variable must do what the
  // flag does.
  nlohmann::json verbs = run({"help", "generate", "--json"}).json().at("verbs");
  ASSERT_EQ(verbs.size(), 1u);
  int refused = 0;
  for (const nlohmann::json& option : verbs[0].at("options")) {
    std::string variable = option.at("environment");
    if (variable.empty()) continue;
    Outcome got = with({{variable, "not a value"}}, {"generate", "-m", "/nonexistent/dir", "-p", "x"});
    EXPECT_NE(got.status, 0) << variable;
    if (got.status == 2 && got.err.find("not a value") != std::string::npos) ++refused;
  }
  EXPECT_GE(refused, 15) << "numbers and choices among the variables refuse nonsense";
}

TEST(Environment, ATwinMeansWhatTheFlagMeans) {
  EXPECT_EQ(with({{"BUMBLEBEE_MODEL", tiny_model()}}, {"tokenize", "Hi"}).out, "72 105\n");
  EXPECT_EQ(with({{"BUMBLEBEE_MODEL", tiny_model()}, {"BUMBLEBEE_JSON", "1"}}, {"tokenize", "Hi"}).out, "[72,105]\n");
  EXPECT_EQ(with({{"BUMBLEBEE_MODEL", tiny_model()}, {"BUMBLEBEE_JSON", "0"}}, {"tokenize", "Hi"}).out, "72 105\n");
  Outcome got = with({{"BUMBLEBEE_MODEL", tiny_model()},
                      {"BUMBLEBEE_PROMPT", "x"},
                      {"BUMBLEBEE_MAX_TOKENS", "3"},
                      {"BUMBLEBEE_LOGIT_BIAS", "65=1000"},
                      {"BUMBLEBEE_RAW", "true"}},
                     {"generate", "--json"});
  ASSERT_EQ(got.status, 0) << got.err;
  EXPECT_EQ(got.json().at("text"), "AAA");
}

TEST(Environment, TheCommandLineWins) {
  std::map<std::string, std::string> environment = {{"BUMBLEBEE_MODEL", "/nonexistent/dir"},
                                                    {"BUMBLEBEE_MAX_TOKENS", "9"}};
  Outcome got = with(environment, {"generate", "-m", tiny_model(), "-n", "2", "--raw", "-p", "x", "--logit-bias",
                                   "65=1000", "--json"});
  ASSERT_EQ(got.status, 0) << got.err;
  EXPECT_EQ(got.json().at("text"), "AA");
  // Also over another flag that it excludes.
  got = with({{"BUMBLEBEE_FILE", "/nonexistent/file"}}, {"tokenize", "-m", tiny_model(), "Hi"});
  EXPECT_EQ(got.out, "72 105\n") << got.err;
}

TEST(Environment, AnEmptyTwinCountsAsUnset) {
  EXPECT_EQ(with({{"BUMBLEBEE_FILE", ""}, {"BUMBLEBEE_JSON", ""}}, {"tokenize", "-m", tiny_model(), "Hi"}).out,
            "72 105\n");
}

TEST(Environment, TwinsOfOtherVerbsDoNotMatter) {
  EXPECT_EQ(
      with({{"BUMBLEBEE_BITS", "nonsense"}, {"BUMBLEBEE_TEMP", "nonsense"}}, {"tokenize", "-m", tiny_model(), "Hi"})
          .status,
      0);
}

TEST(Environment, AMistakeNamesTheVariable) {
  const std::vector<std::string> call = {"generate", "-m", tiny_model(), "-p", "x"};
  const auto refused = [&](std::map<std::string, std::string> environment, const std::string& message) {
    const Outcome got = with(environment, call);
    EXPECT_EQ(got.status, 2) << got.err;
    EXPECT_TRUE(got.err.starts_with("bumblebee: error: " + message)) << got.err;
  };
  refused({{"BUMBLEBEE_TEMP", "hot"}}, "BUMBLEBEE_TEMP: expected a number from 0 to 100, got 'hot'");
  refused({{"BUMBLEBEE_GREEDY", "banana"}}, "BUMBLEBEE_GREEDY: expected 1 or 0, got 'banana'");
  // Also where the verb, or the library, finds the mistake.
  refused({{"BUMBLEBEE_LOGIT_BIAS", "5:5"}}, "--logit-bias: expected ID=BIAS such as 42=-1.5, got '5:5'");
  EXPECT_NE(with({{"BUMBLEBEE_LOGIT_BIAS", "5:5"}}, call).err.find("(--logit-bias is from BUMBLEBEE_LOGIT_BIAS)"),
            std::string::npos);
  const Outcome got = with({{"BUMBLEBEE_MODEL", "/nonexistent/dir"}}, {"info"});
  EXPECT_EQ(got.status, 3);
  EXPECT_NE(got.err.find("(--model is from BUMBLEBEE_MODEL)"), std::string::npos) << got.err;
}

TEST(Environment, ATypedFlagBeatsVariablesThatItExcludes) {
  const auto outcome = [](std::map<std::string, std::string> environment, std::vector<std::string> flags) {
    std::vector<std::string> call = {"generate", "-m", tiny_model(), "-p", "x", "-n", "2", "--raw"};
    call.insert(call.end(), flags.begin(), flags.end());
    return with(environment, call);
  };
  const std::string greedy = outcome({}, {"--greedy"}).out, drawn = outcome({}, {"--temp", "5", "--seed", "1"}).out;
  ASSERT_NE(greedy, drawn);
  EXPECT_EQ(outcome({{"BUMBLEBEE_GREEDY", "1"}}, {"--temp", "5", "--seed", "1"}).out, drawn);
  EXPECT_EQ(outcome({{"BUMBLEBEE_TEMP", "5"}, {"BUMBLEBEE_SEED", "1"}}, {"--greedy"}).out, greedy);
  EXPECT_EQ(outcome({{"BUMBLEBEE_TOP_K", "5"}, {"BUMBLEBEE_TOP_P", "0.5"}}, {"--greedy"}).out, greedy);
  EXPECT_EQ(outcome({{"BUMBLEBEE_KV_BITS", "8"}}, {"--kv-type", "f32", "--greedy"}).status, 0);
  EXPECT_EQ(outcome({{"BUMBLEBEE_KV_TYPE", "f32"}}, {"--kv-bits", "8", "--greedy"}).status, 0);
  EXPECT_EQ(outcome({{"BUMBLEBEE_SYSTEM_PROMPT", "Be brief."}}, {"--greedy"}).out, greedy) << "the call has --raw";
  // A flag that is switched off excludes nothing, and two that mean the same agree.
  EXPECT_EQ(outcome({{"BUMBLEBEE_GREEDY", "0"}, {"BUMBLEBEE_TEMP", "5"}}, {"--seed", "1"}).out, drawn);
  EXPECT_EQ(outcome({{"BUMBLEBEE_GREEDY", "1"}}, {"--temp", "0"}).out, greedy);
  // So does one that is typed, and its variable loses all the same.
  EXPECT_EQ(outcome({{"BUMBLEBEE_GREEDY", "1"}}, {"--greedy=false", "--temp", "5", "--seed", "1"}).out, drawn);
  EXPECT_EQ(outcome({{"BUMBLEBEE_TEMP", "5"}, {"BUMBLEBEE_SEED", "1"}}, {"--greedy=false"}).out, drawn);
  // Two variables are refused by their names, two flags by theirs.
  Outcome got = outcome({{"BUMBLEBEE_GREEDY", "1"}, {"BUMBLEBEE_TOP_K", "5"}}, {});
  EXPECT_EQ(got.status, 2);
  EXPECT_NE(got.err.find("BUMBLEBEE_GREEDY"), std::string::npos) << got.err;
  EXPECT_NE(got.err.find("BUMBLEBEE_TOP_K"), std::string::npos) << got.err;
  got = outcome({}, {"--greedy", "--top-k", "5"});
  EXPECT_EQ(got.status, 2);
  EXPECT_NE(got.err.find("--top-k and --greedy exclude each other"), std::string::npos) << got.err;
}

TEST(Environment, EveryNameOfAFlagIsAVariable) {
  const std::vector<std::string> call = {"generate", "-m", tiny_model(), "-p", "x", "-n", "2"};
  EXPECT_EQ(with({{"BUMBLEBEE_TEMPERATURE", "hot"}}, call).status, 2);
  const Outcome got = with({{"BUMBLEBEE_TEMPERATURE", "1"}, {"BUMBLEBEE_TEMP", "0"}}, call);
  EXPECT_EQ(got.status, 2);
  EXPECT_NE(got.err.find("BUMBLEBEE_TEMP and BUMBLEBEE_TEMPERATURE"), std::string::npos) << got.err;
}

TEST(Environment, AVariableOfNothingIsSaid) {
  const Outcome got =
      with({{"BUMBLEBEE_MAX_TOKNS", "3"}, {"BUMBLEBEE_HUB_BACKOFF", "1"}}, {"tokenize", "-m", tiny_model(), "Hi"});
  EXPECT_EQ(got.out, "72 105\n");
  EXPECT_EQ(got.err,
            "bumblebee: note: nothing reads the variable BUMBLEBEE_MAX_TOKNS; did you mean BUMBLEBEE_MAX_TOKENS?\n");
  EXPECT_NE(with({{"BUMBLEBEE_MODLE", tiny_model()}}, {"tokenize", "Hi"}).err.find("did you mean BUMBLEBEE_MODEL?"),
            std::string::npos)
      << "also where it is why the command fails";
}

TEST(Environment, AVariableWithoutEffectDoesNotHurt) {
  const std::vector<std::string> call = {"generate", "-m", tiny_model(), "-p", "x", "-n", "2"};
  EXPECT_EQ(with({{"BUMBLEBEE_GROUP_SIZE", "128"}, {"BUMBLEBEE_LOGPROBS", "3"}}, call).status, 0);
}

TEST(Environment, PagesAndScriptsAreJsonOnlyWhereTyped) {
  const std::map<std::string, std::string> json = {{"BUMBLEBEE_JSON", "1"}};
  EXPECT_EQ(with(json, {"help", "--man"}).out, run({"help", "--man"}).out);
  EXPECT_EQ(with(json, {"completions", "bash"}).out, run({"completions", "bash"}).out);
  EXPECT_EQ(run({"completions", "bash", "--json"}).json().at("shell"), "bash");
  EXPECT_TRUE(with(json, {"help"}).json().contains("verbs"));
}

TEST(Environment, AVariableOfAnotherActionDoesNotHurt) {
  Scratch scratch;
  std::filesystem::create_directories(scratch / "cache" / "models--org--tiny" / "snapshots" / "abc");
  std::map<std::string, std::string> environment = {{"HF_HUB_CACHE", (scratch / "cache").string()}};
  for (const char* name : {"YES", "DRY_RUN"}) environment[std::string("BUMBLEBEE_CACHE_") + name] = "1";
  Outcome got = with(environment, {"cache", "ls"});
  EXPECT_EQ(got.status, 0) << got.err;
  for (const char* name : {"NAMES", "REVISIONS"}) environment[std::string("BUMBLEBEE_CACHE_") + name] = "1";
  got = with(environment, {"cache", "prune"});
  EXPECT_EQ(got.status, 0) << got.err;
  EXPECT_EQ(with(environment, {"cache", "prune", "--names"}).status, 2) << "where it is typed it is a mistake";
}

TEST(Environment, WhatWritesHasVariablesOfItsOwn) {
  Scratch scratch;
  write_file(scratch / "posts.txt", "one\ntwo\nthree\nfour\n");
  const std::vector<std::string> call = {"prepare", (scratch / "posts.txt").string(), "-o",
                                         (scratch / "data").string()};
  Outcome got = with({{"BUMBLEBEE_PROMPT", "Why is the sky blue?"}}, call);
  ASSERT_EQ(got.status, 0) << got.err;
  EXPECT_EQ(read_file(scratch / "data" / "train.jsonl").find("sky"), std::string::npos);
  EXPECT_NE(got.err.find("BUMBLEBEE_PROMPT does not reach 'prepare', whose variable is BUMBLEBEE_PREPARE_PROMPT"),
            std::string::npos)
      << got.err;
  EXPECT_NE(with({{"BUMBLEBEE_FORCE", "1"}}, call).status, 0) << "what is there stays";
  got = with({{"BUMBLEBEE_PREPARE_FORCE", "1"}, {"BUMBLEBEE_PREPARE_PROMPT", "Why is the sky blue?"}}, call);
  ASSERT_EQ(got.status, 0) << got.err;
  EXPECT_NE(read_file(scratch / "data" / "train.jsonl").find("sky"), std::string::npos);
}

/// The levels of the lines, each of which must be "TIME LEVEL event: figures".
std::set<std::string> levels_in(const std::string& log) {
  std::set<std::string> levels;
  std::istringstream lines(log);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string time, level;
    words >> time >> level;
    EXPECT_EQ(time.size(), std::string("2026-01-01T00:00:00.000Z").size()) << line;
    EXPECT_NE(line.find("="), std::string::npos) << line;
    levels.insert(level);
  }
  return levels;
}

TEST(Environment, TheLogIsSilentUnlessAsked) {
  const std::vector<std::string> call = {"generate", "-m", tiny_model(), "-p", "x", "-n", "2", "--raw"};
  const Outcome quiet = run(call);
  EXPECT_EQ(quiet.err, "");
  EXPECT_EQ(with({{"BUMBLEBEE_LOG_LEVEL", "error"}}, call).err, "");
  const Outcome info = with({{"BUMBLEBEE_LOG_LEVEL", "info"}}, call);
  EXPECT_EQ(info.out, quiet.out);
  EXPECT_EQ(levels_in(info.err), std::set<std::string>{"info"});
  for (const char* event : {" device chosen: device=cpu kernels=", " checkpoint opened: model='",
                            " weights packed: ", " memory planned: kv_bytes="})
    EXPECT_NE(info.err.find(event), std::string::npos) << event << "\n" << info.err;
  std::vector<std::string> debug = call;
  debug.insert(debug.end(), {"--log-level", "debug"});
  EXPECT_EQ(levels_in(with({{"BUMBLEBEE_LOG_LEVEL", "error"}}, debug).err), (std::set<std::string>{"debug", "info"}));
  EXPECT_EQ(info.err.find('\x1b'), std::string::npos);
}

TEST(Environment, NoColorInPipesUnlessAsked) {
  EXPECT_EQ(run({"info", "/nonexistent/dir"}).err.find('\x1b'), std::string::npos);
  EXPECT_NE(run({"info", "/nonexistent/dir", "--color", "always"}).err.find('\x1b'), std::string::npos);
}

}  // namespace
}  // namespace bumblebee::apps_test
