// Comma-separated values as RFC 4180 has them: quotes around a field, doubled inside it, line breaks in quotes allowed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace bumblebee::dataset {

struct CsvRecord {
  int64_t line = 0;  // where it begins, from 1
  std::vector<std::string> fields;
};

/// All records; empty lines are none. Throws Error(bad_file) naming `where` and the line for a quote inside an unquoted
/// field, text after a closing quote, a quote that is never closed, and a record with another number of fields than the
/// first.
std::vector<CsvRecord> parse_csv(std::string_view text, std::string_view where);

}  // namespace bumblebee::dataset
