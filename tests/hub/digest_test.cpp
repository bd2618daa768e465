// The two hashes against values that git and sha256sum print.
#include "hub/digest.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "base/error.h"

namespace bumblebee::hub {
namespace {

const std::string kLikeSha1(40, '0'), kLikeSha256(64, '0');  // etags by their length

std::string digest(const std::string& expected, const std::string& text, size_t step) {
  Digest digest(expected, text.size());
  for (size_t at = 0; at < text.size(); at += step)
    digest.update(std::as_bytes(std::span(text).subspan(at, std::min(step, text.size() - at))));
  return digest.finish();
}

TEST(Digest, KnownValues) {
  for (size_t step : {1u, 3u, 1000u}) {
    EXPECT_EQ(digest(kLikeSha1, "", step), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
    EXPECT_EQ(digest(kLikeSha1, "hello\n", step), "ce013625030ba8dba906f756967f9e9ca394464a");
    EXPECT_EQ(digest(kLikeSha256, "", step), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    EXPECT_EQ(digest(kLikeSha256, "abc", step), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  }
  EXPECT_EQ(digest(kLikeSha256, std::string(1'000'000, 'a'), 4096),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Digest, Files) {
  const std::filesystem::path path =
      std::filesystem::path(::testing::TempDir()) / ("bb_digest_" + std::to_string(::getpid()));
  std::ofstream(path) << "hello\n";
  EXPECT_EQ(hash_file(path, kLikeSha1), "ce013625030ba8dba906f756967f9e9ca394464a");
  EXPECT_EQ(hash_file(path, kLikeSha256), "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
  EXPECT_THROW(hash_file(path, kLikeSha1, [](uint64_t) { return false; }), Error);
  std::filesystem::remove(path);
  EXPECT_THROW(hash_file(path, kLikeSha1), Error);
  EXPECT_THROW(hash_file(::testing::TempDir(), kLikeSha1), Error);
}

}  // namespace
}  // namespace bumblebee::hub
