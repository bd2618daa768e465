// What lies in an adapter's directory before a training begins there.
#pragma once

#include <filesystem>
#include <vector>

namespace bumblebee::train {

/// Files and folders of `directory` that are an adapter's, whoever made it, or that could be taken for a new run's own:
/// the adapter and its config in either format, best/ and the numbered copies of both formats where they hold an
/// adapter. In the order of their names; checkpoints and metrics are not among them.
std::vector<std::filesystem::path> earlier_adapters(const std::filesystem::path& directory);

/// Moves them into a folder of their own beside them, and returns it; empty for none. Throws Error(bad_file).
std::filesystem::path set_aside(const std::vector<std::filesystem::path>& paths);

}  // namespace bumblebee::train
