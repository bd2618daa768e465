// --adapter on the verbs that run a model: what it changes, what leaves the base alone, and how it is refused.
#include <gtest/gtest.h>

#include "tests/apps/harness.h"

namespace bumblebee::apps_test {
namespace {

const std::string kBase = golden("models/qwen3"), kLora = golden("adapters/mlx_lora"),
                  kPeft = golden("adapters/peft_layers"), kFull = golden("adapters/mlx_full");

/// The bytes of the logits of a few tokens.
std::string logits(const std::vector<std::string>& more, const std::map<std::string, std::string>& environment = {}) {
  Scratch scratch;
  const std::string path = (scratch / "out").string();
  std::vector<std::string> call = {"logits", "-m", kBase, "--tokens", "5,9,30,2,17", "-o", path};
  call.insert(call.end(), more.begin(), more.end());
  const Outcome got = run(Call{call, environment, "", 0, {}});
  EXPECT_EQ(got.status, 0) << got.err;
  return read_file(path);
}

TEST(AdapterFlag, ANumberIsAShareOfWhatWasTrained) {
  // mlx_lora's own scale is 2.
  const double own = run({"info", kLora, "--json"}).json().at("modules").at(0).at("scale").get<double>();
  const std::string whole = logits({"--adapter", kLora}), half = logits({"--adapter", kLora + ":0.5"});
  EXPECT_EQ(logits({"--adapter", kLora + ":1"}), whole);
  EXPECT_EQ(logits({"--adapter", kLora + ":scale=" + std::to_string(own)}), whole);
  EXPECT_EQ(logits({"--adapter", kLora + ":scale=" + std::to_string(own / 2)}), half);
  EXPECT_NE(half, whole);

  // The same in the verbs that write: half of it, by each of them.
  Scratch scratch;
  const auto scale_of = [&](std::vector<std::string> call) {
    const std::string out = (scratch / ("out" + std::to_string(call.size()) + call[1])).string();
    call.insert(call.end(), {"-o", out});
    const Outcome got = run(call);
    EXPECT_EQ(got.status, 0) << got.err;
    EXPECT_NE(got.out.find("0.5 of what was trained"), std::string::npos) << got.out;
    return logits({"--adapter", out});
  };
  EXPECT_EQ(scale_of({"adapter", "convert", kLora + ":0.5", "--to", "peft"}), half);
  EXPECT_EQ(scale_of({"adapter", "merge", kLora + ":0.5"}), half);
}

TEST(AdapterFlag, ChangesTheAnswerAndAScaleOfZeroDoesNot) {
  const std::string base = logits({}), adapted = logits({"--adapter", kLora});
  EXPECT_NE(adapted, base);
  EXPECT_EQ(logits({"--adapter", kLora + ":0"}), base) << "bit for bit";
  EXPECT_NE(logits({"--adapter", kLora + ":0.25"}), adapted);
  EXPECT_EQ(logits({}, {{"BUMBLEBEE_ADAPTER", kLora}}), adapted);
}

TEST(AdapterFlag, SeveralAreComposedInAnyOrder) {
  const std::string both = logits({"--adapter", kLora, "--adapter", kPeft});
  EXPECT_NE(both, logits({"--adapter", kLora}));
  EXPECT_NE(both, logits({"--adapter", kPeft}));
  EXPECT_EQ(both, logits({"--adapter", kPeft, "--adapter", kLora}));
}

TEST(AdapterFlag, RefusalsNameTheAdapter) {
  const auto refused = [](const std::vector<std::string>& more, int status, const std::string& part) {
    Scratch scratch;
    std::vector<std::string> call = {"logits", "-m", kBase, "--tokens", "1,2", "-o", (scratch / "out").string()};
    call.insert(call.end(), more.begin(), more.end());
    const Outcome got = run(call);
    EXPECT_EQ(got.status, status) << got.err;
    EXPECT_NE(got.err.find(part), std::string::npos) << got.err;
    EXPECT_FALSE(std::filesystem::exists(scratch / "out"));
  };
  refused({"--adapter", kLora + ":much"}, 2, "expected ADAPTER, ADAPTER:WEIGHT");
  refused({"--adapter", ":2"}, 2, "expected a source");
  refused({"--adapter", "/nowhere/at/all"}, 3, "/nowhere/at/all");
  refused({"--adapter", "/nowhere:8080/at/all"}, 3, "/nowhere:8080/at/all");
  refused({"--adapter", kLora, "--adapter", kLora}, 8, "got it twice");
  refused({"--adapter", kFull, "--adapter", kFull}, 8, "got it twice");
  refused({"--adapter", kFull + ":scale=2"}, 8, "no factors to scale");
  refused({"--adapter", golden("adapters/mlx_dora") + ":0.5"}, 8, "expected 1 or 0, got 0.5");
  refused({"--adapter", golden("adapters/mlx_dora"), "--adapter", kLora}, 8, "DoRA rescales whole rows");
  const Outcome other = run({"generate", "-m", tiny_model(), "--raw", "-p", "x", "--adapter", kLora});
  EXPECT_EQ(other.status, 8) << other.err;
  EXPECT_NE(other.err.find("does not fit the base"), std::string::npos) << other.err;
}

TEST(AdapterFlag, EveryVerbThatRunsAModelHasIt) {
  for (const char* verb : {"generate", "chat", "logits", "perplexity", "bench"})
    EXPECT_NE(run({verb, "--help"}).out.find("--adapter SRC[:WEIGHT|:scale=X]"), std::string::npos) << verb;
}

TEST(AdapterFlag, BenchSetsTheBaseBeside) {
  const Outcome got = run({"bench", "-m", kBase, "-p", "8", "-n", "3", "-r", "2", "-t", "1", "--rows", "1,4",
                           "--no-bandwidth", "--json", "--adapter-rank", "2", "--adapter-count", "0,1,3"});
  ASSERT_EQ(got.status, 0) << got.err;
  std::vector<std::string> tests;
  for (const nlohmann::json& row : got.json()) {
    tests.push_back(row.at("test").get<std::string>() + " x" + row.at("rows").dump());
    const int64_t adapters = row.at("adapters");
    if (adapters == 0) {
      EXPECT_EQ(row.at("adapter_bytes"), 0);
    } else {
      EXPECT_GT(row.at("adapter_bytes"), 0);
    }
  }
  EXPECT_EQ(tests,
            (std::vector<std::string>{"pp8 x1", "pp8 + 1 adapter x1", "tg3 x1", "tg3 + 1 adapter x1",
                                      "tg3 + 3 adapters x1", "tg3 x4", "tg3 + 1 adapter x4", "tg3 + 3 adapters x4"}));
  const nlohmann::json own = run({"bench", "-m", kBase, "-p", "0", "-n", "2", "-r", "1", "-t", "1", "--no-bandwidth",
                                  "--json", "--adapter", kLora})
                                 .json();
  ASSERT_EQ(own.size(), 2u);
  EXPECT_EQ(own[1].at("test"), "tg2 + 1 adapter");
  EXPECT_EQ(run({"bench", "-m", kBase, "--adapter-count", "1"}).status, 2);
  EXPECT_EQ(run({"bench", "-m", kBase, "--adapter", kLora, "--adapter-count", "2", "--no-bandwidth"}).status, 8);
  EXPECT_EQ(run({"bench", "-m", kBase, "--adapter", kLora, "--adapter-rank", "2"}).status, 2);
}

}  // namespace
}  // namespace bumblebee::apps_test
