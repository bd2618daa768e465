// metrics.jsonl and report.html: what is told is in them, a resumed run goes on, and texts cannot become markup.
#include "bumblebee/train_record.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>

#include "base/error.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "train/chart.h"
#include "train/report_html.h"

namespace bumblebee {
namespace {

namespace fs = std::filesystem;

class Record : public ::testing::Test {
 protected:
  Record() {
    std::string name = (fs::temp_directory_path() / "bumblebee-record-XXXXXX").string();
    if (!::mkdtemp(name.data())) std::abort();
    folder_ = name;
  }
  ~Record() override { fs::remove_all(folder_); }

  std::vector<Json> lines() {
    std::vector<Json> out;
    std::ifstream file(folder_ / "metrics.jsonl");
    for (std::string line; std::getline(file, line);) out.push_back(Json::parse(line));
    return out;
  }
  std::string report() { return read_text_file(folder_ / "report.html", 1 << 24); }
  std::vector<int> iterations(const std::string& type) {
    std::vector<int> out;
    for (const Json& line : lines()) {
      if (line["type"] == type) out.push_back(line["iteration"]);
    }
    return out;
  }
  /// Tells what a run of iterations first..last tells.
  void tell(const TrainCallbacks& to, int first, int last) {
    TrainPlan plan;
    plan.first_iteration = first;
    to.started(plan);
    for (int i = first; i <= last; ++i) {
      TrainReport step;
      step.iteration = i;
      step.train_loss = 3.0 / i;
      step.learning_rate = 1e-4;
      to.report(step);
    }
    to.validated({.iteration = last, .loss = 1.5, .tokens = 10, .seconds = 1, .best = true});
  }

