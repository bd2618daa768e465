// Files that appear whole or not at all: written beside their final name, synced, then renamed. A crash leaves the old
// file.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>

namespace bumblebee {

/// A file being written under a temporary name in the directory of `path`. Without commit() nothing remains.
class AtomicFile {
 public:
  /// Throws Error(bad_file) when the directory cannot be written.
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Appends. Throws Error(bad_file) on a full disk or any other failure of the system.
  void write(std::span<const std::byte> bytes);

  /// Syncs the data, gives the file its name (replacing an older one) and syncs the directory. Call once, last.
  void commit();

  const std::filesystem::path& path() const { return path_; }

 private:
  [[noreturn]] void fail(std::string_view action) const;

  std::filesystem::path path_, temporary_;
  int fd_ = -1;
};

/// Writes a whole text file atomically.
void write_text_file(const std::filesystem::path& path, std::string_view text);

}  // namespace bumblebee
