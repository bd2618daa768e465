// "SRC[:WEIGHT]" and "SRC:scale=NUMBER", as every verb takes an adapter.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "options/common.h"

namespace bumblebee::cli {

struct AdapterSource {
  std::string source;          // a directory or file, org/name[@revision] or an address
  double weight = 1;           // of what was trained: 1 is the adapter as it is
  std::optional<float> scale;  // in place of the adapter's own

  /// Splits at the last ':' unless the whole is a path that exists. Throws UsageError for an empty source and for what
  /// is neither a finite number nor scale= with one.
  static AdapterSource parse(const std::string& text);
  /// Its directory, or its file when the source names one; downloads them when they are the Hub's.
  std::filesystem::path place(const CommonFlags& common) const;
  /// "0.5 of what was trained", "scale 20", or "" for the adapter as it is.
  std::string strength() const;
};

}  // namespace bumblebee::cli
