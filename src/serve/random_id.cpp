// From the kernel.
#include "serve/random_id.h"

#include <sys/random.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "base/hex.h"

namespace bumblebee::serve {

namespace {

/// Requests of up to 256 bytes come whole.
template <size_t kSize>
std::array<uint8_t, kSize> random_bytes() {
  std::array<uint8_t, kSize> bytes{};
  if (::getrandom(bytes.data(), bytes.size(), 0) != ssize_t(bytes.size()))
    throw std::system_error(errno, std::generic_category(), "getrandom");
  return bytes;
}

}  // namespace

uint64_t random_number() {
  const std::array<uint8_t, 8> bytes = random_bytes<8>();
  uint64_t number = 0;
  std::memcpy(&number, bytes.data(), sizeof number);
  return number;
}

std::string random_id() {
  const std::array<uint8_t, 12> bytes = random_bytes<12>();
  return hex(bytes);
}

}  // namespace bumblebee::serve
