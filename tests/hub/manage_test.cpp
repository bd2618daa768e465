// Looking after a cache: what is listed, removed, pruned, verified, and what is left alone.
#include "hub/manage.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "base/error.h"
#include "hub/lock.h"

namespace fs = std::filesystem;

namespace bumblebee::hub {
namespace {

const std::string kFirst(40, 'a'), kSecond(40, 'b');
const std::string kEmptySha1 = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391";
const std::string kAbcSha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";  // "abc"
const std::string kHelloSha1 = "ce013625030ba8dba906f756967f9e9ca394464a";                          // "hello\n"

class Manage : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::path(::testing::TempDir()) / ("bb_hub_manage_" + std::to_string(::getpid()));
    cache_ = root_ / "hub";
    // org/name: two commits that share one blob; main leads to the first, nothing to the second.
    blob("models--org--name", kAbcSha256, "abc");
    blob("models--org--name", kHelloSha1, "hello\n");
    blob("models--org--name", kEmptySha1, "");
    link("models--org--name", kFirst, "model.safetensors", kAbcSha256);
    link("models--org--name", kFirst, "sub/config.json", kHelloSha1);
    link("models--org--name", kSecond, "model.safetensors", kAbcSha256);
    link("models--org--name", kSecond, "empty.json", kEmptySha1);
    write("models--org--name/refs/main", kFirst);
    blob("datasets--org--data", kHelloSha1, "hello\n");
    link("datasets--org--data", kFirst, "x.txt", kHelloSha1);
    write("datasets--org--data/refs/main", kFirst);
    write("CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55");
    write(".locks/models--org--name/" + kHelloSha1 + ".lock", "");
    write("version.txt", "1");
  }
  void TearDown() override { fs::remove_all(root_); }
  void write(const std::string& path, const std::string& text) {
    fs::create_directories((cache_ / path).parent_path());
    std::ofstream(cache_ / path) << text;
  }
  void blob(const std::string& folder, const std::string& etag, const std::string& text) {
    write(folder + "/blobs/" + etag, text);
  }
  void link(const std::string& folder, const std::string& commit, const std::string& path, const std::string& etag) {
    const fs::path at = cache_ / folder / "snapshots" / commit / path;
    fs::create_directories(at.parent_path());
    fs::create_symlink((path.find('/') == std::string::npos ? "../../blobs/" : "../../../blobs/") + etag, at);
  }
  bool there(const std::string& path) const { return fs::exists(cache_ / path); }
  static const CachedRepository& find(const CacheList& list, const std::string& id) {
    return *std::find_if(list.repositories.begin(), list.repositories.end(), [&](const auto& r) { return r.id == id; });
  }
  fs::path root_, cache_;
};

TEST_F(Manage, Lists) {
  const CacheList list = list_cache(cache_);
  ASSERT_EQ(list.repositories.size(), 2u);
  EXPECT_EQ(list.bytes, 3u + 6u + 6u);
  const CachedRepository& model = find(list, "org/name");
  EXPECT_EQ(model.type, "model");
  EXPECT_EQ(model.bytes, 9u) << "each blob once";
  EXPECT_EQ(model.partial_bytes, 0u);
  EXPECT_EQ(model.files, 3);
  ASSERT_EQ(model.revisions.size(), 2u);
  for (const CachedRevision& revision : model.revisions) {
    EXPECT_EQ(revision.files, 2);
    EXPECT_EQ(revision.bytes, revision.commit == kFirst ? 9u : 3u);
    EXPECT_EQ(revision.refs, revision.commit == kFirst ? std::vector<std::string>{"main"} : std::vector<std::string>{});
  }
  EXPECT_EQ(find(list, "org/data").type, "dataset");
  EXPECT_TRUE(list.warnings.empty()) << list.warnings[0];
}

TEST_F(Manage, AnEmptyOrAbsentCache) {
  EXPECT_TRUE(list_cache(root_ / "none").repositories.empty());
  EXPECT_FALSE(fs::exists(root_ / "none"));
  fs::create_directories(root_ / "empty");
  EXPECT_TRUE(list_cache(root_ / "empty").repositories.empty());
  EXPECT_TRUE(prune_cache(root_ / "none", Act::remove).what.empty());
}

