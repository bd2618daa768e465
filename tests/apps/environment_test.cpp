// Every flag of every verb has an environment variable, variables work, and the command line beats them.
#include <gtest/gtest.h>

#include <set>
#include <sstream>

#include "tests/apps/harness.h"

namespace bumblebee::apps_test {
namespace {

Outcome with(std::map<std::string, std::string> environment, std::vector<std::string> arguments) {
  return run(Call{std::move(arguments), std::move(environment), {}, 0, {}});
}

TEST(Environment, EveryFlagOfEveryVerbHasATwin) {
  nlohmann::json verbs = run({"help", "--json"}).json().at("verbs");
  ASSERT_GE(verbs.size(), 12u);
  int flags = 0;
  for (const nlohmann::json& verb : verbs) {
    std::set<std::string> variables;
    for (const nlohmann::json& option : verb.at("options")) {
      if (option.at("names").empty()) continue;  // a positional
      std::string last = option["names"].back().get<std::string>();
      if (last == "--help") continue;
      SCOPED_TRACE(verb.at("name").get<std::string>() + " " + last);
      std::string expected;
      for (const std::string& name : option["names"].get<std::vector<std::string>>()) {
        if (!expected.empty() || !name.starts_with("--")) continue;
        expected = "BUMBLEBEE_";
        for (char c : name.substr(2)) expected += c == '-' ? '_' : char(std::toupper(c));
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
  Outcome got = with({{"BUMBLEBEE_TEMP", "hot"}}, {"generate", "-m", tiny_model(), "-p", "x"});
  EXPECT_EQ(got.status, 2);
  EXPECT_NE(got.err.find("BUMBLEBEE_TEMP"), std::string::npos) << got.err;
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
