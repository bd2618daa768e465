// Environment variables of flags: their names, their values, and what a flag without a value takes.
#pragma once

#include <string>
#include <string_view>

namespace bumblebee::cli {

inline constexpr std::string_view kVariablePrefix = "BUMBLEBEE_";

/// "max-tokens" as variables spell it: "MAX_TOKENS".
std::string capitals(std::string name);
/// Empty when it is unset, which is the same.
std::string variable(const std::string& name);
bool is_yes(std::string word);  // 1, true, yes or on
bool is_no(std::string word);   // 0, false, no or off

}  // namespace bumblebee::cli
