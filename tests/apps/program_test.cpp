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
  std::filesystem::create_directories(scratch / "cache" / "models--org--tiny" / "snapshots" / "abc");
  const auto proposed = [&](const std::string& line) {
    write_file(scratch / "script",
               "source '" + (scratch / "completions").string() + "'; export HF_HUB_CACHE='" +
                   (scratch / "cache").string() + "'; COMP_WORDS=(" BB_PROGRAM " " + line +
                   "); COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 )); _bumblebee; echo \"${COMPREPLY[@]}\" >'" +
                   (scratch / "out").string() + "'");
    EXPECT_EQ(std::system(("bash '" + (scratch / "script").string() + "'").c_str()), 0) << line;
    return read_file(scratch / "out");
  };
  EXPECT_EQ(proposed("per"), "perplexity\n");
  EXPECT_EQ(proposed("run --max"), "--max-tokens --max-chars\n");
  EXPECT_EQ(proposed("generate --kv-type ''"), "auto f32 f16 bf16 int8\n");
  EXPECT_EQ(proposed("generate --device cu"), "cuda\n");
  EXPECT_EQ(proposed("generate -m or"), "org/tiny\n");
  EXPECT_EQ(proposed("cache r"), "rm\n");
  EXPECT_EQ(proposed("cache rm or"), "org/tiny\n");
  EXPECT_EQ(proposed("help quan"), "quantize\n");
  // A folder of the cache may be called anything: nothing of it is run.
  std::filesystem::create_directories(scratch / "cache" / "models--org--$(touch ran)" / "snapshots" / "abc");
  EXPECT_EQ(proposed("cache rm or"), "org/tiny\n");
}

TEST(Manual, HasAPageForEveryVerb) {
  EXPECT_NE(run({"help", "--man"}).out.find("\n.SH VERBS\n"), std::string::npos);
  for (const nlohmann::json& verb : verbs()) {
    const std::string name = verb.at("name");
    const std::string page = run({"help", name, "--man"}).out;
    EXPECT_TRUE(page.starts_with(".TH BUMBLEBEE-")) << page.substr(0, 80);
    for (const nlohmann::json& option : verb.at("options")) {
      for (std::string word : option.at("names").get<std::vector<std::string>>()) {
        for (size_t at = word.find('-'); at != std::string::npos; at = word.find('-', at + 2)) word.insert(at, "\\");
        EXPECT_NE(page.find("\\fB" + word + "\\fR"), std::string::npos) << name << " " << word;
      }
    }
  }
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
