// Where convert, quantize, fuse and adapter write: files that appear under their names only when all of them are
// complete.
#pragma once

#include <filesystem>
#include <set>
#include <span>
#include <string>

namespace bumblebee::cli {

/// require_apart() of base/output_paths.h, as a mistake of the command line: throws UsageError.
void check_apart(const std::filesystem::path& output, std::span<const std::filesystem::path> inputs);

/// Prepares a fresh directory beside `path`, or in it where it exists; finish() puts its files in place, otherwise it
/// is removed with everything in it. Replacing touches only what such a run wrote there and nobody changed since
/// (base/output_paths.h); other files stay where they are.
class OutputDirectory {
 public:
  enum class Existing : unsigned char { refuse, replace };

  /// `inputs` are what will be read. Throws UsageError when `path` is, holds or lies in one of them, or exists and may
  /// not be replaced; Error(bad_file) when nothing can be written there.
  OutputDirectory(std::filesystem::path path, Existing existing, std::span<const std::filesystem::path> inputs);
  ~OutputDirectory();
  OutputDirectory(const OutputDirectory&) = delete;
  OutputDirectory& operator=(const OutputDirectory&) = delete;

  /// Where to write.
  const std::filesystem::path& work() const { return work_; }
  /// Throws Error(bad_file), with everything of the user's as it was, when a file came in the way meanwhile; what was
  /// made stays in work() then.
  void finish();

 private:
  void check_existing(Existing existing) const;
  void replace(const std::set<std::string>& names);

  std::filesystem::path path_, work_;
  bool replaces_ = false, keeps_work_ = false;
};

}  // namespace bumblebee::cli
