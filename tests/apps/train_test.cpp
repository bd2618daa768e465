// `train` end to end on the tiny model: files and flags of mlx_lm.lora, what is written, resuming, errors.
#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

#include "tests/apps/harness.h"

namespace bumblebee::apps_test {
namespace {

namespace fs = std::filesystem;

void write_data(const fs::path& folder, int rows = 12) {
  fs::create_directories(folder);
  std::string text;
  for (int i = 0; i < rows; ++i) {
    text += nlohmann::json{{"messages",
                            {{{"role", "user"}, {"content", "Say it."}},
                             {{"role", "assistant"}, {"content", "buzz " + std::string(size_t(i % 4 + 1), 'z')}}}}}
                .dump() +
            "\n";
  }
  write_file(folder / "train.jsonl", text);
  write_file(folder / "valid.jsonl", text.substr(0, text.find('\n') + 1));
}

std::vector<nlohmann::json> metrics(const fs::path& adapter) {
  std::vector<nlohmann::json> out;
  std::istringstream text(read_file(adapter / "metrics.jsonl"));
  for (std::string line; std::getline(text, line);) out.push_back(nlohmann::json::parse(line));
  return out;
}

class Train : public ::testing::Test {
 protected:
  Train() { write_data(scratch_ / "data"); }

  Outcome train(std::vector<std::string> more, std::map<std::string, std::string> environment = {}) {
    std::vector<std::string> arguments = {"train", "-m", tiny_model(), "--adapter-path", adapter().string(), "-t", "2"};
    if (std::find(more.begin(), more.end(), "--data") != more.end())  // the default is 16, and the model has two
      arguments.insert(arguments.end(), {"--num-layers", "-1"});
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(Call{arguments, std::move(environment), {}, 0, {}});
  }
  fs::path adapter() const { return scratch_ / "adapter"; }
  std::string data() const { return (scratch_ / "data").string(); }

