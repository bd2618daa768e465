// A place below a root that nothing leads out of: for paths that a request names.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace bumblebee::serve {

/// Closes what it holds.
class Descriptor {
 public:
  explicit Descriptor(int file) : file_(file) {}
  ~Descriptor();
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return file_; }
  /// Somebody else closes it from now on.
  int release();

 private:
  int file_;
};

/// A directory that is held open while it is read: what its name leads to meanwhile is nobody's matter.
class ConfinedDirectory {
 public:
  /// The directory `relative` below `root`, where the kernel finds it without leaving `root`, also not by symbolic
  /// links, and where the same is true of all that lies directly in it. Throws Error(bad_request) for anything else.
  /// What it says of paths is what the request said. Files in it are looked at once, and read by their names later: who
  /// may write into it while it is read can still lead them elsewhere.
  ConfinedDirectory(const std::filesystem::path& root, std::string_view relative);

  /// Its path in /proc, for as long as this lives.
  std::filesystem::path path() const;
  /// `text` with the request's path in place of that one: for messages.
  std::string said(std::string text) const;

 private:
  const std::string name_;
  const Descriptor directory_;
};

}  // namespace bumblebee::serve
