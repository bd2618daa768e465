// What `info` prints of an adapter.
#pragma once

#include <filesystem>
#include <string>

#include "options/common.h"

namespace bumblebee::cli {

/// Whether a directory holds an adapter and no model, or a file is one of its snapshots.
bool is_adapter(const std::filesystem::path& place);

/// Reads the adapter and prints its format, rank, effective scale, targets and layers, and the size of every change.
/// `name` is what the user wrote. Throws what reading throws.
void print_adapter(const std::filesystem::path& place, const std::string& name, const CommonFlags& common);

}  // namespace bumblebee::cli
