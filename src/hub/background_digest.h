// The hash of a blob while it arrives, on a thread of its own when the blob is large: hashing then costs the transfer
// no time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "hub/digest.h"

namespace bumblebee::hub {

class BackgroundDigest {
 public:
  /// As Digest.
  BackgroundDigest(const std::string& expected, uint64_t size);
  ~BackgroundDigest();
  BackgroundDigest(const BackgroundDigest&) = delete;
  BackgroundDigest& operator=(const BackgroundDigest&) = delete;

  /// Takes a copy; waits when a few blocks are not hashed yet, so that memory stays bounded.
  void update(std::span<const std::byte> bytes);
  /// Lower-case hexadecimal digits. Call once, last.
  std::string finish();

 private:
  struct Worker;
  std::optional<Digest> direct_;  // for small blobs
  std::unique_ptr<Worker> worker_;
};

}  // namespace bumblebee::hub
