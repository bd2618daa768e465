// Where convert and quantize write: a directory that appears under its name only when it is complete.
#pragma once

#include <filesystem>

namespace bumblebee::cli {

/// Prepares a fresh directory beside `path`; finish() puts it in place, otherwise it is removed with everything in it.
class OutputDirectory {
 public:
  enum class Existing : unsigned char { refuse, replace };

  /// Throws UsageError when `path` exists and may not be replaced, Error(bad_file) when nothing can be written there.
  OutputDirectory(std::filesystem::path path, Existing existing);
  ~OutputDirectory();
  OutputDirectory(const OutputDirectory&) = delete;
  OutputDirectory& operator=(const OutputDirectory&) = delete;

  /// Where to write.
  const std::filesystem::path& work() const { return work_; }
  void finish();

 private:
  std::filesystem::path path_, work_;
  bool finished_ = false;
};

}  // namespace bumblebee::cli
