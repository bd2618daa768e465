// Every kind of error by its exit code, on one line of stderr, and as JSON when JSON was asked for.
#include <gtest/gtest.h>

#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>

#include "tests/apps/harness.h"

namespace bumblebee::apps_test {
namespace {

void expect_error(const Outcome& got, int status) {
  EXPECT_EQ(got.status, status) << got.err;
  EXPECT_TRUE(got.err.starts_with("bumblebee: error: ")) << got.err;
  EXPECT_EQ(std::count(got.err.begin(), got.err.end(), '\n'), 1) << "one line: " << got.err;
  EXPECT_EQ(got.out, "");
}

TEST(Errors, UsageIs2) {
  const std::vector<std::vector<std::string>> wrong = {
      {"nonsense"},
      {"generate", "--nonsense"},
      {"generate", "-p", "x"},                                 // no model
      {"generate", "-m", tiny_model(), "-p", "x", "-f", "y"},  // two prompts
      {"generate", "-m", tiny_model(), "-p", "x", "--temp", "hot"},
      {"generate", "-m", tiny_model(), "-p", "x", "--temp", "nan"},
      {"generate", "-m", tiny_model(), "-p", "x", "--temp", "-1"},
      {"generate", "-m", tiny_model(), "-p", "x", "--top-p", "1.5"},
      {"generate", "-m", tiny_model(), "-p", "x", "--top-p", "inf"},
      {"generate", "-m", tiny_model(), "-p", "x", "-n", "0"},
      {"generate", "-m", tiny_model(), "-p", "x", "-n", "99999999999999999999"},
      {"generate", "-m", tiny_model(), "-p", "x", "-n", "3x"},
      {"generate", "-m", tiny_model(), "-p", "x", "-t", "-2"},
      {"generate", "-m", tiny_model(), "-p", "x", "--logit-bias", "65"},
      {"generate", "-m", tiny_model(), "-p", "x", "--logit-bias", "a=1"},
      {"generate", "-m", tiny_model(), "-p", "x", "--greedy", "--temp", "1"},
      {"generate", "-m", tiny_model(), "-p", "x", "--contrastive-alpha", "0.5", "--top-p", "0.5"},
      {"generate", "-m", tiny_model(), "-p", "x", "--raw", "--system-prompt", "y"},
      {"generate", "-m", tiny_model(), "-p", "x", "--parse-control-tokens"},
      {"generate", "-m", tiny_model(), "-p", "x", "--chat-template-kwargs", "{"},
      {"generate", "-m", tiny_model(), "-p", "x", "--chat-template-kwargs", "[]"},
      {"generate", "-m", tiny_model(), "-p", "x", "--chat-template-kwargs", R"({"enable_thinking":true})",
       "--no-thinking"},
      {"generate", "-m", tiny_model(), "-p", "x", "--stop", ""},
      {"generate", "-m", tiny_model(), "-p", "x", "--precision", "sloppy"},
      {"generate", "-m", tiny_model(), "--tokens", "1,,2"},
      {"generate", "-m", tiny_model(), "--tokens", "1,-2"},
      {"generate", "-m", tiny_model(), "--tokens", "4294967296"},
      {"logits", "-m", tiny_model(), "-o", "x"},
      {"logits", "-m", tiny_model(), "--tokens", "1"},
      {"perplexity", "-m", tiny_model()},
      {"perplexity", "-m", tiny_model(), "-f", "x", "-c", "1"},
      {"quantize", tiny_model()},
      {"quantize", tiny_model(), "out", "--bits", "7"},
      {"quantize", tiny_model(), "out", "--group-size", "16"},
      {"convert", tiny_model()},
      {"completions", "tcsh"},
      {"completions"},
      {"help", "nonsense"},
  };
  for (const auto& arguments : wrong) {
    std::string line;
    for (const std::string& word : arguments) line += word + " ";
    SCOPED_TRACE(line);
    expect_error(run(arguments), 2);
  }
}

TEST(Errors, NoVerbShowsHelpAndIs2) {
  Outcome got = run(std::vector<std::string>{});
  EXPECT_EQ(got.status, 2);
  EXPECT_NE(got.err.find("generate"), std::string::npos);
  EXPECT_EQ(got.out, "");
}

TEST(Errors, BadFileIs3) {
  Scratch scratch;
  expect_error(run({"info", (scratch / "absent").string()}), 3);
  expect_error(run({"info", "nobody/has-this"}), 3);
  expect_error(run({"generate", "-m", "not a model name", "-p", "x"}), 3);
  expect_error(run({"generate", "-m", tiny_model(), "-f", (scratch / "absent").string()}), 3);
  expect_error(run({"logits", "-m", tiny_model(), "--tokens", "1", "-o", (scratch / "no").string() + "/dir/out"}), 3);
  expect_error(run({"convert", (scratch / "absent.gguf").string(), (scratch / "out").string()}), 3);
  copy_tiny_model(scratch / "cut");
  std::filesystem::resize_file(scratch / "cut" / "model.safetensors", 5000);
  expect_error(run({"info", (scratch / "cut").string()}), 3);
  expect_error(run({"generate", "-m", (scratch / "cut").string(), "-p", "x"}), 3);
  copy_tiny_model(scratch / "mute");
  std::filesystem::remove(scratch / "mute" / "tokenizer.json");
  expect_error(run({"tokenize", "-m", (scratch / "mute").string(), "x"}), 3);
}

TEST(Errors, BadConfigIs4) {
  Scratch scratch;
  copy_tiny_model(scratch / "model");
  std::string config = read_file(scratch / "model" / "config.json");
  size_t at = config.find("\"hidden_size\": 64");
  ASSERT_NE(at, std::string::npos);
  write_file(scratch / "model" / "config.json", config.replace(at, 17, "\"hidden_size\": -4"));
  expect_error(run({"info", (scratch / "model").string()}), 4);
}

TEST(Errors, UnsupportedIs5) {
  Scratch scratch;
  copy_tiny_model(scratch / "model");
  std::string config = read_file(scratch / "model" / "config.json");
  for (const char* word : {"LlamaForCausalLM", "\"llama\""}) {
    size_t at = config.find(word);
    ASSERT_NE(at, std::string::npos);
    config.replace(at, std::string(word).size(), word[0] == '"' ? "\"abacus\"" : "AbacusForCausalLM");
  }
  write_file(scratch / "model" / "config.json", config);
  Outcome got = run({"info", (scratch / "model").string()});
  expect_error(got, 5);
  EXPECT_NE(got.err.find("abacus"), std::string::npos) << got.err;

  copy_tiny_model(scratch / "plain");
  write_file(scratch / "plain" / "tokenizer_config.json", "{}");
  Outcome template_less = run({"generate", "-m", (scratch / "plain").string(), "-p", "x"});
  expect_error(template_less, 5);
  EXPECT_NE(template_less.err.find("--raw"), std::string::npos) << "says what to do: " << template_less.err;
}

TEST(Errors, DeviceIs7) {
  Outcome got = run({"generate", "-m", tiny_model(), "-p", "x", "--device", "abacus"});
  expect_error(got, 7);
  EXPECT_NE(got.err.find("abacus"), std::string::npos);
  EXPECT_NE(got.err.find("cpu"), std::string::npos) << "names the devices that can";
}

TEST(Errors, BadRequestIs8) {
  expect_error(run({"generate", "-m", tiny_model(), "-p", "a prompt that is longer than this context", "-c", "8"}), 8);
  expect_error(run({"generate", "-m", tiny_model(), "--raw", "-p", ""}), 8);
  expect_error(run({"generate", "-m", tiny_model(), "--tokens", "100000"}), 8);
  expect_error(run({"detokenize", "-m", tiny_model(), "100000"}), 8);
  Scratch scratch;
  expect_error(run({"logits", "-m", tiny_model(), "--tokens", "100000", "-o", (scratch / "out").string()}), 8);
  EXPECT_TRUE(std::filesystem::is_empty(scratch.path())) << "a failure leaves no file behind";
  write_file(scratch / "text", "x");
  expect_error(run({"perplexity", "-m", tiny_model(), "-f", (scratch / "text").string()}), 8);
}

TEST(Errors, OutputThatCannotBeWrittenIs1) {
  ASSERT_TRUE(std::filesystem::exists("/dev/full"));
  // The harness owns standard output, so a shell redirects it.
  int status = std::system((std::string(BB_PROGRAM) + " help >/dev/full 2>/dev/null").c_str());
  EXPECT_EQ(WEXITSTATUS(status), 1);
}

TEST(Errors, AReaderThatLeavesIsQuiet) {
  Scratch scratch;
  std::string script = "{ " + std::string(BB_PROGRAM) + " generate -m '" + tiny_model() +
                       "' --raw -p x -n 30000 --greedy --logit-bias 65=1000 2>'" + (scratch / "err").string() +
                       "'; echo $? >'" + (scratch / "status").string() + "'; } | head -c 3 >'" +
                       (scratch / "out").string() + "'";
  ASSERT_EQ(std::system(script.c_str()), 0);
  EXPECT_EQ(read_file(scratch / "out"), "AAA");
  EXPECT_EQ(read_file(scratch / "err"), "");
  EXPECT_EQ(read_file(scratch / "status"), "141\n") << "ended by SIGPIPE, as any filter";
}

TEST(Errors, JsonCarriesTheError) {
  auto error = [](std::vector<std::string> arguments, std::map<std::string, std::string> environment = {}) {
    Outcome got = run(Call{std::move(arguments), std::move(environment), {}, 0, {}});
    EXPECT_NE(got.status, 0);
    EXPECT_TRUE(got.err.starts_with("bumblebee: error: ")) << got.err;
    return got.json().at("error");
  };
  nlohmann::json absent = error({"info", "/nonexistent/dir", "--json"});
  EXPECT_EQ(absent.at("code"), "bad_file");
  EXPECT_NE(absent.at("message").get<std::string>().find("/nonexistent/dir"), std::string::npos);
  EXPECT_EQ(error({"generate", "--json", "--nonsense"}).at("code"), "usage");
  EXPECT_EQ(error({"generate", "--nonsense"}, {{"BUMBLEBEE_JSON", "1"}}).at("code"), "usage");
  EXPECT_EQ(error({"generate", "-m", tiny_model(), "-p", "x", "--device", "abacus", "--json"}).at("code"), "device");
}

TEST(Errors, StayOnOneLineWhateverTheyQuote) { expect_error(run({"info", "/nonexistent/two\nlines\x1b[31m"}), 3); }

}  // namespace
}  // namespace bumblebee::apps_test
