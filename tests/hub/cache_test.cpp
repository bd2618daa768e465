// One repository's folder: refs, lists, blobs and links, good and hostile.
#include "hub/cache.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "base/error.h"
#include "tests/hub/etags.h"

namespace fs = std::filesystem;

namespace bumblebee::hub {
namespace {

const std::string kCommit = "0123456789abcdef0123456789abcdef01234567";

class RepositoryCacheTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::path(::testing::TempDir()) / ("bb_hub_cache_" + std::to_string(::getpid()));
    fs::create_directories(root_);
  }
  void TearDown() override { fs::remove_all(root_); }
  static void write(const fs::path& path, const std::string& text) {
    fs::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  static std::string read(const fs::path& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
  }
  fs::path root_;
  RepositoryCache cache_{fs::path(::testing::TempDir()) / ("bb_hub_cache_" + std::to_string(::getpid())), "org/name"};
};

TEST_F(RepositoryCacheTest, Places) {
  EXPECT_EQ(folder_name("org/name.v1"), "models--org--name.v1");
  EXPECT_EQ(cache_.folder(), root_ / "models--org--name");
  EXPECT_EQ(cache_.blob(kSha1), root_ / "models--org--name/blobs" / kSha1);
  EXPECT_EQ(cache_.lock(kSha1), root_ / ".locks/models--org--name" / (kSha1 + ".lock"));
  EXPECT_EQ(cache_.snapshot(kCommit), root_ / "models--org--name/snapshots" / kCommit);
}

TEST_F(RepositoryCacheTest, Creates) {
  cache_.create();
  EXPECT_TRUE(read(root_ / "CACHEDIR.TAG").starts_with("Signature: 8a477f597d28d172789f06886806bc55\n"));
  write(root_ / "CACHEDIR.TAG", "mine");
  cache_.create();
  EXPECT_EQ(read(root_ / "CACHEDIR.TAG"), "mine");
}

TEST_F(RepositoryCacheTest, Refs) {
  EXPECT_EQ(cache_.resolve("main"), "");
  EXPECT_EQ(cache_.resolve(kCommit), kCommit) << "a commit stands for itself";
  cache_.create();
  cache_.write_ref("main", kCommit);
  cache_.write_ref("refs/pr/1", kCommit);
  cache_.write_ref(kCommit, kCommit);
  EXPECT_EQ(read(cache_.folder() / "refs/main"), kCommit);
  EXPECT_EQ(cache_.resolve("refs/pr/1"), kCommit);
  EXPECT_FALSE(fs::exists(cache_.folder() / "refs" / kCommit));
  const std::string next(40, 'a');
  cache_.write_ref("main", next);
  EXPECT_EQ(cache_.resolve("main"), next);
  write(cache_.folder() / "refs/newline", kCommit + "\n");
  EXPECT_EQ(cache_.resolve("newline"), kCommit) << "other tools write one";
  for (const char* text : {"", "main", "../../../../etc/passwd"}) {
    write(cache_.folder() / "refs/broken", text);
    EXPECT_THROW(cache_.resolve("broken"), Error) << text;
  }
  for (const auto& entry : fs::directory_iterator(cache_.folder() / "refs"))
    EXPECT_EQ(entry.path().filename().string().find("tmp"), std::string::npos) << entry.path();
}

TEST_F(RepositoryCacheTest, Lists) {
  EXPECT_FALSE(cache_.read_tree(kCommit));
  cache_.create();
  Tree tree;
  tree["a/b.json"] = TreeFile{5, kSha1, "", 0, ""};
  tree["model.safetensors"] = TreeFile{7, kSha1, kSha256, 7, ""};
  cache_.write_tree(kCommit, tree);
  EXPECT_EQ(read(cache_.folder() / "trees" / (kCommit + ".json")), tree_to_text(tree));
  const std::optional<Tree> again = cache_.read_tree(kCommit);
  ASSERT_TRUE(again);
  EXPECT_EQ(tree_to_text(*again), tree_to_text(tree));
  write(cache_.folder() / "trees" / (kCommit + ".json"), "{");
  EXPECT_FALSE(cache_.read_tree(kCommit));
}

TEST_F(RepositoryCacheTest, Links) {
  cache_.create();
  write(cache_.blob(kSha1), "12345");
  const TreeFile file{5, kSha1, "", 0, ""};
  EXPECT_TRUE(cache_.has_blob(file));
  EXPECT_FALSE(cache_.has_file(kCommit, "a/b/c.json", file));
  cache_.link(kCommit, "a/b/c.json", kSha1, true, RepositoryCache::Blob::own);
  cache_.link(kCommit, "d.json", kSha1, true, RepositoryCache::Blob::shared);
  cache_.link(kCommit, "d.json", kSha1, true, RepositoryCache::Blob::shared);  // again
  EXPECT_EQ(fs::read_symlink(cache_.snapshot(kCommit) / "a/b/c.json"), "../../../../blobs/" + kSha1);
  EXPECT_EQ(fs::read_symlink(cache_.snapshot(kCommit) / "d.json"), "../../blobs/" + kSha1);
  EXPECT_TRUE(cache_.has_file(kCommit, "a/b/c.json", file));
  fs::resize_file(cache_.blob(kSha1), 4);
  EXPECT_FALSE(cache_.has_blob(file)) << "another size";
  EXPECT_FALSE(cache_.has_file(kCommit, "d.json", file));
  fs::remove(cache_.blob(kSha1));
  EXPECT_FALSE(cache_.has_file(kCommit, "d.json", file)) << "a link to nothing";
}

TEST_F(RepositoryCacheTest, WithoutLinks) {
  cache_.create();
  write(cache_.blob(kSha1), "12345");
  cache_.link(kCommit, "copy.json", kSha1, false, RepositoryCache::Blob::shared);
  EXPECT_TRUE(fs::exists(cache_.blob(kSha1))) << "others may use it";
  cache_.link(kCommit, "a/moved.json", kSha1, false, RepositoryCache::Blob::own);
  EXPECT_FALSE(fs::exists(cache_.blob(kSha1)));
  for (const char* path : {"copy.json", "a/moved.json"}) {
    EXPECT_FALSE(fs::is_symlink(cache_.snapshot(kCommit) / path));
    EXPECT_EQ(read(cache_.snapshot(kCommit) / path), "12345");
  }
}

TEST_F(RepositoryCacheTest, MissingFiles) {
  EXPECT_FALSE(missing_files(cache_, kCommit, {}).empty()) << "no snapshot at all";
  cache_.create();
  Tree tree;
  tree["config.json"] = TreeFile{2, kSha1, "", 0, ""};
  tree["model.safetensors"] = TreeFile{7, kSha1, kSha256, 7, ""};
  tree["image.png"] = TreeFile{7, std::string(40, 'b'), "", 0, ""};
  cache_.write_tree(kCommit, tree);
  write(cache_.snapshot(kCommit) / "config.json", "{}");
  EXPECT_EQ(missing_files(cache_, kCommit, {}), std::vector<std::string>{"model.safetensors"});
  write(cache_.snapshot(kCommit) / "model.safetensors", "1234567");
  EXPECT_TRUE(missing_files(cache_, kCommit, {}).empty()) << "the picture is not needed";
}

TEST_F(RepositoryCacheTest, MissingFilesWithoutAList) {
  cache_.create();
  fs::create_directories(cache_.snapshot(kCommit));
  EXPECT_FALSE(missing_files(cache_, kCommit, {}).empty());
  write(cache_.snapshot(kCommit) / "config.json", "{}");
  write(cache_.snapshot(kCommit) / "model.safetensors.index.json",
        R"({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})");
  write(cache_.snapshot(kCommit) / "tokenizer.json", "{}");
  write(cache_.snapshot(kCommit) / "model-1.safetensors", "x");
  EXPECT_EQ(missing_files(cache_, kCommit, {}), std::vector<std::string>{"model-2.safetensors"});
}

/// Every tool that fetches single files leaves such snapshots: a tokenizer, a config that somebody looked at.
TEST_F(RepositoryCacheTest, WeightsMissingWithoutAList) {
  using Names = std::vector<std::string>;
  const fs::path snapshot = cache_.snapshot(kCommit);
  const auto missing = [&](Doubt doubt = Doubt::counts, const Selection& selection = {}) {
    return missing_files(cache_, kCommit, selection, doubt);
  };
  const Names weights = {"the weights (*.safetensors)"};
  cache_.create();
  write(snapshot / "config.json", "{}");
  write(snapshot / "tokenizer.json", "{}");
  EXPECT_EQ(missing(), weights);
  EXPECT_EQ(missing(Doubt::counts, {.subdir = "", .include = {}, .exclude = {}, .weights = false}), Names());
  write(snapshot / "model-00002-of-00003.safetensors", "x");
  EXPECT_EQ(missing(), (Names{"model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"}));
  // An index of another packaging than what is there says nothing of it.
  write(snapshot / "model.safetensors.index.json", R"({"weight_map": {"a": "model-a.safetensors"}})");
  fs::remove(snapshot / "model-00002-of-00003.safetensors");
  EXPECT_EQ(missing(), Names{"model-a.safetensors"});
  write(snapshot / "model.safetensors", "x");
  EXPECT_EQ(missing(), Names());
  fs::remove(snapshot / "tokenizer.json");
  EXPECT_EQ(missing(), Names{"tokenizer.json"}) << "perhaps";
  EXPECT_EQ(missing(Doubt::passes), Names()) << "the Hub cannot be asked, and a test of speed needs none";
  write(cache_.folder() / ".no_exist" / kCommit / "tokenizer.json", "");
  EXPECT_EQ(missing(), Names()) << "huggingface_hub noted that there is none";
  // An adapter has no tokenizer and no model's config.
  fs::remove_all(snapshot);
  write(snapshot / "adapter_config.json", "{}");
  EXPECT_EQ(missing(), weights);
  write(snapshot / "adapters.safetensors", "x");
  EXPECT_EQ(missing(), Names());
  fs::remove(snapshot / "adapter_config.json");
  EXPECT_EQ(missing(), Names{"adapter_config.json"});
  // Weights of a kind that loading refuses by name: the Hub has no better ones.
  fs::remove_all(snapshot);
  for (const char* name : {"config.json", "tokenizer.json", "model.gguf"}) write(snapshot / name, "x");
  EXPECT_EQ(missing(), Names());
}

TEST_F(RepositoryCacheTest, Absences) {
  cache_.create();
  cache_.write_absent(kCommit, "a/b.json");
  EXPECT_TRUE(fs::is_regular_file(cache_.folder() / ".no_exist" / kCommit / "a/b.json"));
  EXPECT_EQ(fs::file_size(cache_.folder() / ".no_exist" / kCommit / "a/b.json"), 0u);
}

TEST_F(RepositoryCacheTest, PlacesThatCannotBeWritten) {
  write(root_ / "file", "x");
  EXPECT_THROW(RepositoryCache(root_ / "file", "org/name").create(), Error);
  EXPECT_THROW(RepositoryCache("/proc/nowhere", "org/name").create(), Error);
}

}  // namespace
}  // namespace bumblebee::hub
