// A place below a root that nothing leads out of: for paths that a request names.
#pragma once

#include <filesystem>
#include <string_view>

namespace bumblebee::serve {

/// The real place of the directory `relative` below `root`, where the kernel finds it without leaving `root`,
/// also not by symbolic links, and where the same is true of all that lies directly in it. Throws
/// Error(bad_request) for anything else. What it says of paths is what the request said.
std::filesystem::path confined_path(const std::filesystem::path& root, std::string_view relative);

}  // namespace bumblebee::serve
