// bench: combinations of tests, the three formats, and refusals. How fast anything is, is not asked.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <sstream>

#include "tests/apps/harness.h"

namespace bumblebee::apps_test {
namespace {

const std::vector<std::string> kFields = {"model",
                                          "architecture",
                                          "parameters",
                                          "model_bytes",
                                          "backend",
                                          "instruction_set",
                                          "precision",
                                          "kv_type",
                                          "threads",
                                          "rows",
                                          "n_prompt",
                                          "n_gen",
                                          "n_depth",
                                          "adapters",
                                          "test",
                                          "avg_ts",
                                          "stddev_ts",
                                          "median_ts",
                                          "samples_ts",
                                          "weight_bytes",
                                          "adapter_bytes",
                                          "kv_bytes",
                                          "read_bandwidth",
                                          "bandwidth_share",
                                          "load_s",
                                          "first_token_s",
                                          "build",
                                          "cpu",
                                          "date"};

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

std::vector<std::string> words_of(const std::string& line, char separator) {
  std::vector<std::string> words;
  std::istringstream in(line);
  for (std::string word; std::getline(in, word, separator);) words.push_back(word);
  return words;
}

TEST(Bench, JsonHasEveryFieldAndItsNumbersAgree) {
  Outcome got = run({"bench", "-m", tiny_model(), "-p", "24", "-n", "6", "-r", "3", "-t", "1", "-o", "json"});
  ASSERT_EQ(got.status, 0) << got.err;
  EXPECT_EQ(got.err, "");
  nlohmann::json rows = got.json();
  ASSERT_EQ(rows.size(), 2u);
  nlohmann::json info = run({"info", tiny_model(), "--json"}).json();
  for (const nlohmann::json& row : rows) {
    SCOPED_TRACE(row.dump());
    std::set<std::string> names;
    for (const auto& [name, value] : row.items()) names.insert(name);
    EXPECT_EQ(names, std::set<std::string>(kFields.begin(), kFields.end()));
    EXPECT_EQ(row.at("model"), "tiny") << "a name, not a path";
    EXPECT_EQ(row.at("architecture"), "llama");
    EXPECT_EQ(row.at("backend"), "cpu");
    EXPECT_EQ(row.at("precision"), "fast");
    EXPECT_EQ(row.at("kv_type"), "bf16");
    EXPECT_EQ(row.at("threads"), 1);
    EXPECT_EQ(row.at("model_bytes"), info.at("bytes"));
    std::vector<double> samples = row.at("samples_ts");
    ASSERT_EQ(samples.size(), 3u);
    std::sort(samples.begin(), samples.end());
    EXPECT_GT(samples.front(), 0);
    EXPECT_EQ(row.at("median_ts"), samples[1]);
    EXPECT_NEAR(row.at("avg_ts").get<double>(), (samples[0] + samples[1] + samples[2]) / 3, 1e-6 * samples[2]);
    EXPECT_GE(row.at("stddev_ts").get<double>(), 0);
    EXPECT_GT(row.at("read_bandwidth").get<double>(), 1e8);
    EXPECT_TRUE(row.at("load_s").is_null());
    EXPECT_NE(run({"--version"}).out.find(words_of(row.at("build"), ' ').front()), std::string::npos);
    EXPECT_FALSE(row.at("cpu").get<std::string>().empty());
    EXPECT_EQ(row.at("date").get<std::string>().size(), std::string("2026-01-01T00:00:00Z").size());
  }
  EXPECT_EQ(rows[0].at("test"), "pp24");
  EXPECT_EQ(rows[0].at("n_prompt"), 24);
  EXPECT_TRUE(rows[0].at("bandwidth_share").is_null());
  EXPECT_TRUE(rows[0].at("kv_bytes").is_null());
  const nlohmann::json& tg = rows[1];
  EXPECT_EQ(tg.at("test"), "tg6");
  EXPECT_EQ(tg.at("n_gen"), 6);
  // Keys and values, 2 layers, 2 heads of 16, bf16, 3.5 tokens on average; f16 matrices with a tied head, no norms.
  EXPECT_EQ(tg.at("kv_bytes"), 3.5 * 2 * 2 * 2 * 16 * 2);
  EXPECT_EQ(tg.at("weight_bytes").get<int64_t>(), info.at("bytes").get<int64_t>() - 2 * 5 * 64);
  const double share = (tg.at("weight_bytes").get<double>() + tg.at("kv_bytes").get<double>()) *
                       tg.at("median_ts").get<double>() / tg.at("read_bandwidth").get<double>();
  EXPECT_NEAR(tg.at("bandwidth_share").get<double>(), share, 1e-9 * share);
}

TEST(Bench, EveryCombinationIsARow) {
  Outcome got = run({"bench", "-m",          tiny_model(),     "-p",     "4,8", "-n", "2",   "-n",
                     "3",     "-d",          "0,70",           "--rows", "1,2", "-t", "1,2", "-r",
                     "1",     "--no-warmup", "--no-bandwidth", "--json"});
  ASSERT_EQ(got.status, 0) << got.err;
  std::vector<std::string> rows;
  for (const nlohmann::json& row : got.json())
    rows.push_back(row.at("test").get<std::string>() + " x" + row.at("rows").dump() + " t" + row.at("threads").dump());
  std::vector<std::string> expected;
  for (const char* threads : {" t1", " t2"}) {
    for (const char* depth : {"", " @ d70"}) {
      for (const char* test : {"pp4", "pp8"}) expected.push_back(std::string(test) + depth + " x1" + threads);
      for (const char* test : {"tg2", "tg3"}) {
        for (const char* count : {" x1", " x2"}) expected.push_back(std::string(test) + depth + count + threads);
      }
    }
  }
  EXPECT_EQ(rows, expected);
}

TEST(Bench, ZeroSwitchesATestOff) {
  Outcome got = run({"bench", "-m", tiny_model(), "-p", "0", "-n", "1", "-r", "1", "--json", "--no-bandwidth"});
  ASSERT_EQ(got.status, 0) << got.err;
  ASSERT_EQ(got.json().size(), 1u);
  EXPECT_EQ(got.json()[0].at("test"), "tg1");
  EXPECT_GT(got.json()[0].at("median_ts").get<double>(), 0);
  EXPECT_TRUE(got.json()[0].at("read_bandwidth").is_null());
  EXPECT_TRUE(got.json()[0].at("bandwidth_share").is_null());
}

TEST(Bench, CsvHasAHeaderAndQuotedFields) {
  Outcome got = run({"bench", "-m", tiny_model(), "-p", "0", "-n", "2,3", "-r", "2", "--no-bandwidth", "-o", "csv"});
  ASSERT_EQ(got.status, 0) << got.err;
  std::vector<std::string> lines = lines_of(got.out);
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(words_of(lines[0], ','), kFields);
  for (size_t i = 1; i < lines.size(); ++i) {
    EXPECT_TRUE(lines[i].starts_with("\"tiny\",\"llama\",")) << lines[i];
    size_t fields = 1;
    for (size_t at = lines[i].find("\",\""); at != std::string::npos; at = lines[i].find("\",\"", at + 2)) ++fields;
    EXPECT_EQ(fields, kFields.size()) << lines[i];
  }
  EXPECT_NE(lines[2].find("\"tg3\""), std::string::npos);
}

TEST(Bench, MarkdownIsATable) {
  Outcome got = run({"bench", "-m", tiny_model(), "-p", "3", "-n", "2", "-r", "1", "--rows", "2", "--kv-type", "f16",
                     "--precision", "exact"});
  ASSERT_EQ(got.status, 0) << got.err;
  std::vector<std::string> lines = lines_of(got.out);
  ASSERT_EQ(lines.size(), 6u) << got.out;
  const size_t columns = words_of(lines[0], '|').size();
  for (const char* title :
       {"model", "size", "params", "backend", "threads", "precision", "kv type", "rows", "test", "t/s", "% of read"})
    EXPECT_NE(lines[0].find(std::string(" ") + title + " "), std::string::npos) << title;
  EXPECT_TRUE(lines[1].starts_with("| ---"));
  for (size_t i = 1; i < 4; ++i) EXPECT_EQ(words_of(lines[i], '|').size(), columns) << lines[i];
  EXPECT_NE(lines[2].find(" pp3 "), std::string::npos);
  EXPECT_NE(lines[3].find(" tg2 "), std::string::npos);
  EXPECT_NE(lines[3].find(" ± "), std::string::npos);
  EXPECT_TRUE(lines[5].starts_with("build: ")) << lines[5];
}

TEST(Bench, LoadingIsARowOfItsOwn) {
  Outcome got = run({"bench", "-m", golden_model("qwen3"), "--load", "-p", "0", "-n", "0", "-r", "2", "--quantization",
                     "none", "-o", "json"});
  ASSERT_EQ(got.status, 0) << got.err;
  ASSERT_EQ(got.json().size(), 1u);
  nlohmann::json row = got.json()[0];
  EXPECT_EQ(row.at("test"), "load");
  EXPECT_EQ(row.at("architecture"), "qwen3");
  EXPECT_GT(row.at("load_s").get<double>(), 0);
  EXPECT_GT(row.at("first_token_s").get<double>(), row.at("load_s").get<double>());
  EXPECT_GT(row.at("weight_bytes").get<int64_t>(), 0);
  EXPECT_GT(row.at("read_bandwidth").get<double>(), 0);
  EXPECT_TRUE(row.at("avg_ts").is_null());
}

TEST(Bench, CtrlCEndsIt) {
  Call call;
  call.arguments = {"bench", "-m", tiny_model(), "-p", "0", "-n", "30000", "-r", "1000", "--no-bandwidth"};
  call.interrupt_after_ms = 300;
  Outcome got = run(call);
  EXPECT_EQ(got.status, 130) << got.err;
  EXPECT_EQ(got.out, "");
}

TEST(Bench, NamesTheKernelsThatRan) {
  for (const char* set : {"", "scalar"}) {
    Call call;
    call.arguments = {"bench", "-m", tiny_model(), "-p", "2", "-n", "0", "-r", "1", "--json", "--no-bandwidth"};
    call.environment = {{"BB_CPU", set}};
    if (*set == '\0') call.environment.clear();
    Outcome got = run(call);
    ASSERT_EQ(got.status, 0) << got.err;
    Call doctor = call;
    doctor.arguments = {"doctor", "--json", "--no-bandwidth"};
    nlohmann::json device = run(doctor).json().at("devices")[0];
    EXPECT_EQ(got.json()[0].at("instruction_set"), device.at("kernels"));
    if (*set == '\0') {
      EXPECT_EQ(device.at("kernels"), device.at("kernels_available")[0]);
    } else {
      EXPECT_EQ(device.at("kernels"), set);
    }
  }
}

TEST(Bench, RefusesBadValues) {
  const auto refused = [](std::vector<std::string> flags, int status, const char* part) {
    std::vector<std::string> arguments = {"bench", "-m", tiny_model()};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    Outcome got = run(arguments);
    EXPECT_EQ(got.status, status) << got.err;
    EXPECT_TRUE(got.err.starts_with("bumblebee: error: ")) << got.err;
    EXPECT_NE(got.err.find(part), std::string::npos) << got.err;
    const bool json = std::find(arguments.begin(), arguments.end(), "--json") != arguments.end();
    EXPECT_EQ(got.out.empty(), !json) << got.out;
  };
  refused({"-p", "x"}, 2, "expected an integer from 0");
  refused({"-p", "-1"}, 2, "-1");
  refused({"-p", "4,,8"}, 2, "expected an integer");
  refused({"-p", "4, 8"}, 2, "got ' 8'");
  refused({"-p", "4,"}, 2, "expected an integer");
  refused({"-p", ""}, 2, "--n-prompt");
  refused({"-p", "4 8"}, 2, "'4 8'");
  refused({"-p", "4", "8"}, 2, "8");
  refused({"-n", "99999999999999"}, 2, "expected an integer");
  refused({"-n", "1.5"}, 2, "expected an integer");
  refused({"-d", "-1"}, 2, "-1");
  refused({"-t", "1025"}, 2, "from 0 to 1024");
  refused({"--rows", "0"}, 2, "from 1 to 1024");
  refused({"-r", "0"}, 2, "from 1");
  refused({"-o", "xml"}, 2, "expected one of md, json, csv");
  refused({"--json", "-o", "csv"}, 2, "exclude each other");
  refused({"-p", "0", "-n", "0"}, 2, "nothing to measure");
  refused({"-p", "0", "-n", "1,999999"}, 8, "the model's context");
  refused({"-p", "1", "-n", "0", "-d", "32768"}, 8, "pp1 @ d32768");
  refused({"--device", "quantum"}, 7, "quantum");
  EXPECT_EQ(run({"bench", "-p", "1"}).status, 2) << "no model";
  EXPECT_EQ(run({"bench", "-m", "/nowhere"}).status, 3);
  nlohmann::json error = run({"bench", "-m", tiny_model(), "-n", "999999", "--json"}).json();
  EXPECT_EQ(error.at("error").at("code"), "bad_request");
}

}  // namespace
}  // namespace bumblebee::apps_test
