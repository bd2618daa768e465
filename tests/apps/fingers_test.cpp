// What people type who know mlx_lm, llama.cpp or Ollama, or who slip: it works, or a sentence names our word.
#include <gtest/gtest.h>

#include "tests/apps/harness.h"

namespace bumblebee::apps_test {
namespace {

void refused(const std::vector<std::string>& arguments, const std::string& words, int status = 2) {
  const Outcome got = run(arguments);
  EXPECT_EQ(got.status, status) << got.err;
  EXPECT_NE(got.err.find(words), std::string::npos) << got.err;
}

std::vector<std::string> generate(std::vector<std::string> more) {
  std::vector<std::string> call = {"generate", "-m", tiny_model(), "--raw", "-n", "2", "--logit-bias", "65=1000"};
  call.insert(call.end(), more.begin(), more.end());
  return call;
}

TEST(Fingers, SlipsAreNamed) {
  refused(generate({"-p", "x", "--tmp", "0.5"}), "unknown flag --tmp; did you mean --temp?");
  refused(generate({"-p", "x", "--max-token=3"}), "unknown flag --max-token; did you mean --max-tokens?");
  refused(generate({"-p", "x", "--system-promt", "y"}), "did you mean --system-prompt?");
  refused(generate({"-p", "x", "--iters", "5"}), "unknown flag --iters; train has it");
  refused(generate({"-p", "x", "-temp", "0"}), "a flag of several letters has two dashes, --temp");
  refused({"genrate", "-m", "x"}, "no verb 'genrate'; did you mean 'generate'?");
  refused({"trian"}, "did you mean 'train'?");
  refused({"serve"}, "no model given: use -m DIR");
  refused({"server"}, "did you mean 'serve'?");
  refused({"list"}, "here it is 'bumblebee cache ls'");
  refused({"-m", "x", "-p", "hi"}, "no verb before '-m'; 'bumblebee generate' answers a prompt");
  refused({"--json", "info", "x"}, "flags follow the verb: bumblebee info --json");
  refused({tiny_model()}, "'bumblebee chat -m " + tiny_model() + "' talks with a model");
  refused({"help", "quantise"}, "did you mean 'quantize'?");
  refused({"pull", "org/name@v1", "--revision", "v2"}, "--revision v2 and the revision of the name, v1, differ");
  refused({"info", "a", "b"}, "did not expect 'b'");
  refused({"tokenize", "--model"}, "--model: expected a value after it");
  refused({"prepare", "x", "-o", "y", "--seed", "x"}, "--seed: expected a number, got 'x'");
}

TEST(Fingers, WordsOfOtherProgramsWork) {
  EXPECT_EQ(run(generate({"-p", "x", "--n-predict", "3"})).out, "AAA\n");
  EXPECT_EQ(run(generate({"-p=x", "-n=3"})).out, "AAA\n");
  EXPECT_EQ(run({"generate", "--hf-repo", tiny_model(), "--ignore-chat-template", "-p", "x", "--max-new-tokens=1",
                 "--logit-bias", "65=1000"})
                .out,
            "A\n");
  const auto prompt_tokens = [](std::vector<std::string> flags) {
    std::vector<std::string> call = {"generate", "-m", tiny_model(), "-p", "x", "-n", "1", "--json"};
    call.insert(call.end(), flags.begin(), flags.end());
    const Outcome got = run(call);
    EXPECT_EQ(got.status, 0) << got.err;
    return got.json().at("prompt_tokens").get<int>();
  };
  const int with_system = prompt_tokens({"--system-prompt", "Be brief."});
  EXPECT_GT(with_system, prompt_tokens({}));
  EXPECT_EQ(prompt_tokens({"--system", "Be brief."}), with_system);
  EXPECT_EQ(prompt_tokens({"-sys", "Be brief."}), with_system);
  EXPECT_EQ(prompt_tokens({"--system", "-ngl", "-s", "1"}), prompt_tokens({"--system-prompt", "-ngl", "--seed", "1"}));
  refused(generate({"-p", "x", "--adapter-path", "/nonexistent/adapter"}), "/nonexistent/adapter", 3);
  EXPECT_EQ(run({"version"}).status, 2);
  EXPECT_TRUE(run({"-v"}).out.starts_with("bumblebee ")) << run({"-v"}).err;
}

TEST(Fingers, WordsWithoutACounterpartGetASentence) {
  refused(generate({"-p", "x", "-ngl", "99"}), "there is no -ngl: a model lies on one device as a whole");
  refused(generate({"-p", "x", "--max-kv-size", "512"}), "--ctx-size says how long it may grow");
  refused(generate({"-p", "x", "--lora-scaled", "a", "0.5"}), "--adapter SRC:0.5");
  refused({"bench", "-m", "x", "-pg", "512,128"}, "-d N measures generation after N tokens");
  // A value may look like anything.
  EXPECT_EQ(run(generate({"-p", "-ngl"})).status, 0);
  EXPECT_EQ(run(generate({"--prompt", "--tmp"})).status, 0);
}

TEST(Fingers, RunTakesModelAndPrompt) {
  const std::vector<std::string> flags = {"--raw", "-n", "2", "--logit-bias", "65=1000"};
  std::map<std::string, std::string> environment;
  const auto outcome = [&](std::vector<std::string> words, const std::string& input = "") {
    words.insert(words.end(), flags.begin(), flags.end());
    return run(Call{words, environment, input, 0, {}});
  };
  EXPECT_EQ(outcome({"run", tiny_model(), "x"}).out, "AA\n");
  EXPECT_EQ(outcome({"run", tiny_model(), "x", "y"}).out, "AA\n");
  EXPECT_EQ(outcome({"run", tiny_model()}, "x").out, "AA\n");
  EXPECT_EQ(outcome({"run", "-m", tiny_model(), "x"}).out, "AA\n");
  const Outcome got = outcome({"run", "Why is the sky blue?"});
  EXPECT_EQ(got.status, 2);
  EXPECT_NE(got.err.find("no model given"), std::string::npos) << got.err;
  // Where the variable names a model, only a directory of one takes its place.
  environment = {{"BUMBLEBEE_MODEL", tiny_model()}};
  EXPECT_EQ(outcome({"run", "and/or", "what?"}).out, "AA\n");
  EXPECT_EQ(outcome({"run", "/", "is", "the", "root"}).out, "AA\n");
  environment = {{"BUMBLEBEE_MODEL", "/nonexistent/dir"}};
  EXPECT_EQ(outcome({"run", tiny_model(), "x"}).out, "AA\n");
}

TEST(Fingers, AGgufFileSaysHowToConvertIt) {
  refused({"generate", "-m", tiny_gguf(), "-p", "x"}, "'bumblebee convert " + tiny_gguf() + " DIR' makes one of it", 3);
}

TEST(Fingers, WhatHasNoEffectIsRefused) {
  refused(generate({"-p", "x", "--group-size", "128"}), "--group-size has no effect without --quantization");
  refused(generate({"-p", "x", "--logprobs", "3"}), "--logprobs has no effect without --json");
  refused({"convert", "a", "b", "--q-bits", "8"}, "--q-bits has no effect without --quantize or --requantize");
  refused({"fuse", "a", "b", "--adapter", "c", "-c", "8"}, "--ctx-size has no effect without --text");
  refused({"bench", "-m", "x", "--adapter-count", "1"},
          "--adapter-count has no effect without --adapter or --adapter-rank");
  refused({"cache", "ls", "--dry-run"}, "'cache rm' and 'cache prune'");
  refused({"train", "-m", "x", "--data", "y", "--sample-tokens", "8"}, "no effect without --sample-prompt");
  const Outcome got = run(generate({"-p", "x", "--temp", "0", "--top-p", "0.5"}));
  EXPECT_EQ(got.status, 0);
  EXPECT_NE(got.err.find("no effect at temperature 0"), std::string::npos) << got.err;
}

TEST(Fingers, ErrorsSpeakOfFlags) {
  refused(generate({"-p", "x", "--min-tokens", "10"}), "error: --min-tokens: expected at most --max-tokens (2), got 10",
          8);
  refused(generate({"-p", "x", "--top-p", "7"}), "--top-p: expected a number from 0 to 1, got '7'");
  EXPECT_EQ(run(generate({"-p", "x", "--top-p", "0"})).out, "AA\n") << "0 is greedy";
  refused(generate({"-p", "a prompt that is long", "-c", "8"}), "--ctx-size", 8);
  refused(generate({"-p", "a prompt that is long", "-c", "8"}), "shorten it or raise --ctx-size", 8);
  refused(generate({"-p", "x", "-c", "1000000"}), "error: --ctx-size: expected 2 to", 8);
  refused({"generate", "-m", tiny_model(), "-p", "x", "--chat-template", "{{ x }"},
          "error: --chat-template: syntax error");
  refused({"chat", "-m", tiny_model(), "--chat-template", "{{ x }"}, "error: --chat-template: syntax error");
  Scratch scratch;
  const std::string file = (scratch / "prompt").string();
  write_file(file, std::string(200, 'a'));
  refused(generate({"-f", file, "-c", "10"}), "error: --file: expected fewer tokens", 8);
  refused(generate({"--tokens", "1,100000"}), "error: --tokens: expected ids below the vocabulary", 8);
  refused(generate({std::string(200, 'a'), "-c", "10"}), "error: [generation] prompt: expected fewer tokens", 8);
  write_file(file, "{{ x }");
  refused({"generate", "-m", tiny_model(), "-p", "x", "--chat-template-file", file},
          "error: [" + file + "] syntax error", 3);
  copy_tiny_model(scratch / "model");
  write_file(scratch / "model" / "generation_config.json", R"({"do_sample": true, "top_p": 7})");
  const Outcome got = run({"generate", "-m", (scratch / "model").string(), "-p", "x"});
  EXPECT_NE(got.status, 0);
  EXPECT_NE(got.err.find("top_p"), std::string::npos) << got.err;
  EXPECT_NE(got.err.find("generation_config.json"), std::string::npos) << got.err;
}

TEST(Fingers, EscapesAreAskedFor) {
  const auto answer = [](std::vector<std::string> flags) {
    std::vector<std::string> call = {"generate", "-m", tiny_model(), "--raw", "-n", "1", "--json"};
    call.insert(call.end(), flags.begin(), flags.end());
    return run(call);
  };
  const int line = answer({"-p", "a\nb"}).json().at("prompt_tokens");
  EXPECT_EQ(answer({"-p", "a\\nb", "-e"}).json().at("prompt_tokens"), line);
  const Outcome plain = answer({"-p", "a\\nb"});
  EXPECT_EQ(plain.json().at("prompt_tokens"), line + 1);
  EXPECT_NE(plain.err.find("--escapes (-e) makes it a line end"), std::string::npos) << plain.err;
  EXPECT_NE(answer({"-p", "x", "--stop", "\\n"}).err.find("in --stop"), std::string::npos);
}

TEST(Fingers, TheLineEndOfAFileIsNoPartOfTheMessage) {
  const auto tokens = [](const std::string& input, bool raw) {
    std::vector<std::string> call = {"generate", "-m", tiny_model(), "-n", "1", "--json"};
    if (raw) call.emplace_back("--raw");
    return run(Call{call, {}, input, 0, {}}).json().at("prompt_tokens").get<int>();
  };
  EXPECT_EQ(tokens("hi\n", false), tokens("hi", false));
  EXPECT_EQ(tokens("hi\r\n", false), tokens("hi", false));
  EXPECT_EQ(tokens("hi\n\n", false), tokens("hi", false) + 1);
  EXPECT_EQ(tokens("hi\n", true), tokens("hi", true) + 1);
}

TEST(Fingers, LogitsReplaceLogitsOnly) {
  Scratch scratch;
  write_file(scratch / "posts.txt", "mine");
  const auto logits = [&](const std::string& name) {
    return run({"logits", "-m", tiny_model(), "--tokens", "1,2", "-o", (scratch / name).string()});
  };
  EXPECT_EQ(logits("posts.txt").status, 2);
  EXPECT_TRUE(read_file(scratch / "posts.txt") == "mine");
  EXPECT_EQ(logits("out").status, 0);
  EXPECT_EQ(logits("out").status, 0);
}

TEST(Fingers, ACutAnswerSaysSo) {
  const std::vector<std::string> call = {"generate", "-m", tiny_model(), "-p", "x", "--raw", "--logit-bias", "65=1000"};
  Outcome got = run(call);
  EXPECT_NE(got.err.find("note: the answer is cut"), std::string::npos) << got.err;
  std::vector<std::string> limited = call;
  limited.insert(limited.end(), {"-n", "3"});
  EXPECT_EQ(run(limited).err, "") << "just so many were asked for";
  limited.insert(limited.end(), {"-n", "300", "-c", "16"});
  EXPECT_NE(run(limited).err.find("the context of 16 tokens is full"), std::string::npos) << run(limited).err;
}

}  // namespace
}  // namespace bumblebee::apps_test
