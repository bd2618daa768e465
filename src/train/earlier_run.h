// What lies in an adapter's directory before a training begins there.
#pragma once

#include <filesystem>
#include <vector>

namespace bumblebee::train {

/// Files and folders of `directory` that are an adapter's, whoever made it, or that could be taken for a new run's own:
/// the adapter and its config in either format, best/, the numbered copies of both formats. In the order of their
/// names; checkpoints and metrics are not among them.
std::vector<std::filesystem::path> earlier_adapters(const std::filesystem::path& directory);

/// Removes them, each renamed first: what is half deleted must not look like an adapter.
void remove_earlier(const std::vector<std::filesystem::path>& paths);

}  // namespace bumblebee::train
