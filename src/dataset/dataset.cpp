// Sums over a split, and its identity.
#include "dataset/dataset.h"

#include <bit>

#include "base/blake2b.h"
#include "base/error.h"
#include "base/hex.h"

namespace bumblebee::dataset {

const char* to_string(DataFormat format) {
  switch (format) {
    case DataFormat::none: return "none";
    case DataFormat::completions: return "completions";
    case DataFormat::chat: return "chat";
    case DataFormat::text: return "text";
  }
  return "?";
}

int64_t Dataset::tokens() const {
  int64_t sum = 0;
  for (const DataRow& row : rows) sum += int64_t(row.tokens.size());
  return sum;
}

int64_t Dataset::scored() const {
  int64_t sum = 0;
  for (const DataRow& row : rows) sum += row.scored();
  return sum;
}

std::string Dataset::hash() const {
  static_assert(std::endian::native == std::endian::little, "the hash is defined over little-endian words");
  Blake2b hash(32);
  for (const DataRow& row : rows) {
    // Lengths first, so that no two lists of rows are the same bytes.
    const std::array<int32_t, 2> head = {int32_t(row.tokens.size()), row.first_scored};
    hash.update(std::as_bytes(std::span(head)));
    hash.update(std::as_bytes(std::span(row.tokens)));
  }
  std::array<uint8_t, 32> digest;
  hash.finish(digest);
  return hex(digest);
}

std::string Dataset::where(int64_t index) const { return cat(name, ":", rows[size_t(index)].line); }

}  // namespace bumblebee::dataset
