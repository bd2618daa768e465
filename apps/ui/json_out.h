// JSON on standard output: one value per line of output, keys in the order they are documented.
#pragma once

#include <nlohmann/json.hpp>

namespace bumblebee::cli {

using OutJson = nlohmann::ordered_json;

/// Prints `value` on one line. Bytes that are not UTF-8 (a token may hold half a character) are shown as U+FFFD. Throws
/// when standard output cannot be written.
void print_json(const OutJson& value);

}  // namespace bumblebee::cli