  Scratch scratch_;
};

TEST_F(Train, LearnsAndLeavesEverythingBehind) {
  const Outcome got = train({"--data", data(), "--iters", "30", "--learning-rate", "1e-2", "--steps-per-report", "10",
                             "--steps-per-eval", "15", "--save-every", "10", "--mask-prompt", "--sample-prompt",
                             "Say it.", "--sample-tokens", "4", "--json"});
  ASSERT_EQ(got.status, 0) << got.err;
  const nlohmann::json json = got.json();
  EXPECT_EQ(json.at("end"), "finished");
  EXPECT_EQ(json.at("iterations"), 30);
  EXPECT_FALSE(json.at("base_hash").get<std::string>().empty());
  EXPECT_TRUE(fs::exists(adapter() / "adapters.safetensors"));
  EXPECT_TRUE(fs::exists(adapter() / "adapter_config.json"));
  EXPECT_NE(read_file(json.at("report").get<std::string>()).find("<svg"), std::string::npos);

  std::vector<double> losses, validations;
  int samples = 0;
  for (const nlohmann::json& line : metrics(adapter())) {
    if (line["type"] == "train") losses.push_back(line["loss"]);
    if (line["type"] == "validation") validations.push_back(line["loss"]);
    if (line["type"] == "sample") ++samples;
  }
  ASSERT_EQ(losses.size(), 3u);
  EXPECT_LT(losses.back(), losses.front());
  ASSERT_GE(validations.size(), 2u);
  EXPECT_LT(validations.back(), validations.front());
  EXPECT_GE(samples, 2);

  const Outcome info = run({"info", adapter().string()});
  EXPECT_NE(info.out.find("12 rows, hash "), std::string::npos) << info.out;
  EXPECT_NE(info.out.find("30 iterations"), std::string::npos) << info.out;
  EXPECT_EQ(run({"info", adapter().string(), "--json"}).json().at("training").at("settings").at("rank"), 8);
  EXPECT_EQ(json.at("comparisons").size(), 4u);
  EXPECT_NE(json.at("verdict").get<std::string>().find("validation fell from"), std::string::npos);

  const Outcome answer = run({"generate", "-m", tiny_model(), "--adapter", adapter().string(), "-p", "Say it.", "-n",
                              "4", "--greedy", "--json"});
  EXPECT_EQ(answer.status, 0) << answer.err;
}

TEST_F(Train, AFileOfMlxLmRunsAndTheCommandLineWins) {
  write_file(scratch_ / "lora.yaml", "model: /nonexistent\ntrain: true\ndata: " + data() +
                                         "\niters: 500\nbatch_size: 3\nnum_layers: 1\nsteps_per_report: 2\n"
                                         "report_to: wandb\nlora_parameters: {rank: 4, scale: 10.0, dropout: 0.0, "
                                         "keys: [self_attn.q_proj]}\nlr_schedule: {name: cosine_decay, warmup: 2, "
                                         "arguments: [1e-3, 100]}\n");
  const Outcome got = train({"-c", (scratch_ / "lora.yaml").string(), "--iters", "4"});
  ASSERT_EQ(got.status, 0) << got.err;
  EXPECT_NE(got.err.find("note: report_to"), std::string::npos) << got.err;
  EXPECT_NE(got.out.find("1 modules in 1 layers"), std::string::npos) << got.out;
  EXPECT_NE(got.out.find("Iter 4: Train loss"), std::string::npos) << got.out;
  const nlohmann::json config = nlohmann::json::parse(read_file(adapter() / "adapter_config.json"));
  EXPECT_EQ(config.at("lora_parameters").at("rank"), 4);
  EXPECT_EQ(config.at("num_layers"), 1);
}

TEST_F(Train, ATwinBeatsTheFileAndAFlagBeatsATwin) {
  write_file(scratch_ / "lora.yaml", "data: " + data() + "\niters: 7\nval_batches: 0\nnum_layers: 2\n");
  const std::string file = (scratch_ / "lora.yaml").string();
  EXPECT_EQ(train({"-c", file, "--json"}, {{"BUMBLEBEE_TRAIN_ITERS", "3"}}).json().at("iterations"), 3);
  EXPECT_EQ(train({"-c", file, "--iters", "2", "--overwrite", "--json"}, {{"BUMBLEBEE_TRAIN_ITERS", "3"}})
                .json()
                .at("iterations"),
            2);
}

TEST_F(Train, WhatIsSetForOtherVerbsDoesNotReachIt) {
  const Outcome got = train({"--data", data(), "--iters", "1", "--val-batches", "0"},
                            {{"BUMBLEBEE_ADAPTER", "/nonexistent"}, {"BUMBLEBEE_SEED", "7"}});
  EXPECT_EQ(got.status, 0) << got.err;
  EXPECT_NE(got.err.find("BUMBLEBEE_ADAPTER does not reach 'train', whose variable is BUMBLEBEE_TRAIN_ADAPTER"),
            std::string::npos)
      << got.err;
  // The default model of all verbs comes after what a file says of this training.
  write_file(scratch_ / "lora.yaml", "model: /nonexistent/of-the-file\ndata: " + data() + "\n");
  const Outcome file =
      run(Call{{"train", "-c", (scratch_ / "lora.yaml").string()}, {{"BUMBLEBEE_MODEL", tiny_model()}}, {}, 0, {}});
  EXPECT_NE(file.err.find("/nonexistent/of-the-file"), std::string::npos) << file.err;
}

TEST_F(Train, RefusesToStopEarlyWithoutRowsToValidateWith) {
  const Outcome got = train({"--data", data(), "--iters", "2", "--val-batches", "0", "--early-stopping", "2"});
  EXPECT_EQ(got.status, 8);
  EXPECT_NE(got.err.find("error: --early-stopping: expected rows to validate with"), std::string::npos) << got.err;
  EXPECT_NE(got.err.find("--val-batches"), std::string::npos) << got.err;
}

TEST_F(Train, ErrorsNameItsFlags) {
  ASSERT_EQ(train({"--data", data(), "--iters", "1", "--val-batches", "0"}).status, 0);
  const Outcome got = train({"--data", data(), "--iters", "1", "--val-batches", "0"});
  EXPECT_EQ(got.status, 8);
  EXPECT_NE(got.err.find("--resume goes on with it, --overwrite replaces it; or choose another --adapter-path"),
            std::string::npos)
      << got.err;
}

TEST_F(Train, ResumesAndItsRecordGoesOn) {
  const std::vector<std::string> flags = {"--data", data(), "--save-every", "4", "--steps-per-report", "2", "--json"};
  const auto with = [&flags](std::vector<std::string> more) {
    more.insert(more.end(), flags.begin(), flags.end());
    return more;
  };
  ASSERT_EQ(train(with({"--iters", "8"})).status, 0);
  const Outcome again = train(with({"--iters", "8"}));
  EXPECT_EQ(again.status, 8) << "an earlier run's checkpoints are in the way: " << again.err;
  const Outcome got = train(with({"--iters", "12", "--resume"}));
  ASSERT_EQ(got.status, 0) << got.err;
  EXPECT_EQ(got.json().at("iterations"), 12);
  std::vector<int> reported;
  for (const nlohmann::json& line : metrics(adapter())) {
    if (line["type"] == "train") reported.push_back(line["iteration"]);
  }
  EXPECT_EQ(reported, (std::vector<int>{2, 4, 6, 8, 10, 12}));
}

TEST_F(Train, ARunKeepsItsDateWhenItIsResumedOnAnotherDay) {
  copy_tiny_model(scratch_ / "dated");
  nlohmann::json config = nlohmann::json::parse(read_file(scratch_ / "dated" / "tokenizer_config.json"));
  config["chat_template"] = "{{ strftime_now('%d %b %Y %H:%M:%S') }}" + config["chat_template"].get<std::string>();
  write_file(scratch_ / "dated" / "tokenizer_config.json", config.dump());
  const auto train_in = [&](const char* zone, const char* iters, const char* resume) {
    std::vector<std::string> words = {"train",
                                      "-m",
                                      (scratch_ / "dated").string(),
                                      "--adapter-path",
                                      adapter().string(),
                                      "--data",
                                      data(),
                                      "--num-layers",
                                      "-1",
                                      "-t",
                                      "2",
                                      "--iters",
                                      iters};
    if (*resume != 0) words.push_back(resume);
    return run(Call{words, {{"TZ", zone}}, {}, 0, {}});
  };
  const Outcome first = train_in("Etc/GMT+12", "2", "");
  ASSERT_EQ(first.status, 0) << first.err;
  EXPECT_NE((first.out + first.err).find("writes the date into the rows"), std::string::npos) << first.out << first.err;
  const Outcome other_day = train_in("Pacific/Kiritimati", "4", "--resume");  // 26 hours later
  EXPECT_EQ(other_day.status, 0) << other_day.err;
}

TEST_F(Train, ADryRunSaysWhatBecameOfRows) {
  copy_tiny_model(scratch_ / "m");
  nlohmann::json config = nlohmann::json::parse(read_file(scratch_ / "m" / "tokenizer_config.json"));
  config["add_bos_token"] = true;
  write_file(scratch_ / "m" / "tokenizer_config.json", config.dump());
  fs::create_directory(scratch_ / "text");
  write_file(scratch_ / "text" / "train.jsonl", "{\"text\": \"<|endoftext|>Once upon a time\"}\n");
  const Outcome got = run({"train", "-m", (scratch_ / "m").string(), "--adapter-path", adapter().string(), "--data",
                           (scratch_ / "text").string(), "--num-layers", "-1", "--batch-size", "1", "--max-seq-length",
                           "12", "--dry-run", "--json"});
  ASSERT_EQ(got.status, 0) << got.err;
  EXPECT_EQ(got.json().at("longest_row"), 18) << "the beginning once, 16 letters, the end";
  EXPECT_NE(got.err.find("1 rows spell the token that begins a text"), std::string::npos) << got.err;
  EXPECT_NE(got.err.find("truncated"), std::string::npos) << got.err;
}

TEST_F(Train, WhatWasUnderneathIsToldWhereTheAdapterIsUsedAlone) {
  ASSERT_EQ(train({"--data", data(), "--iters", "1", "--report-samples", "0"}).status, 0);
  const std::string top = (scratch_ / "top").string(), below = adapter().string();
  const Outcome on_top = run({"train", "-m", tiny_model(), "--data", data(), "--num-layers", "-1", "--iters", "1",
                              "--report-samples", "0", "--adapter", below + ":0.5", "--adapter-path", top});
  ASSERT_EQ(on_top.status, 0) << on_top.err;
  const auto generate = [&](std::vector<std::string> adapters) {
    std::vector<std::string> call = {"generate", "-m", tiny_model(), "-p", "x", "-n", "1"};
    for (const std::string& one : adapters) call.insert(call.end(), {"--adapter", one});
    return run(call).err;
  };
  EXPECT_NE(generate({top}).find("top was trained on top of adapter:0.5"), std::string::npos) << generate({top});
  EXPECT_EQ(generate({below + ":0.5", top}).find("on top of"), std::string::npos);
  EXPECT_EQ(generate({below}).find("on top of"), std::string::npos);
  const Outcome fused = run({"fuse", tiny_model(), (scratch_ / "fused").string(), "--adapter", top, "-d"});
  ASSERT_EQ(fused.status, 0) << fused.err;
  EXPECT_NE(fused.err.find("trained on top of"), std::string::npos) << fused.err;
  const Outcome merged = run({"adapter", "merge", top, below, "-o", (scratch_ / "merged").string(), "--json"});
  EXPECT_EQ(merged.json().at("on_top_of"), "adapter:0.5") << merged.err;
}

TEST_F(Train, PackedBatchesAndPeftsFormat) {
  const Outcome got = train({"--data", data(), "--packed", "--batch-size", "1", "--max-seq-length", "128", "--iters",
                             "3", "--format", "peft", "--rslora", "--scale", "16", "--json"});
  ASSERT_EQ(got.status, 0) << got.err;
  EXPECT_TRUE(fs::exists(adapter() / "adapter_model.safetensors"));
  const nlohmann::json config = nlohmann::json::parse(read_file(adapter() / "adapter_config.json"));
  EXPECT_EQ(config.at("peft_type"), "LORA");
  for (const nlohmann::json& line : metrics(adapter())) {
    if (line["type"] != "start") continue;
    EXPECT_EQ(line["batches_per_epoch"], 4) << "twelve rows of 34 to 37 tokens, three in each pack";
  }
}

TEST_F(Train, ADryRunTrainsNothing) {
  const Outcome got = train({"--data", data(), "--dry-run", "--json"});
  ASSERT_EQ(got.status, 0) << got.err;
  const nlohmann::json json = got.json();
  EXPECT_EQ(json.at("rows"), 12);
  EXPECT_EQ(json.at("batches_per_epoch"), 3);
  EXPECT_GT(json.at("memory_bytes").get<uint64_t>(), 0u);
  EXPECT_GT(json.at("seconds").get<double>(), 0);
  EXPECT_GT(json.at("trainable_parameters").get<uint64_t>(), 0u);
  EXPECT_FALSE(fs::exists(adapter()));
}

TEST_F(Train, TestAloneMeasuresTheAdapter) {
  write_file(scratch_ / "data/test.jsonl", read_file(scratch_ / "data/train.jsonl"));
  EXPECT_EQ(train({"--data", data(), "--test"}).status, 2) << "there is no adapter yet";
  const Outcome both = train({"--data", data(), "--train", "--test", "--iters", "3", "--json"});
  ASSERT_EQ(both.status, 0) << both.err;
  const Outcome alone = train({"--data", data(), "--test", "--json"});
  ASSERT_EQ(alone.status, 0) << alone.err;
  EXPECT_NEAR(alone.json().at("test_loss").get<double>(), both.json().at("test_loss").get<double>(), 1e-2);
}

TEST_F(Train, MistakesHaveTheirCodes) {
  EXPECT_EQ(train({}).status, 2) << "no data";
  EXPECT_EQ(train({"--data", data(), "--iters", "0"}).status, 2);
  EXPECT_EQ(train({"--data", data(), "--optimizer", "lion"}).status, 2);
  EXPECT_EQ(train({"--data", data(), "--warmup", "5"}).status, 2);
  EXPECT_EQ(train({"--data", data(), "--lr-schedule", "cosine_decay"}).status, 2);
  EXPECT_EQ(train({"--data", data(), "--fine-tune-type", "full"}).status, 5);
  EXPECT_EQ(train({"--data", "/nonexistent"}).status, 3);
  EXPECT_EQ(train({"--data", data(), "--batch-size", "13"}).status, 4) << "fewer rows than a batch";
  write_file(scratch_ / "bad.yaml", "data: x\nitres: 3\n");
  const Outcome unknown = train({"-c", (scratch_ / "bad.yaml").string()});
  EXPECT_EQ(unknown.status, 4);
  EXPECT_NE(unknown.err.find("bad.yaml:2] unknown key 'itres'"), std::string::npos) << unknown.err;
  write_file(scratch_ / "data/train.jsonl", read_file(scratch_ / "data/train.jsonl") + "{broken\n");
  const Outcome broken = train({"--data", data()});
  EXPECT_EQ(broken.status, 3);
  EXPECT_NE(broken.err.find("train.jsonl:13]"), std::string::npos) << broken.err;
}

TEST_F(Train, ALossAboveTheLimitNamesItsRowsAndLeavesAReport) {
  const Outcome got = train({"--data", data(), "--max-loss", "0.01", "--val-batches", "0"});
  EXPECT_EQ(got.status, 4) << got.err;
  EXPECT_NE(got.err.find("iteration 1,"), std::string::npos) << got.err;
  EXPECT_NE(got.err.find("train.jsonl:"), std::string::npos) << got.err;
  EXPECT_NE(read_file(adapter() / "report.html").find("<h1>"), std::string::npos);
}

TEST_F(Train, CtrlCStopsWithACheckpoint) {
  std::vector<std::string> arguments = {"train",
                                        "-m",
                                        tiny_model(),
                                        "--adapter-path",
                                        adapter().string(),
                                        "--data",
                                        data(),
                                        "--num-layers",
                                        "2",
                                        "--iters",
                                        "100000",
                                        "--steps-per-report",
                                        "1",
                                        "--val-batches",
                                        "0"};
  const Outcome got = run(Call{arguments, {}, {}, 0, "Iter 3:"});
  EXPECT_EQ(got.status, 130) << got.err;
  EXPECT_NE(got.err.find("--resume"), std::string::npos) << got.err;
  EXPECT_TRUE(fs::exists(adapter() / "checkpoints"));
}

}  // namespace
}  // namespace bumblebee::apps_test