  fs::path folder_;
};

TEST_F(Record, EverythingToldIsALine) {
  const TrainRecord record(folder_, {.title = "My <run>", .facts = {{"model", "a&b"}}});
  int told = 0;
  TrainCallbacks inner;
  inner.report = [&told](const TrainReport&) { ++told; };
  inner.progress = [&told](const TrainProgress&) { return ++told < 0; };
  const TrainCallbacks to = record.callbacks(inner);
  to.note("2 rows were cut");
  tell(to, 1, 3);
  EXPECT_EQ(told, 3);
  EXPECT_FALSE(to.progress({})) << "the inner callback still decides";
  to.sampled({.iteration = 3, .prompt = "Hi", .text = "<script>alert(1)</script>\nYo"});
  to.saved({.iteration = 3, .path = folder_ / "best", .what = TrainSaved::What::best});
  TrainResult result;
  result.iterations = 3;
  result.best_val_loss = 1.5;
  result.train_loss = std::nan("");
  record.finish(result);

  std::vector<std::string> types;
  for (const Json& line : lines()) types.push_back(line["type"]);
  EXPECT_EQ(types, (std::vector<std::string>{"start", "note", "train", "train", "train", "validation", "sample",
                                             "saved", "end"}));
  EXPECT_EQ(lines()[2]["loss"], 3.0);
  EXPECT_TRUE(lines().back()["train_loss"].is_null()) << "JSON has no NaN";
  EXPECT_EQ(lines().back()["end"], "finished");

  const std::string page = report();
  EXPECT_NE(page.find("My &lt;run&gt;"), std::string::npos);
  EXPECT_NE(page.find("a&amp;b"), std::string::npos);
  EXPECT_NE(page.find("best: 1.5 at 3</text>"), std::string::npos);
  EXPECT_NE(page.find("&lt;script&gt;alert(1)"), std::string::npos);
  for (const char* bad : {"<script", "http://", "https://", "src=", "<link", "@import", "url("})
    EXPECT_EQ(page.find(bad), std::string::npos) << bad << " would need something outside the page";
  size_t charts = 0;
  for (size_t at = page.find("<svg"); at != std::string::npos; at = page.find("<svg", at + 1)) ++charts;
  EXPECT_EQ(charts, 4u);
}

TEST_F(Record, AResumedRunGoesOn) {
  {
    const TrainRecord record(folder_, {});
    const TrainCallbacks to = record.callbacks();
    tell(to, 1, 6);
  }
  std::ofstream(folder_ / "metrics.jsonl", std::ios::app) << "{\"type\":\"train\",\"iter";  // the crash
  const TrainRecord record(folder_, {.resume = true});
  tell(record.callbacks(), 5, 8);
  EXPECT_EQ(iterations("train"), (std::vector<int>{1, 2, 3, 4, 5, 6, 7, 8}));
  EXPECT_EQ(iterations("validation"), std::vector<int>{8}) << "what came after the checkpoint is told anew";
}

TEST_F(Record, AFreshRunBeginsAnew) {
  tell(TrainRecord(folder_, {}).callbacks(), 1, 6);
  tell(TrainRecord(folder_, {}).callbacks(), 1, 2);
  EXPECT_EQ(iterations("train"), (std::vector<int>{1, 2}));
}

TEST_F(Record, ATrainingThatFailedHasItsCurves) {
  const TrainRecord record(folder_, {});
  tell(record.callbacks(), 1, 2);
  fs::remove(folder_ / "report.html");
  record.write_report();
  EXPECT_NE(report().find("<path"), std::string::npos);
}

TEST_F(Record, NothingIsWrittenBeforeTheStart) {
  const TrainRecord record(folder_ / "later", {});
  record.write_report();
  record.callbacks().note("x");
  EXPECT_FALSE(fs::exists(folder_ / "later"));
  EXPECT_EQ(record.metrics_path(), folder_ / "later" / "metrics.jsonl");
}

TEST(Chart, PointsLieInsideAndInOrder) {
  train::Chart chart{
      .title = "Loss", .x_label = "iteration", .y_label = {}, .series = {{"a", "a", {{1, 5}, {2, 3}}, true}}};
  const std::string svg = train::svg(chart);
  EXPECT_NE(svg.find("<path class=\"a\" d=\"M64.0 28.0L628.0 204.0\"/>"), std::string::npos) << svg;
  EXPECT_NE(svg.find("<title>a at 1: 5</title>"), std::string::npos);
}

TEST(Chart, OddDataIsNoTrouble) {
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  const auto drawn = [](std::vector<std::pair<double, double>> points) {
    return train::svg({.title = "x", .x_label = "i", .y_label = {}, .series = {{"a", "a", std::move(points)}}});
  };
  EXPECT_EQ(drawn({}).find("<svg"), std::string::npos);
  EXPECT_EQ(drawn({{1, nan}, {2, inf}}).find("<svg"), std::string::npos);
  for (const auto& points : std::vector<std::vector<std::pair<double, double>>>{
           {{1, 2}}, {{1, 0}, {2, 0}}, {{1, 1e-300}, {2, 1e300}}, {{1, -5}, {1, -5}}, {{1, 2}, {2, nan}, {3, 4}}}) {
    const std::string svg = drawn(points);
    EXPECT_NE(svg.find("<path"), std::string::npos);
    EXPECT_EQ(svg.find("nan"), std::string::npos) << svg;
    EXPECT_EQ(svg.find("inf"), std::string::npos) << svg;
  }
}

TEST(Chart, ManyPointsStayFewInThePage) {
  std::vector<std::pair<double, double>> points;
  for (int i = 0; i < 100'000; ++i) points.emplace_back(i, std::sin(i * 0.001));
  EXPECT_LT(train::svg({.title = "x", .x_label = "i", .y_label = {}, .series = {{"a", "a", points}}}).size(), 40'000u);
}

std::string course(std::vector<std::pair<int, double>> losses) {
  std::vector<Json> lines;
  for (const auto& [iteration, loss] : losses)
    lines.push_back({{"type", "validation"}, {"iteration", iteration}, {"loss", loss}});
  return train::report_html({"t", {}, lines});
}

TEST(ReportHtml, MarksTheBestAndSaysWhereItBegan) {
  const std::string page = course({{0, 4.0}, {10, 3.0}, {20, 3.5}});
  EXPECT_NE(page.find("best: 3 at 10</text>"), std::string::npos);
  EXPECT_NE(page.find("<b>4.000</b><span>validation loss at the start"), std::string::npos);
  EXPECT_NE(page.find("<b>3.000</b><span>at its best, iteration 10"), std::string::npos);
  EXPECT_NE(page.find("<b>3.500</b><span>at the end"), std::string::npos);
  EXPECT_NE(page.find("54.6 → 20.09"), std::string::npos) << "perplexities";
  const std::string worse = course({{0, 4.0}, {10, 5.0}});
  EXPECT_NE(worse.find("best: 4 at 0</text>"), std::string::npos);
  EXPECT_EQ(worse.find("at its best"), std::string::npos) << "the untrained model is no best state";
  EXPECT_NE(worse.find("54.6 → 148.4"), std::string::npos);
}

TEST(ReportHtml, HashesAreShortAndWholeInTheirTitle) {
  const std::string hash(128, 'a');
  const Json end = {{"type", "end"},       {"end", "early_stopped"}, {"base_hash", hash},    {"adapter_id", "b"},
                    {"iterations", 1},     {"updates", 1},           {"seconds", 200.0},     {"best_iteration", 0},
                    {"trained_tokens", 7}, {"verdict", "it <went>"}, {"train_loss", nullptr}};
  const std::string page = train::report_html({"t", {}, {end}});
  EXPECT_NE(page.find("<abbr title=\"" + hash + "\">aaaaaaaaaaaa…</abbr>"), std::string::npos);
  EXPECT_NE(page.find("stopped early: validation no longer got better"), std::string::npos);
  EXPECT_NE(page.find("<p class=\"verdict\">It &lt;went&gt;</p>"), std::string::npos);
  EXPECT_NE(page.find("<th>time</th><td>3 min"), std::string::npos);
  for (const char* key : {"early_stopped", "base_hash", "best_iteration", "trained_tokens"})
    EXPECT_EQ(page.find(key), std::string::npos) << key;
}

TEST(ReportHtml, WhatIsCopiedIsMarked) {
  const Json copied = {{"text", "moon <came> up"}, {"words", 3},  {"of_words", 5},
                       {"characters", 14},         {"tokens", 4}, {"where", "train.jsonl:12"}};
  const Json line = {{"type", "comparison"},        {"prompt", "Write."},       {"without", "Sure & well."},
                     {"with", "A moon <came> up."}, {"copied_without", Json()}, {"copied_with", copied}};
  const std::string page = train::report_html({"t", {}, {line}});
  EXPECT_NE(page.find("A <mark>moon &lt;came&gt; up</mark>."), std::string::npos);
  EXPECT_NE(page.find("3 of 5 words, 14 characters, 4 tokens, as in train.jsonl:12"), std::string::npos);
  EXPECT_NE(page.find("Sure &amp; well."), std::string::npos);
  EXPECT_NE(page.find("no word of it was learned"), std::string::npos);
}

TEST(ReportHtml, OfTwoLinesAboutTheSameTheLaterCounts) {
  const Json first = {{"type", "sample"}, {"iteration", 5}, {"prompt", "Hi"}, {"text", "old words"}};
  const Json second = {{"type", "sample"}, {"iteration", 5}, {"prompt", "Hi"}, {"text", "new words"}};
  const std::string page = train::report_html({"t", {}, {first, second}});
  EXPECT_EQ(page.find("old words"), std::string::npos);
  EXPECT_NE(page.find("new words"), std::string::npos);
}

}  // namespace
}  // namespace bumblebee
