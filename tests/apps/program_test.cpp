// The program as a whole: version, help, completions, and documentation that keeps up with the flags.
#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/apps/harness.h"

namespace bumblebee::apps_test {
namespace {

nlohmann::json verbs() { return run({"help", "--json"}).json().at("verbs"); }

TEST(Program, PrintsItsVersion) {
  Outcome got = run({"--version"});
  EXPECT_EQ(got.status, 0);
  EXPECT_TRUE(got.out.starts_with("bumblebee ") && got.out.size() > 14) << got.out;
}

TEST(Program, EveryVerbHasHelpThreeWays) {
  for (const nlohmann::json& verb : verbs()) {
    std::string name = verb.at("name");
    SCOPED_TRACE(name);
    Outcome flag = run({name, "--help"});
    EXPECT_EQ(flag.status, 0) << flag.err;
    EXPECT_EQ(run({name, "-h"}).out, flag.out);
    EXPECT_EQ(run({"help", name}).out, flag.out);
    EXPECT_NE(flag.out.find("Usage: bumblebee " + name), std::string::npos) << flag.out;
    for (const nlohmann::json& option : verb.at("options")) {
      for (const std::string& word : option.at("names").get<std::vector<std::string>>()) {
        EXPECT_NE(flag.out.find(word), std::string::npos) << word;
      }
    }
  }
}

TEST(Program, HelpStatesTheRules) {
  std::string help = run({"--help"}).out;
  EXPECT_EQ(run({"help"}).out, help);
  for (const char* text : {"BUMBLEBEE_MAX_TOKENS", "130", "bad_config", "out_of_memory"})
    EXPECT_NE(help.find(text), std::string::npos) << text;
  for (const nlohmann::json& verb : verbs()) {
    EXPECT_NE(help.find("  " + verb.at("name").get<std::string>()), std::string::npos);
  }
}

TEST(Program, HelpFitsATerminal) {
  for (const nlohmann::json& verb : verbs()) {
    std::string name = verb.at("name");
    std::string help = run({name, "--help"}).out;
    size_t start = 0;
    while (start < help.size()) {
      size_t end = help.find('\n', start);
      EXPECT_LE(end - start, 140u) << name << ": " << help.substr(start, end - start);
      start = end + 1;
    }
  }
}

TEST(Completions, KnowEveryVerbAndFlag) {
  for (const char* shell : {"bash", "zsh", "fish"}) {
    SCOPED_TRACE(shell);
    Outcome got = run({"completions", shell});
    ASSERT_EQ(got.status, 0) << got.err;
    for (const nlohmann::json& verb : verbs()) {
      EXPECT_NE(got.out.find(verb.at("name").get<std::string>()), std::string::npos);
      for (const nlohmann::json& option : verb.at("options")) {
        for (const std::string& name : option.at("names").get<std::vector<std::string>>()) {
          bool fish = std::string(shell) == "fish";
          std::string expected = !fish                    ? name
                                 : name.starts_with("--") ? " -l " + name.substr(2)
                                                          : " -s " + name.substr(1);
          EXPECT_NE(got.out.find(expected), std::string::npos) << expected;
        }
      }
    }
  }
}

TEST(Completions, BashCompletesWithThem) {
  Scratch scratch;
  write_file(scratch / "completions", run({"completions", "bash"}).out);
  std::string script = "source '" + (scratch / "completions").string() +
                       "'; COMP_WORDS=(bumblebee per); COMP_CWORD=1; _bumblebee; echo \"${COMPREPLY[@]}\" >'" +
                       (scratch / "out").string() +
                       "'; COMP_WORDS=(bumblebee run --max); COMP_CWORD=2; _bumblebee; echo \"${COMPREPLY[@]}\" >>'" +
                       (scratch / "out").string() + "'";
  write_file(scratch / "script", script);
  ASSERT_EQ(std::system(("bash '" + (scratch / "script").string() + "'").c_str()), 0);
  EXPECT_EQ(read_file(scratch / "out"), "perplexity\n--max-tokens\n");
}

TEST(Documentation, NamesEveryVerbAndExitCode) {
  std::string page = read_file(BB_SOURCE_ROOT "/docs/cli.md");
  for (const nlohmann::json& verb : verbs()) {
    EXPECT_NE(page.find("bumblebee " + verb.at("name").get<std::string>()), std::string::npos)
        << "no example of " << verb.at("name");
  }
  for (const char* code : {"bad_file", "bad_config", "unsupported", "out_of_memory", "device", "bad_request", "130",
                           "BUMBLEBEE_MAX_TOKENS"}) {
    EXPECT_NE(page.find(code), std::string::npos) << code;
  }
}

}  // namespace
}  // namespace bumblebee::apps_test
