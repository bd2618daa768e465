// What a model's own files say reaches every verb: where texts end, how long they may be, what is put before them,
// which template renders them.
#include <gtest/gtest.h>

#include "tests/apps/harness.h"

namespace bumblebee::apps_test {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

/// Merged into a file of the model; null takes a key away.
void patch(const fs::path& file, const Json& changes) {
  Json json = fs::exists(file) ? Json::parse(read_file(file)) : Json::object();
  json.merge_patch(changes);
  write_file(file, json.dump());
}

/// The tiny model says token 258, <|im_end|>, eight times.
Outcome insistent(const fs::path& model, std::vector<std::string> more = {}, const char* token = "258") {
  std::vector<std::string> words = {"generate",
                                    "-m",
                                    model.string(),
                                    "-p",
                                    "hi",
                                    "--greedy",
                                    "-n",
                                    "8",
                                    "--json",
                                    "--logit-bias",
                                    std::string(token) + "=100"};
  words.insert(words.end(), more.begin(), more.end());
  return run(words);
}

TEST(ModelFiles, ATextEndsWhereAnyFileSays) {
  Scratch scratch;
  const auto ends = [&](const char* name, const Json& own, const Json& model, const Json& tokenizer) {
    copy_tiny_model(scratch / name);
    write_file(scratch / name / "generation_config.json", own.dump());
    patch(scratch / name / "config.json", model);
    patch(scratch / name / "tokenizer_config.json", tokenizer);
    return insistent(scratch / name).json().at("finish_reason") == "stop";
  };
  const Json none = {{"eos_token_id", nullptr}}, other = {{"eos_token_id", 256}}, here = {{"eos_token_id", 258}};
  const Json no_token = {{"eos_token", nullptr}}, token = {{"eos_token", "<|im_end|>"}};
  EXPECT_FALSE(ends("nowhere", other, other, no_token));
  EXPECT_TRUE(ends("own", here, other, no_token));
  EXPECT_TRUE(ends("model", other, here, no_token));
  EXPECT_TRUE(ends("tokenizer", other, other, token));
  EXPECT_TRUE(ends("tokenizer_alone", none, none, token));
  EXPECT_TRUE(ends("as_object", other, other, {{"eos_token", {{"content", "<|im_end|>"}}}}));
}

TEST(ModelFiles, AStopThatSpellsAControlTokenIsFound) {
  const Json plain = insistent(tiny_model(), {}, "257").json();
  EXPECT_EQ(plain.at("finish_reason"), "length");
  EXPECT_EQ(plain.at("text"), "");
  const Json stopped = insistent(tiny_model(), {"--stop", "<|im_start|>"}, "257").json();
  EXPECT_EQ(stopped.at("finish_reason"), "stop");
  EXPECT_EQ(stopped.at("tokens"), Json({257}));
  const Json twice = insistent(tiny_model(), {"--stop", "<|im_start|><|im_start|>"}, "257").json();
  EXPECT_EQ(twice.at("tokens"), Json({257, 257}));
}

TEST(ModelFiles, YarnLengthensTheContextEverywhere) {
  Scratch scratch;
  copy_tiny_model(scratch / "m");
  patch(scratch / "m" / "config.json",
        {{"max_position_embeddings", 64}, {"rope_scaling", {{"rope_type", "yarn"}, {"factor", 4.0}}}});
  const std::string model = (scratch / "m").string();
  std::string ids, text(150, 'a');
  for (int i = 0; i < 100; ++i) ids += (i == 0 ? "" : ",") + std::to_string(32 + i % 90);
  write_file(scratch / "text", text);
  fs::create_directory(scratch / "data");
  write_file(scratch / "data" / "train.jsonl", Json{{"text", text}}.dump() + "\n");
  write_file(scratch / "data" / "valid.jsonl", Json{{"text", text}}.dump() + "\n");
  EXPECT_EQ(run({"info", model, "--json"}).json().at("context"), 256);
  const std::vector<std::vector<std::string>> calls = {
      {"generate", "-m", model, "--tokens", ids, "-n", "8", "--greedy"},
      {"generate", "-m", model, "-p", "hi", "-n", "8", "-c", "256"},
      {"logits", "-m", model, "--tokens", ids, "-o", (scratch / "l.safetensors").string()},
      {"perplexity", "-m", model, "-c", "256", "-f", (scratch / "text").string()},
      {"bench", "-m", model, "-p", "100", "-n", "0", "-r", "1"},
      {"train", "-m", model, "--data", (scratch / "data").string(), "--adapter-path", (scratch / "a").string(),
       "--num-layers", "-1", "--batch-size", "1", "--iters", "1"}};
  for (const auto& call : calls) {
    const Outcome got = run(call);
    EXPECT_EQ(got.status, 0) << call[0] << ": " << got.err;
  }
  EXPECT_NE(run({"generate", "-m", model, "-p", "hi", "-c", "257"}).status, 0) << "and no longer";
}

TEST(ModelFiles, ScalingBesideTransformersFivesParametersCounts) {
  Scratch scratch;
  const Json yarn = {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 8192}};
  const auto logits = [&](const char* name, const Json& changes) {
    copy_tiny_model(scratch / name);
    patch(scratch / name / "config.json", changes);
    const std::string to = (scratch / (std::string(name) + ".safetensors")).string();
    const Outcome got = run({"logits", "-m", (scratch / name).string(), "--tokens", "40,41,42,43", "-o", to});
    EXPECT_EQ(got.status, 0) << got.err;
    return read_file(to);
  };
  const Json parameters = {{"rope_type", "default"}, {"rope_theta", 10000.0}};
  const std::string scaled = logits("scaled", {{"rope_scaling", yarn}});
  EXPECT_EQ(logits("both", {{"rope_parameters", parameters}, {"rope_scaling", yarn}}), scaled);
  EXPECT_NE(logits("plain", {{"rope_parameters", parameters}}), scaled);
  copy_tiny_model(scratch / "torn");
  patch(scratch / "torn" / "config.json", {{"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 5e5}}}});
  const Outcome torn = run({"generate", "-m", (scratch / "torn").string(), "-p", "hi"});
  EXPECT_EQ(torn.status, 4);
  EXPECT_NE(torn.err.find("'rope_theta' and 'rope_parameters.rope_theta' disagree"), std::string::npos) << torn.err;
}

TEST(ModelFiles, WhatIsPutBeforeATextFollowsTheConfig) {
  Scratch scratch;
  copy_tiny_model(scratch / "m");
  patch(scratch / "m" / "tokenizer_config.json", {{"add_bos_token", true}});
  const std::string model = (scratch / "m").string();
  EXPECT_EQ(run({"tokenize", "-m", model, "--json", "ab"}).json(), Json({256, 97, 98}));
  EXPECT_EQ(run({"generate", "-m", model, "--raw", "-p", "ab", "-n", "1", "--json"}).json().at("prompt_tokens"), 3);
  EXPECT_EQ(
      run({"generate", "-m", model, "--raw", "--parse-control-tokens", "-p", "<|endoftext|>ab", "-n", "1", "--json"})
          .json()
          .at("prompt_tokens"),
      3)
      << "it begins already";
  EXPECT_EQ(run({"generate", "-m", model, "-p", "ab", "-n", "1", "--json"}).json().at("prompt_tokens"),
            run({"generate", "-m", tiny_model(), "-p", "ab", "-n", "1", "--json"}).json().at("prompt_tokens"))
      << "a chat is the template's";
}

TEST(ModelFiles, AdditionalTemplatesComeAlong) {
  Scratch scratch;
  copy_tiny_model(scratch / "m");
  write_file(scratch / "tools.json", R"([{"type": "function", "function": {"name": "f", "parameters": {}}}])");
  fs::create_directory(scratch / "m" / "additional_chat_templates");
  write_file(scratch / "m" / "additional_chat_templates" / "tool_use.jinja", "TOOLS {{ tools | length }}\r\n!");
  const auto tokens = [&](const fs::path& model) {
    return run({"generate", "-m", model.string(), "-p", "hi", "--tools", (scratch / "tools.json").string(), "-n", "1",
                "--json"})
        .json()
        .at("prompt_tokens");
  };
  EXPECT_EQ(tokens(scratch / "m"), 9) << "TOOLS 1, a line end, an exclamation mark";
  const Outcome got = run({"quantize", (scratch / "m").string(), (scratch / "q").string()});
  ASSERT_EQ(got.status, 0) << got.err;
  EXPECT_EQ(tokens(scratch / "q"), 9);
  const Outcome again = run({"quantize", (scratch / "m").string(), (scratch / "q").string(), "--force"});
  EXPECT_EQ(again.status, 0) << "what was written there is known: " << again.err;
  EXPECT_EQ(tokens(scratch / "q"), 9);
}

}  // namespace
}  // namespace bumblebee::apps_test