TEST_F(Manage, WarnsOfWhatItDoesNotUnderstand) {
  write("models--broken", "a file");
  fs::create_directories(cache_ / "models--no--snapshots");
  write("models--org--refs/refs/main", "nonsense");
  write("models--org--refs/snapshots/" + kFirst + "/x.json", "{}");
  const CacheList list = list_cache(cache_);
  EXPECT_FALSE(list.warnings.empty());
  EXPECT_NO_THROW(find(list, "org/name"));
}

TEST_F(Manage, RemovesARevisionAndKeepsSharedBlobs) {
  const Removal told = remove_from_cache(cache_, {"org/name@" + kFirst}, Act::report);
  EXPECT_EQ(told.bytes, 6u);
  EXPECT_TRUE(there("models--org--name/snapshots/" + kFirst)) << "only said";
  const Removal done = remove_from_cache(cache_, {"org/name@main"}, Act::remove);
  EXPECT_EQ(done.bytes, told.bytes);
  EXPECT_FALSE(there("models--org--name/snapshots/" + kFirst));
  EXPECT_FALSE(there("models--org--name/refs/main")) << "it would lead nowhere";
  EXPECT_FALSE(there("models--org--name/blobs/" + kHelloSha1));
  EXPECT_TRUE(there("models--org--name/blobs/" + kAbcSha256));
  EXPECT_TRUE(there("models--org--name/snapshots/" + kSecond + "/model.safetensors"));
  EXPECT_TRUE(there("datasets--org--data/snapshots/" + kFirst + "/x.txt"));
}

TEST_F(Manage, RemovesByTheCommitAlone) {
  remove_from_cache(cache_, {kSecond}, Act::remove);
  EXPECT_FALSE(there("models--org--name/snapshots/" + kSecond));
  EXPECT_TRUE(there("models--org--name/snapshots/" + kFirst));
}

TEST_F(Manage, RemovesARepository) {
  const Removal done = remove_from_cache(cache_, {"org/name"}, Act::remove);
  EXPECT_EQ(done.bytes, 9u);
  EXPECT_FALSE(there("models--org--name"));
  EXPECT_TRUE(there("datasets--org--data/blobs/" + kHelloSha1));
  remove_from_cache(cache_, {"dataset/org/data"}, Act::remove);
  EXPECT_FALSE(there("datasets--org--data"));
  EXPECT_TRUE(there("version.txt")) << "not ours";
}

TEST_F(Manage, RemovesNothingWhenOneTargetIsAbsent) {
  for (const std::string& target :
       {std::string("org/none"), std::string("org/name@v9"), std::string(40, 'c'), std::string("../.."),
        std::string(""), std::string("org/../../x"), std::string("org/name@../../x"), std::string("/etc")}) {
    SCOPED_TRACE(target);
    EXPECT_THROW(remove_from_cache(cache_, {"org/name", target}, Act::remove), Error);
    EXPECT_TRUE(there("models--org--name/refs/main"));
  }
}

TEST_F(Manage, RemovalNeverFollowsLinksOut) {
  std::ofstream(root_ / "outside") << "keep";
  fs::create_directories(root_ / "folder");
  std::ofstream(root_ / "folder" / "inside") << "keep";
  fs::create_symlink(root_ / "outside", cache_ / "models--org--name/snapshots" / kFirst / "evil.json");
  fs::create_directory_symlink(root_ / "folder", cache_ / "models--org--name/snapshots" / kFirst / "evil");
  fs::create_directory_symlink(root_ / "folder", cache_ / "models--org--linked");
  remove_from_cache(cache_, {"org/name@main"}, Act::remove);
  remove_from_cache(cache_, {"org/name"}, Act::remove);
  EXPECT_TRUE(fs::exists(root_ / "outside"));
  EXPECT_TRUE(fs::exists(root_ / "folder" / "inside"));
  prune_cache(cache_, Act::remove);
  EXPECT_TRUE(fs::exists(root_ / "folder" / "inside"));
}

