// The texts behind the token goldens: the same bytes as tools/goldens/text_tokens.py makes, so that only hashes are
// committed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace bumblebee::testing {

class Lcg {
 public:
  explicit Lcg(uint64_t seed) : state_(seed) {}
  uint64_t below(uint64_t n) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return (state_ >> 33) % n;
  }

 private:
  uint64_t state_;
};

/// FNV-1a over the ids as 32-bit little-endian words, with a mark after each text.
class IdHash {
 public:
  void text(const std::vector<int32_t>& ids) {
    for (const int32_t id : ids) word(static_cast<uint32_t>(id));
    word(0xFFFFFFFFu);
  }
  std::string hex() const {
    std::string out(16, '0');
    for (int i = 0; i < 16; ++i) out[static_cast<size_t>(15 - i)] = "0123456789abcdef"[(value_ >> (4 * i)) & 15];
    return out;
  }

 private:
  void word(uint32_t word) {
    for (const int shift : {0, 8, 16, 24}) value_ = (value_ ^ ((word >> shift) & 0xFF)) * 0x100000001B3u;
  }
  uint64_t value_ = 0xCBF29CE484222325u;
};

inline std::string utf8(uint32_t code) {
  std::string out;
  const auto put = [&](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6), put(0x80 | (code & 63));
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12), put(0x80 | (code >> 6 & 63)), put(0x80 | (code & 63));
  } else {
    put(0xF0 | code >> 18), put(0x80 | (code >> 12 & 63)), put(0x80 | (code >> 6 & 63)), put(0x80 | (code & 63));
  }
  return out;
}

std::string mixed_line(Lcg& rng);

inline std::string byte_string(Lcg& rng) {
  std::string out(rng.below(64), '\0');
  for (char& byte : out) byte = static_cast<char>(rng.below(256));
  return out;
}

}  // namespace bumblebee::testing
