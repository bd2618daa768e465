// Names, addresses of pages and folders of a cache, as people write them for a repository.
#include "hub/source.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "base/error.h"

namespace fs = std::filesystem;

namespace bumblebee::hub {
namespace {

constexpr const char* kMirror = "https://mirror.example:8443";
const std::string kSnapshot = "0123456789abcdef0123456789abcdef01234567";

std::string shown(const std::optional<Source>& source) {
  return source ? cat(source->id, "|", source->revision, "|", source->subdir) : std::string("none");
}

TEST(Source, Names) {
  for (const auto& [text, expected] :
       std::initializer_list<std::pair<const char*, const char*>>{{"org/name", "org/name||"},
                                                                  {"org/name/", "org/name||"},
                                                                  {"org/name/a/b@v1", "org/name|v1|a/b"},
                                                                  {"org/name@refs/pr/1", "org/name|refs/pr/1|"},
                                                                  {"hf://org/name@v1", "org/name|v1|"},
                                                                  {"name", "none"},
                                                                  {"org/name@", "none"},
                                                                  {"./org/name", "none"},
                                                                  {"/org/name", "none"},
                                                                  {"org/na me", "none"}})
    EXPECT_EQ(shown(parse_name(text)), expected) << text;
}

TEST(Source, Addresses) {
  for (const auto& [text, expected] : std::initializer_list<std::pair<const char*, const char*>>{
           {"https://huggingface.co/org/name", "org/name||"},
           {"http://huggingface.co/org/name/", "org/name||"},
           {"huggingface.co/org/name", "org/name||"},
           {"https://www.huggingface.co/org/name", "org/name||"},
           {"https://hf.co/org/name?library=mlx#files", "org/name||"},
           {"https://mirror.example:8443/org/name", "org/name||"},
           {"https://huggingface.co/models/org/name", "org/name||"},
           {"https://huggingface.co/org/name.git", "org/name||"},
           {"https://huggingface.co/org/name@v1", "org/name|v1|"},
           {"https://huggingface.co/org/name/tree/main", "org/name|main|"},
           {"https://huggingface.co/org/name/tree/v1/a/b", "org/name|v1|a/b"},
           {"https://huggingface.co/org/name/tree/refs%2Fpr%2F1", "org/name|refs/pr/1|"},
           {"https://huggingface.co/org/name/blob/main/config.json", "org/name|main|"},
           {"https://huggingface.co/org/name/resolve/v1/style/adapters.safetensors?download=true", "org/name|v1|style"},
           {"https://huggingface.co/org/name/commit/0123456789abcdef0123456789abcdef01234567",
            "org/name|0123456789abcdef0123456789abcdef01234567|"},
           {"https://huggingface.co/org/name/discussions/3", "org/name||"}}) {
    EXPECT_TRUE(is_address(text)) << text;
    EXPECT_EQ(shown(parse_address(text, kMirror)), expected) << text;
  }
  for (const char* text :
       {"https://example.com/org/name", "https://huggingface.co.example.com/org/name", "https://huggingface.co/org",
        "https://huggingface.co/", "https://huggingface.co/datasets/org/name", "https://huggingface.co/spaces/org/name",
        "https://huggingface.co/a%20b/name"})
    EXPECT_THROW(parse_address(text, kMirror), Error) << text;
  for (const char* text : {"org/name", "huggingface/name", "./https://x", "/https://x"})
    EXPECT_FALSE(is_address(text)) << text;
}

TEST(Source, AMirrorBelowAPath) {
  for (const char* mirror : {"https://mirror.corp/hf", "https://Mirror.corp:443/hf/"}) {
    for (const char* text :
         {"https://mirror.corp/hf/org/name/tree/v1/a", "HTTPS://MIRROR.corp:443/hf/org/name/tree/v1/a",
          "https://HuggingFace.co:443/org/name/tree/v1/a"}) {
      EXPECT_TRUE(is_address(text)) << text;
      EXPECT_EQ(shown(parse_address(text, mirror)), "org/name|v1|a") << text;
    }
    for (const char* text :
         {"https://mirror.corp/org/name", "https://mirror.corp/hfx/org/name", "https://mirror.corp:8443/hf/org/name"})
      EXPECT_THROW(parse_address(text, mirror), Error) << text;
  }
}

/// It does not mean the whole repository in silence.
TEST(Source, TheAddressOfOneFile) {
  for (const char* file : {"config.json", "model.safetensors", "model.safetensors.index.json", "adapter_config.json",
                           "adapters.safetensors", "adapter_model.safetensors"})
    EXPECT_EQ(shown(parse_address(cat("https://hf.co/org/name/blob/v1/a/", file), kMirror)), "org/name|v1|a") << file;
  for (const char* view : {"blob", "resolve", "raw"}) {
    try {
      parse_address(cat("https://hf.co/org/name/", view, "/v1/a/q4.gguf?download=true"), kMirror);
      ADD_FAILURE() << view;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("bumblebee pull org/name@v1 --include 'a/q4.gguf'"), std::string::npos)
          << error.what();
    }
  }
}

TEST(Source, FoldersOfACache) {
  const fs::path root = fs::path(::testing::TempDir()) / ("bb_hub_source_" + std::to_string(::getpid()));
  const fs::path folder = root / "models--org--name";
  const auto found = [&](const fs::path& path) { return shown(parse_cache_folder(path)); };
  fs::create_directories(folder / "snapshots" / kSnapshot);
  EXPECT_EQ(found(folder), "org/name|" + kSnapshot + "|") << "the only one";
  EXPECT_EQ(found(folder / "snapshots/"), "org/name|" + kSnapshot + "|");
  EXPECT_EQ(found(folder / "snapshots" / kSnapshot / "a/b"), "org/name|" + kSnapshot + "|a/b");
  EXPECT_EQ(parse_cache_folder(folder)->cache, fs::absolute(root).lexically_normal());
  const std::string other(40, 'a');
  fs::create_directories(folder / "snapshots" / other);
  EXPECT_THROW(found(folder), Error) << "two, and nothing says which";
  fs::create_directories(folder / "refs");
  std::ofstream(folder / "refs/main") << other;
  EXPECT_EQ(found(folder), "org/name|" + other + "|");
  EXPECT_EQ(found(folder / "blobs"), "none");
  EXPECT_EQ(found(folder / "snapshots/v1"), "none") << "no commit, so somebody's own";
  EXPECT_EQ(found(root), "none");
  fs::create_directories(root / "models--org--mine");
  EXPECT_EQ(found(root / "models--org--mine"), "none") << "a directory of that name, and no cache";
  fs::create_directories(root / "models--gpt2/snapshots");
  EXPECT_EQ(found(root / "models--gpt2"), "none");
  fs::remove_all(root);
}

}  // namespace
}  // namespace bumblebee::hub
