// A blob that is not whole yet: "<etag>.<suffix>.incomplete" beside the blobs, huggingface_hub's name for it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>

namespace bumblebee::hub {

/// Bytes of the largest partial file of each blob, by its hash.
std::map<std::string, uint64_t> list_partials(const std::filesystem::path& blobs);

/// Owned by one process: the name is its own, so that even where locks do not work no other appends to it. What was
/// written stays when this object goes, unless nothing was.
class PartialFile {
 public:
  /// `adopt`: takes over what an interrupted run left, by renaming it, and removes older leftovers.
  enum class ResumeMode : unsigned char { adopt, ignore };
  PartialFile(const std::filesystem::path& blobs, const std::string& etag, ResumeMode mode);
  ~PartialFile();
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;

  uint64_t size() const { return size_; }
  const std::filesystem::path& path() const { return path_; }
  /// Throws Error(bad_file), also for a full disk.
  void append(std::span<const std::byte> bytes);
  /// Begins again.
  void clear();
  /// Reads from the start, in blocks. Throws Error(bad_file).
  void read(const std::function<void(std::span<const std::byte>)>& each) const;
  /// Syncs and gives the file its final name. Throws Error(bad_file).
  void commit(const std::filesystem::path& name);

 private:
  std::filesystem::path path_;
  int fd_ = -1;
  uint64_t size_ = 0, flushed_ = 0;
};

}  // namespace bumblebee::hub
