// The work of prepare_data(): which texts stay, which split they go to, and the files.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "bumblebee/prepare.h"

namespace bumblebee::dataset {

/// Tokens of a row (JSON of a chat).
using CountTokens = std::function<int64_t(const std::string& row)>;

/// As prepare_data(); `count` may be empty.
PrepareResult prepare(const std::vector<PostSource>& sources, const std::filesystem::path& directory,
                      const PrepareOptions& options, const CountTokens& count);

}  // namespace bumblebee::dataset
