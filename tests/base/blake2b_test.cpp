// Against the RFC's example and digests of Python's hashlib.
#include "base/blake2b.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace bumblebee {
namespace {

std::string digest(const std::vector<uint8_t>& bytes, size_t size, size_t piece) {
  Blake2b hash(size);
  const auto all = std::as_bytes(std::span(bytes));
  for (size_t at = 0; at < bytes.size(); at += piece) hash.update(all.subspan(at, std::min(piece, bytes.size() - at)));
  std::vector<uint8_t> out(size);
  hash.finish(out);
  std::string text;
  for (const uint8_t b : out) {
    text += "0123456789abcdef"[b >> 4];
    text += "0123456789abcdef"[b & 15];
  }
  return text;
}

std::vector<uint8_t> counting(int count) {
  std::vector<uint8_t> bytes;
  for (int i = 0; i < count; ++i) bytes.push_back(uint8_t(i % 251));
  return bytes;
}

TEST(Blake2b, ExampleOfTheRfc) {
  EXPECT_EQ(digest({'a', 'b', 'c'}, 64, 1),
            "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1"
            "7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923");
}

TEST(Blake2b, AnyPiecesGiveTheSameDigest) {
  EXPECT_EQ(digest({}, 16, 1), "cae66941d9efbd404e4d88758ea67670");
  for (const size_t piece : {1u, 7u, 127u, 128u, 129u, 1000u}) {
    EXPECT_EQ(digest(counting(1000), 16, piece), "bca120dfd89cd95d82898473a5b01c90");
    EXPECT_EQ(digest(counting(128), 16, piece), "a74787004ef589e31149183900d0294a");
  }
}

}  // namespace
}  // namespace bumblebee
