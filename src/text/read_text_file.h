// Whole small files as strings, with a size limit: the sidecars of a tokenizer. Weights go through base/mapped_file.h.
#pragma once

#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

#include "base/error.h"

namespace bumblebee::txt {

/// nullopt when there is no such file. Throws Error(bad_file) when it is not a readable regular file or is too large.
inline std::optional<std::string> read_text_file(const std::filesystem::path& path, size_t max_bytes) {
  std::error_code failed;
  if (!std::filesystem::exists(path, failed)) return std::nullopt;
  // A device or a pipe may never end.
  if (!std::filesystem::is_regular_file(path, failed)) {
    throw Error(ErrorCode::bad_file, path.string(), "expected a regular file");
  }
  const auto size = std::filesystem::file_size(path, failed);
  if (failed || size > max_bytes) {
    throw Error(ErrorCode::bad_file, path.string(), cat("size: expected at most ", max_bytes, " bytes, got ", size));
  }
  std::ifstream file(path, std::ios::binary);
  std::string text(size, '\0');
  file.read(text.data(), static_cast<std::streamsize>(size));
  if (!file)
    throw Error(ErrorCode::bad_file, path.string(), cat("expected ", size, " readable bytes, got ", file.gcount()));
  return text;
}

}  // namespace bumblebee::txt
