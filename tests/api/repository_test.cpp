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

}  // namespace
}  // namespace bumblebee
