// "SRC[:NUMBER]" as the commands on adapter files take it.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "lora/adapter.h"
#include "options/common.h"

namespace bumblebee::cli {

struct AdapterSource {
  std::string source;  // a directory, or org/name[@revision]
  std::optional<double> number;

  /// Splits at the last ':' when a number follows. Throws UsageError for an empty source or a number that is not
  /// finite.
  static AdapterSource parse(const std::string& text);
  /// Where its files are; downloads them when they are the Hub's.
  std::filesystem::path directory(const CommonFlags& common) const;
  lora::Adapter read(const CommonFlags& common, const std::optional<float>& scale = std::nullopt) const;
};

}  // namespace bumblebee::cli
