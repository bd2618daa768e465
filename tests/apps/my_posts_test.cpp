// examples/my_posts: the commands that its page shows, run one after the other on the tiny model.
#include <gtest/gtest.h>

#include <cstdlib>
#include <sstream>

#include "tests/apps/harness.h"

namespace bumblebee::apps_test {
namespace {

namespace fs = std::filesystem;

/// The lines of all ```sh blocks.
std::vector<std::string> commands(const std::string& page) {
  std::vector<std::string> out;
  std::istringstream lines(page);
  bool inside = false;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("```")) {
      inside = line == "```sh";
    } else if (inside && !line.empty()) {
      out.push_back(line);
    }
  }
  return out;
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
  return text;
}

/// Runs the page's commands with `model` as MODEL; the outputs of the last one.
std::string run_page(const Scratch& scratch, const std::string& model) {
  const fs::path example = BB_SOURCE_ROOT "/examples/my_posts";
  for (const char* name : {"posts.txt", "lora.yaml"}) fs::copy_file(example / name, scratch / name);
  const std::vector<std::string> found = commands(read_file(example / "README.md"));
  EXPECT_GE(found.size(), 5u);
  int trained = 0;
  for (std::string command : found) {
    SCOPED_TRACE(command);
    trained += command.find("bumblebee train") != std::string::npos ? 1 : 0;
    EXPECT_TRUE(command.starts_with("bumblebee "));
    command = replaced("'" BB_PROGRAM "'" + command.substr(9), " MODEL", " '" + model + "'");
    const std::string line = "cd '" + scratch.path().string() + "' && " + command + " </dev/null >out 2>err";
    const int status = std::system(line.c_str());
    EXPECT_EQ(status, 0) << read_file(scratch / "err");
    EXPECT_FALSE(read_file(scratch / "out").empty());
    if (status != 0) break;
  }
  EXPECT_EQ(trained, 3);
  return read_file(scratch / "out");
}

TEST(MyPosts, TheCommandsOfThePageWork) {
  Scratch scratch;
  run_page(scratch, tiny_model());
  for (const char* made : {"data/train.jsonl", "data/valid.jsonl", "adapter/adapters.safetensors",
                           "adapter/metrics.jsonl", "adapter/report.html", "adapter/best/adapters.safetensors"}) {
    EXPECT_TRUE(fs::exists(scratch / made)) << made;
  }
}

/// What the page promises, on the model that it names. Half a minute to a few of them.
TEST(MyPosts, OnTheDemosModelValidationGetsBetterToTheEnd) {
  Scratch scratch;
  const std::string where = (scratch / "where").string();
  ASSERT_EQ(std::system(("'" BB_SOURCE_ROOT "/tools/demo_model.sh' '" BB_PROGRAM "' >" + where).c_str()), 0)
      << "the demo's model is missing; ./demo fetches it";
  std::string model = read_file(where);
  model.erase(model.find_last_not_of('\n') + 1);
  EXPECT_GT(run_page(scratch, model).size(), 20u) << "a post";
  nlohmann::json end;
  std::istringstream lines(read_file(scratch / "adapter/metrics.jsonl"));
  std::string line;
  std::vector<nlohmann::json> compared;
  while (std::getline(lines, line)) {
    nlohmann::json one = nlohmann::json::parse(line);
    if (one["type"] == "comparison") compared.push_back(one);
    if (one["type"] == "end") end = one;
  }
  const double first = end.at("first_val_loss"), best = end.at("best_val_loss"), last = end.at("val_loss");
  EXPECT_LT(best, first - 0.4);
  EXPECT_LT(last, first - 0.4) << "the last adapter is better than none too";
  EXPECT_TRUE(fs::exists(scratch / "adapter/best/adapters.safetensors"));
  EXPECT_FALSE(end.at("verdict").get<std::string>().empty());
  ASSERT_EQ(compared.size(), 4u);
  for (const nlohmann::json& one : compared)
    EXPECT_LE(one.at("copied_with").at("words").get<int>(), 6) << "it writes, and recites nothing: " << one.dump();
}

}  // namespace
}  // namespace bumblebee::apps_test
