// What every test of the hub shares: a scratch directory with repositories and a cache, runs of `bumblebee pull`
// against the mock, and the one question asked after each: does any name in the cache stand over wrong bytes?
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "tests/hub/program/hub_mock.h"
#include "tests/hub/program/process.h"

namespace bumblebee::hub_test {

inline const std::string kWeights = "model.safetensors", kToken = "hf_secretSECRETsecretSECRET";

struct PublishedFile {
  std::filesystem::path source;
  uint64_t size = 0;
  std::string etag;
  bool lfs = false;
};

/// A commit that the mock serves.
struct Commit {
  std::string repository, sha;
  std::map<std::string, PublishedFile> files;

  const PublishedFile& operator[](const std::string& path) const { return files.at(path); }
};

using Files = std::map<std::string, std::string>;  // path -> contents
using Environment = std::map<std::string, std::string>;

/// `size` bytes that no compression shortens; other bytes for another seed.
std::string noise(size_t size, uint32_t seed);

/// A small model repository: configuration, tokenizer, weights of `size` bytes, a file two folders down, an empty one.
Files small_model(size_t size = 300'000, uint32_t seed = 1);

void write_file(const std::filesystem::path& path, const std::string& text);
std::string read_file(const std::filesystem::path& path);

class HubTest : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  /// Writes the files, and commits them to a branch (and what `options` of the mock's "commit" say).
  Commit publish(const Files& files, const std::string& repository = "org/name", nlohmann::json options = {});

  /// HOME, HF_ENDPOINT, HF_HUB_CACHE and nothing else of HF's.
  Environment environment() const;
  Launch launch(std::vector<std::string> arguments, const Environment& more = {}) const;
  Outcome run(std::vector<std::string> arguments, const Environment& more = {}) const;
  /// `bumblebee pull SOURCE`, which must succeed (or fail); both end with expect_sound().
  Outcome pull(const std::string& source = "org/name", const Environment& more = {}) const;
  Outcome pull_fails(const std::string& source = "org/name", const Environment& more = {}) const;
  /// The environment that preloads fault_io over the cache.
  Environment broken_disk(const std::string& fault) const;

  std::filesystem::path folder(const std::string& repository = "org/name") const;
  std::filesystem::path snapshot(const Commit& commit) const {
    return folder(commit.repository) / "snapshots" / commit.sha;
  }
  std::filesystem::path blob(const Commit& commit, const std::string& path) const {
    return folder(commit.repository) / "blobs" / commit[path].etag;
  }
  /// Every blob, link and ref is what some published commit says, and nothing lies outside of the cache.
  void expect_sound() const;
  /// All files of the commit (or those named) are there, with the right bytes.
  void expect_complete(const Commit& commit, const std::vector<std::string>& paths = {}) const;
  /// Nothing of the commit's file has its name yet.
  void expect_absent(const Commit& commit, const std::string& path) const;
  /// Sound, and either complete or an error that names the repository "org/name".
  void expect_complete_or_error(const Outcome& got, const Commit& commit) const;

  std::filesystem::path root_, cache_;
  std::vector<Commit> commits_;

 private:
  void expect_sound_repository(const std::filesystem::path& folder) const;
};

/// One line on stderr, `bumblebee: error: ...`, that holds each of the words (letters' case aside).
void expect_error(const Outcome& got, const std::vector<std::string>& words, int status = 0);

}  // namespace bumblebee::hub_test
