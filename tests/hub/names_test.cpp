// Names from outside, good and hostile.
#include "hub/names.h"

#include <gtest/gtest.h>

namespace bumblebee::hub {
namespace {

TEST(Names, RepositoryIds) {
  for (const char* id : {"org/name", "a/b", "lmstudio-community/Qwen3-8B-MLX-4bit", "Org_1/name.v1_x-y", "o.r.g/0"})
    EXPECT_TRUE(is_repository_id(id)) << id;
  for (const char* id : {"",
                         "name",
                         "/",
                         "org/",
                         "/name",
                         "a/b/c",
                         "../x",
                         "org/..",
                         "org/.hidden",
                         "org/-x",
                         "org/x-",
                         "org/x.",
                         "org/a--b",
                         "org/a..b",
                         "org/na me",
                         "org/name\n",
                         "org/name.git",
                         "org\\name",
                         "org/n\xc3\xa4me",
                         "org/%2e"})
    EXPECT_FALSE(is_repository_id(id)) << id;
  EXPECT_TRUE(is_repository_id("org/" + std::string(96, 'a')));
  EXPECT_FALSE(is_repository_id("org/" + std::string(97, 'a')));
  EXPECT_FALSE(is_repository_id(std::string_view("org/na\0me", 9)));
}

TEST(Names, Revisions) {
  for (const char* revision :
       {"main", "v1.0", "feature/x", "refs/pr/12", "0123456789abcdef0123456789abcdef01234567", "a b"})
    EXPECT_TRUE(is_revision(revision)) << revision;
  for (const char* revision : {"", ".", "..", "a/../b", "/etc", "a//b", "a/", "a\\b", "a\nb", "\x7f"})
    EXPECT_FALSE(is_revision(revision)) << revision;
  EXPECT_FALSE(is_revision(std::string(513, 'a')));
}

TEST(Names, PathsThatMayBeFiles) {
  for (const char* path :
       {"config.json", "a/b/c.json", ".gitattributes", "...", "a..b", "with space#?%&+.json", "uml\xC3\xA4ut.json",
        "\xE6\xA8\xA1\xE5\x9E\x8B.json", "\xF0\x9F\x90\x9D.json", "-x", "~", "$HOME"})
    EXPECT_EQ(path_defect(path), "") << path;
  EXPECT_EQ(path_defect(std::string(255, 'a')), "");
}

TEST(Names, PathsThatMayNot) {
  for (const char* path : {"",
                           ".",
                           "..",
                           "/",
                           "/a",
                           "a/",
                           "a//b",
                           "a/./b",
                           "a/../b",
                           "../a",
                           "a/..",
                           "a\\b",
                           "C:/x",
                           "c:x",
                           "a/C:b",
                           "a\nb",
                           "a\tb",
                           "\x01",
                           "a\x7f",
                           "\xff",
                           "\xc3",
                           "\xc0\xaf",
                           "\xe0\x80\xaf",
                           "\xed\xa0\x80",
                           "\xf4\x90\x80\x80",
                           "\xc3("})
    EXPECT_NE(path_defect(path), "") << path;
  EXPECT_NE(path_defect(std::string_view("a\0b", 3)), "");
  EXPECT_NE(path_defect(std::string(256, 'a')), "");
  std::string deep = "a";
  while (deep.size() <= 1024) deep += "/a";
  EXPECT_NE(path_defect(deep), "");
}

TEST(Names, Hashes) {
  EXPECT_TRUE(is_sha1(std::string(40, 'a')));
  EXPECT_TRUE(is_sha256(std::string(64, '9')));
  for (const std::string& text : {std::string(), std::string(39, 'a'), std::string(41, 'a'), std::string(40, 'A'),
                                  std::string(40, 'g'), std::string(39, 'a') + "\n", std::string(40, '/')})
    EXPECT_FALSE(is_sha1(text)) << text;
  EXPECT_FALSE(is_sha256(std::string(40, 'a')));
  EXPECT_FALSE(is_sha256(std::string(64, 'F')));
}

TEST(Names, Case) { EXPECT_EQ(fold_case("Config.JSON \xC3\x84"), "config.json \xC3\x84"); }

}  // namespace
}  // namespace bumblebee::hub
