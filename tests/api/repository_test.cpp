// Directories and the Hugging Face cache's layout.
#include "bumblebee/repository.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "base/error.h"

namespace fs = std::filesystem;

namespace bumblebee {
namespace {

const std::string kCommit = "0123456789abcdef0123456789abcdef01234567";

class RepositoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ::setenv("HF_HUB_OFFLINE", "1", 1);
    root_ = fs::path(::testing::TempDir()) / ("bb_repository_" + std::to_string(::getpid()));
    const fs::path folder = root_ / "hub" / "models--org--name.v1";
    fs::create_directories(folder / "snapshots" / kCommit / "sub");
    fs::create_directories(folder / "refs" / "pr");
    std::ofstream(folder / "refs" / "main") << kCommit;
    std::ofstream(folder / "refs" / "pr" / "1") << kCommit << "\n";
    std::ofstream(folder / "refs" / "broken") << "../../../etc";
    snapshot_ = folder / "snapshots" / kCommit;
    std::ofstream(snapshot_ / "sub" / "config.json") << "{}";
    for (const char* part : {"", "sub"}) std::ofstream(snapshot_ / part / "model.safetensors") << "x";
  }
  void TearDown() override {
    fs::remove_all(root_);
    ::unsetenv("HF_HUB_OFFLINE");
  }
  HubOptions options(std::string revision = "main") const {
    return {.revision = std::move(revision), .cache_dir = root_ / "hub", .subdir = ""};
  }
  std::string failure(const Repository& repository) {
    try {
      repository.directory();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::bad_file);
      return error.what();
    }
    ADD_FAILURE() << "found " << repository.name();
    return "";
  }
  fs::path root_, snapshot_;
};

TEST_F(RepositoryTest, FindsSnapshots) {
  EXPECT_EQ(hf("org/name.v1", options()).directory(), snapshot_);
  EXPECT_EQ(hf("org/name.v1", options(kCommit)).directory(), snapshot_);
  EXPECT_EQ(hf("org/name.v1", options("pr/1")).directory(), snapshot_);
  HubOptions sub = options();
  sub.subdir = "sub";
  EXPECT_EQ(hf("org/name.v1", sub).directory(), snapshot_ / "sub");
}

TEST_F(RepositoryTest, SaysWhereItLooked) {
  EXPECT_NE(failure(hf("org/other", options())).find("models--org--other"), std::string::npos);
  EXPECT_NE(failure(hf("org/other", options())).find("HF_HUB_OFFLINE"), std::string::npos);
  EXPECT_NE(failure(hf("org/name.v1", options("v2"))).find("revision 'v2'"), std::string::npos);
  EXPECT_NE(failure(hf("org/name.v1", options(std::string(40, 'a')))).find("snapshots"), std::string::npos);
  EXPECT_NE(failure(hf("org/name.v1", options("broken"))).find("commit hash"), std::string::npos);
}

TEST_F(RepositoryTest, RefusesIdsThatLeadElsewhere) {
  for (const char* id :
       {"", "name", "a/b/c", "../x/y", "org/..", "org/na me", "/org", "org/", "a--b/c", "org/name\n", ".hidden/x"}) {
    EXPECT_THROW(hf(id), Error) << id;
  }
  for (const char* revision : {"", "..", "a/../b", "/etc", "../../x", "a\\b"}) {
    EXPECT_THROW(hf("org/name", {.revision = revision, .cache_dir = "", .subdir = ""}), Error) << revision;
  }
  EXPECT_THROW(hf("org/name", {.revision = "main", .cache_dir = "", .subdir = "../up"}), Error);
}

