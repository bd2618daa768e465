// A read-only view of a whole file. The bytes come from the page cache; nothing is copied.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>

namespace bumblebee {

/// A memory-mapped file, immutable and shared, in huge pages where the system has the file so. A file that another
/// process truncates while mapped raises SIGBUS on access: checkpoints are expected to stay as they are while a model
/// uses them.
class MappedFile {
 public:
  /// Maps `path`; throws Error(bad_file) when it cannot be opened, is a directory or cannot be mapped. An empty file
  /// has no bytes.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }

 private:
  MappedFile(std::filesystem::path path, const std::byte* data, size_t size)
      : path_(std::move(path)), data_(data), size_(size) {}
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

/// Tells the system that these bytes of a mapped file are needed no longer: whole pages leave this process, and come
/// back from the page cache or disk when they are touched. A hint: nothing fails.
void pages_done(std::span<const std::byte> bytes);
/// Tells the system that of these bytes of a mapped file a few are read here and there: in small pages, so that no 2 MB
/// come from the disk for one row. A hint as well.
void pages_here_and_there(std::span<const std::byte> bytes);

/// The whole file as text, for configs. Throws Error(bad_file) when it is absent or larger than `limit_bytes`.
std::string read_text_file(const std::filesystem::path& path, size_t limit_bytes);
/// The same; nothing when there is no such file.
std::optional<std::string> read_text_file_if_any(const std::filesystem::path& path, size_t limit_bytes);

}  // namespace bumblebee