TEST_F(Manage, Prunes) {
  write("models--org--name/blobs/" + std::string(64, 'd') + ".incomplete", std::string(1000, 'x'));
  write("models--org--name/blobs/" + std::string(64, 'e') + ".01234567.incomplete", std::string(500, 'x'));
  const CacheList list = list_cache(cache_);
  EXPECT_EQ(find(list, "org/name").partial_bytes, 1500u);
  const Removal told = prune_cache(cache_, Act::report);
  EXPECT_TRUE(there("models--org--name/snapshots/" + kSecond));
  const Removal done = prune_cache(cache_, Act::remove);
  EXPECT_EQ(done.bytes, told.bytes);
  EXPECT_EQ(done.bytes, 1500u) << "and an empty file";
  EXPECT_FALSE(there("models--org--name/snapshots/" + kSecond));
  EXPECT_TRUE(there("models--org--name/snapshots/" + kFirst + "/model.safetensors"));
  for (const auto& entry : fs::directory_iterator(cache_ / "models--org--name/blobs"))
    EXPECT_NE(entry.path().extension(), ".incomplete") << entry.path();
  EXPECT_TRUE(prune_cache(cache_, Act::remove).what.empty());
}

TEST_F(Manage, PruningSparesWhatIsBeingWritten) {
  const std::string etag(64, 'd');
  write("models--org--name/blobs/" + etag + ".incomplete", std::string(1000, 'x'));
  {
    FileLock writer(cache_ / ".locks/models--org--name" / (etag + ".lock"), {});
    prune_cache(cache_, Act::remove);
    EXPECT_TRUE(there("models--org--name/blobs/" + etag + ".incomplete"));
  }
  prune_cache(cache_, Act::remove);
  EXPECT_FALSE(there("models--org--name/blobs/" + etag + ".incomplete"));
}

TEST_F(Manage, Verifies) {
  const Verification good = verify_cached(cache_, "org/name", "main");
  EXPECT_EQ(good.commit, kFirst);
  EXPECT_EQ(good.files, 2);
  EXPECT_EQ(good.bytes, 9u);
  EXPECT_TRUE(good.broken.empty() && good.missing.empty() && good.unverifiable.empty());
  EXPECT_THROW(verify_cached(cache_, "org/none", "main"), Error);
  EXPECT_THROW(verify_cached(cache_, "org/name", "v9"), Error);
}

TEST_F(Manage, VerifyFindsWhatIsWrong) {
  write("models--org--name/blobs/" + kAbcSha256, "abd");
  fs::remove(cache_ / "models--org--name/blobs" / kHelloSha1);
  const Verification bad = verify_cached(cache_, "org/name", kFirst);
  ASSERT_EQ(bad.broken.size(), 1u);
  EXPECT_NE(bad.broken[0].find("model.safetensors"), std::string::npos);
  EXPECT_NE(bad.broken[0].find(kAbcSha256), std::string::npos);
  ASSERT_EQ(bad.missing.size(), 1u);
  EXPECT_NE(bad.missing[0].find("sub/config.json"), std::string::npos);
}

TEST_F(Manage, VerifyWithTheKeptList) {
  // Without links, only the list tells the hashes; with it, a file that was never fetched is not a defect by itself.
  const std::string folder = "models--org--plain/";
  write(folder + "refs/main", kFirst);
  write(folder + "snapshots/" + kFirst + "/a.json", "hello\n");
  write(folder + "snapshots/" + kFirst + "/b.safetensors", "abd");
  const Verification unknown = verify_cached(cache_, "org/plain", "main");
  EXPECT_EQ(unknown.unverifiable.size(), 2u);
  write(folder + "trees/" + kFirst + ".json", R"({"format_version": 1, "files": {"a.json": {"size": 6, "blob_id": ")" +
                                                  kHelloSha1 + R"("}, "b.safetensors": {"size": 3, "blob_id": ")" +
                                                  kEmptySha1 + R"(", "lfs_sha256": ")" + kAbcSha256 +
                                                  R"(", "lfs_size": 3}}})");
  const Verification known = verify_cached(cache_, "org/plain", "main");
  EXPECT_EQ(known.files, 2);
  EXPECT_TRUE(known.unverifiable.empty());
  ASSERT_EQ(known.broken.size(), 1u);
  EXPECT_NE(known.broken[0].find("b.safetensors"), std::string::npos);
}

TEST_F(Manage, VerifyCanBeCancelled) {
  EXPECT_THROW(verify_cached(cache_, "org/name", "main", [](uint64_t, uint64_t) { return false; }), Error);
  uint64_t last = 0, all = 0;
  verify_cached(cache_, "org/name", "main", [&](uint64_t done, uint64_t total) {
    EXPECT_GE(done, last);
    last = done, all = total;
    return true;
  });
  EXPECT_EQ(all, 9u);
  EXPECT_EQ(last, 9u);
}

}  // namespace
}  // namespace bumblebee::hub
