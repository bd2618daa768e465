// Checks of flag values, with messages that say what was expected. CLI11's own ranges let NaN through.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "options/parser.h"

namespace bumblebee::cli {

Check integer_between(int64_t low, int64_t high);
/// Integers with commas between them, such as 1,4,16.
Check integers_between(int64_t low, int64_t high);
/// The integers of lists that passed it.
std::vector<int> integers_of(const std::vector<std::string>& lists);
Check number_between(double low, double high);
/// A number of bytes, plain or with K, M, G or T (powers of 1024, with or without iB or B): 512M, 1.5GiB.
Check byte_size();
/// What passed it; 0 for an empty text.
uint64_t bytes_of(const std::string& text);
Check one_of(std::vector<std::string> words);

/// "1,2,3", "1 2 3" or "[1, 2, 3]". Throws UsageError naming `flag` for anything else and for ids outside int32.
std::vector<int32_t> parse_token_list(std::string_view text, std::string_view flag);

/// A whole file, or standard input for "-". Throws Error(bad_file).
std::string read_input(const std::string& path);

}  // namespace bumblebee::cli
