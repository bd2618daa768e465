// The golden adapters of tools/goldens/adapters.py: each with the base it was made for.
#pragma once

#include <nlohmann/json.hpp>

#include <string>
#include <vector>

#include "base/json.h"
#include "base/mapped_file.h"
#include "tests/support/golden_file.h"

namespace bumblebee::testing_support {

inline Json all_cases() {
  return parse_json(read_text_file(golden_path("adapters/cases.json"), 1 << 20), "cases.json");
}

inline std::vector<std::string> names_of_cases() {
  std::vector<std::string> names;
  const Json cases = all_cases();
  for (const auto& [name, base] : cases.items()) names.push_back(name);
  return names;
}

}  // namespace bumblebee::testing_support
