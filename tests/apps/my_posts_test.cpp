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

TEST(MyPosts, TheCommandsOfThePageWork) {
  const fs::path example = BB_SOURCE_ROOT "/examples/my_posts";
  Scratch scratch;
  for (const char* name : {"posts.txt", "lora.yaml"}) fs::copy_file(example / name, scratch / name);
  const std::vector<std::string> found = commands(read_file(example / "README.md"));
  ASSERT_GE(found.size(), 5u);
  int trained = 0;
  for (std::string command : found) {
    SCOPED_TRACE(command);
    trained += command.find("bumblebee train") != std::string::npos ? 1 : 0;
    ASSERT_TRUE(command.starts_with("bumblebee "));
    command = replaced("'" BB_PROGRAM "'" + command.substr(9), " MODEL", " '" + tiny_model() + "'");
    const std::string line = "cd '" + scratch.path().string() + "' && " + command + " </dev/null >out 2>err";
    const int status = std::system(line.c_str());
    ASSERT_EQ(status, 0) << read_file(scratch / "err");
    EXPECT_FALSE(read_file(scratch / "out").empty());
  }
  EXPECT_EQ(trained, 3);
  for (const char* made : {"data/train.jsonl", "data/valid.jsonl", "adapter/adapters.safetensors",
                           "adapter/metrics.jsonl", "adapter/report.html", "adapter/best/adapters.safetensors"}) {
    EXPECT_TRUE(fs::exists(scratch / made)) << made;
  }
}

}  // namespace
}  // namespace bumblebee::apps_test
