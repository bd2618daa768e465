// Outputs beside inputs, and what a manifest calls ours.
#include "base/output_paths.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "base/error.h"

namespace bumblebee {
namespace {

namespace fs = std::filesystem;

class OutputPaths : public ::testing::Test {
 protected:
  void SetUp() override { fs::create_directories(root_ / "model" / "parts"); }
  void TearDown() override { fs::remove_all(root_); }
  void write(const std::string& name, const std::string& text) { std::ofstream(root_ / name) << text; }
  /// What is wrong with an output, or "".
  std::string complaint(const fs::path& output, const std::vector<fs::path>& inputs) {
    try {
      require_apart(output, inputs);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::bad_request);
      return error.what();
    }
    return "";
  }
  fs::path root_ = fs::path(::testing::TempDir()) / ("bb_output_paths_" + std::to_string(::getpid()));
};

TEST_F(OutputPaths, AnOutputIsApartFromEveryInput) {
  write("model.gguf", "x");
  fs::create_directory_symlink("model", root_ / "link");
  const auto says = [&](const fs::path& output, const fs::path& input, const char* relation) {
    EXPECT_NE(complaint(root_ / output, {"", root_ / input}).find(relation), std::string::npos)
        << output << ' ' << input;
  };
  says("model", "model", "the input itself");
  says("model/", "model/../model", "the input itself");
  says("model", "link", "the input itself");
  says("link/new", "model", "one inside it");
  says("model/parts/out", "model", "one inside it");
  says("model", "model/parts", "one that holds it");
  says("", "model.gguf", "one that holds it");
  for (const char* apart : {"model2", "mode", "model.gguf2", "other/model"})
    EXPECT_EQ(complaint(root_ / apart, {root_ / "model", root_ / "model.gguf", ""}), "") << apart;
}

TEST_F(OutputPaths, WhatAnInputLinksToIsAnInput) {
  write("blob", "weights");
  fs::create_symlink("../blob", root_ / "model" / "model.safetensors");
  EXPECT_NE(complaint(root_, {root_ / "model"}), "");
  fs::create_directories(root_ / "cache");
  fs::rename(root_ / "blob", root_ / "cache" / "blob");
  fs::remove(root_ / "model" / "model.safetensors");
  fs::create_symlink("../cache/blob", root_ / "model" / "model.safetensors");
  EXPECT_NE(complaint(root_ / "cache", {root_ / "model"}).find("one that holds it"), std::string::npos);
  EXPECT_EQ(complaint(root_ / "out", {root_ / "model"}), "");
}

TEST_F(OutputPaths, OnlyWhatIsAsItWasWrittenIsOurs) {
  using Names = std::set<std::string>;
  EXPECT_TRUE(written_files(root_).ours.empty());
  const std::string large((2 << 20) + 1, 'x');
  write("config.json", "{}");
  write("model/parts/a.txt", "a");
  write("empty", "");
  write("large", large);
  write("notes.txt", "theirs");
  write_manifest(root_, {"config.json", "model/parts/a.txt", "empty", "large", "absent"});
  EXPECT_EQ(written_files(root_).ours, (Names{kManifestName, "config.json", "empty", "large", "model/parts/a.txt"}));
  EXPECT_EQ(written_files(root_).edited, Names());
  EXPECT_EQ(files_below(root_),
            (Names{kManifestName, "config.json", "empty", "large", "model/parts/a.txt", "notes.txt"}));
  write("config.json", "{ }");
  write("model/parts/a.txt", "b");  // the same size
  write("empty", "more");
  std::string changed = large;
  changed.back() = 'y';
  write("large", changed);
  EXPECT_EQ(written_files(root_).ours, Names{kManifestName});
  EXPECT_EQ(written_files(root_).edited, (Names{"config.json", "empty", "large", "model/parts/a.txt"}));
  write(kManifestName, "not JSON");
  EXPECT_TRUE(written_files(root_).ours.empty());
}

TEST_F(OutputPaths, AManifestReachesNothingOutside) {
  write("outside", "x");
  write("model/inside", "x");
  fs::create_directories(root_ / "elsewhere");
  write("elsewhere/y", "x");
  fs::create_directory_symlink("../elsewhere", root_ / "model" / "sub");
  fs::create_symlink("../outside", root_ / "model" / "link");
  write_manifest(root_ / "model", {"inside", "../outside", (root_ / "outside").string(), "sub/y", "link", "./inside",
                                   "parts/../inside"});
  EXPECT_EQ(written_files(root_ / "model").ours, (std::set<std::string>{kManifestName, "inside"}));
  EXPECT_TRUE(written_files(root_ / "model").edited.empty());
}

}  // namespace
}  // namespace bumblebee
