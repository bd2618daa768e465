// BLAKE2b (RFC 7693) without a key: identities of contents that somebody else may have chosen.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace bumblebee {

class Blake2b {
 public:
  /// `size`: bytes of the digest, 1 to 64.
  explicit Blake2b(size_t size);
  void update(std::span<const std::byte> bytes);
  /// Writes the digest; the object is spent then.
  void finish(std::span<uint8_t> digest);

 private:
  void compress(const std::byte* block, bool last);

  size_t size_, filled_ = 0;
  uint64_t total_ = 0;  // 2^64 bytes are enough
  std::array<uint64_t, 8> state_;
  std::array<std::byte, 128> buffer_;
};

}  // namespace bumblebee