TEST_F(RepositoryTest, ReadsTheEnvironmentInHuggingFacesOrder) {
  for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"}) ::unsetenv(name);
  ::setenv("HOME", root_.c_str(), 1);
  const auto looked = [&] { return failure(hf("org/none")); };
  EXPECT_NE(looked().find((root_ / ".cache/huggingface/hub").string()), std::string::npos);
  ::setenv("XDG_CACHE_HOME", "/xdg", 1);
  EXPECT_NE(looked().find("/xdg/huggingface/hub"), std::string::npos);
  ::setenv("HF_HOME", "/hfhome", 1);
  EXPECT_NE(looked().find("/hfhome/hub/models--org--none"), std::string::npos);
  ::setenv("HUGGINGFACE_HUB_CACHE", "/old", 1);
  EXPECT_NE(looked().find("/old/models--org--none"), std::string::npos);
  ::setenv("HF_HUB_CACHE", (root_ / "hub").c_str(), 1);
  EXPECT_EQ(hf("org/name.v1").directory(), snapshot_);
  EXPECT_EQ(repository("org/name.v1@pr/1").directory(), snapshot_);
  EXPECT_EQ(repository("org/name.v1/sub@pr/1").directory(), snapshot_ / "sub");
  for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"}) ::unsetenv(name);
}

TEST_F(RepositoryTest, LocalDirectories) {
  EXPECT_EQ(local(snapshot_).directory(), snapshot_);
  EXPECT_EQ(repository(snapshot_.string()).directory(), snapshot_);
  EXPECT_NE(failure(local(root_ / "absent")).find("absent"), std::string::npos);
  EXPECT_NE(failure(local(root_ / "hub/models--org--name.v1/refs/main")).find("expected a directory"),
            std::string::npos);
}

TEST_F(RepositoryTest, FoldersOfTheCacheAreTheirRepository) {
  const fs::path folder = root_ / "hub" / "models--org--name.v1";
  EXPECT_EQ(repository(folder.string()).directory(), snapshot_);
  EXPECT_EQ(repository(folder.string() + "/snapshots").directory(), snapshot_);
  EXPECT_EQ(repository((snapshot_ / "sub").string()).directory(), snapshot_ / "sub");
  fs::remove(snapshot_ / "model.safetensors");
  const std::string told = failure(repository(snapshot_.string()));
  EXPECT_NE(told.find("the cache lacks the weights"), std::string::npos) << told;
  EXPECT_NE(told.find("bumblebee pull org/name.v1"), std::string::npos) << told;
  EXPECT_EQ(repository(snapshot_.string()).text_directory(), snapshot_) << "a tokenizer needs no weights";
}

TEST_F(RepositoryTest, AddressesAreTheirRepository) {
  ::setenv("HF_HUB_CACHE", (root_ / "hub").c_str(), 1);
  for (const char* source : {"https://huggingface.co/org/name.v1", "huggingface.co/org/name.v1/tree/main",
                             "https://hf.co/org/name.v1/blob/main/model.safetensors", "hf://org/name.v1"})
    EXPECT_EQ(repository(source).directory(), snapshot_) << source;
  EXPECT_EQ(repository("https://huggingface.co/org/name.v1/tree/pr%2F1/sub").directory(), snapshot_ / "sub");
  EXPECT_THROW(repository("https://example.com/org/name.v1"), Error);
  ::unsetenv("HF_HUB_CACHE");
}

TEST_F(RepositoryTest, WhatIsThereIsNeverARepositorysName) {
  const fs::path before = fs::current_path();
  fs::create_directories(root_ / "here/run");
  fs::current_path(root_ / "here");
  for (const char* file :
       {"run/adapters.safetensors", "run/0000100_adapters.safetensors", "run/notes.txt", "run/m.gguf"})
    std::ofstream(file) << "x";
  EXPECT_EQ(repository("run/adapters.safetensors").directory(), "run") << "the directory's own file";
  EXPECT_EQ(repository("run/0000100_adapters.safetensors").place(), "run/0000100_adapters.safetensors");
  EXPECT_NE(failure(repository("run/notes.txt")).find("give the one that holds it, run"), std::string::npos);
  // A directory that is there is mine, and so is what I misspell in it: the Hub does not hear of it.
  const std::string told = failure(repository("run/best"));
  EXPECT_NE(told.find("no such directory in run/"), std::string::npos) << told;
  EXPECT_NE(told.find("hf://run/best"), std::string::npos) << told;
  EXPECT_NE(failure(repository("run/best/x")).find("no such directory"), std::string::npos);
  try {
    repository("run/m.gguf").directory();
    ADD_FAILURE() << "a GGUF file as a directory";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("bumblebee convert run/m.gguf DIR"), std::string::npos) << error.what();
  }
  fs::current_path(before);
}

}  // namespace
}  // namespace bumblebee
