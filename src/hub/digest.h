// The hashes that the Hub names files by, computed while bytes pass: SHA-256 for large files, git's SHA-1 of a blob for
// small ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>

namespace bumblebee::hub {

class Digest {
 public:
  /// `expected`: 64 hexadecimal digits (SHA-256 of the content) or 40 (SHA-1 of "blob <size>\0" and the content).
  Digest(const std::string& expected, uint64_t size);
  ~Digest();
  Digest(Digest&&) noexcept;
  Digest& operator=(Digest&&) noexcept;

  void update(std::span<const std::byte> bytes);
  /// Lower-case hexadecimal digits. Call once, last.
  std::string finish();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

/// The hash of a whole file, of the kind that `expected` is. `go_on` hears of every block that was hashed; returning
/// false throws Error(cancelled). Throws Error(bad_file) when the file cannot be read.
std::string hash_file(const std::filesystem::path& path, const std::string& expected,
                      const std::function<bool(uint64_t bytes)>& go_on = {});

}  // namespace bumblebee::hub
