// A split of the data, tokenized: rows of ids and where learning begins in each. How rows are read is data_reader.h's,
// in which order they are learned is batch_stream.h's.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace bumblebee::dataset {

struct DataRow {
  std::vector<int32_t> tokens;  // at least 2 of rows that are kept, at most max_seq_length
  int32_t first_scored = 1;     // tokens[first_scored..] are predicted and scored; those before are only context
  int64_t line = 0;             // of the file, from 1 (index from 1 of rows in memory)
  bool began_twice = false;     // with the text's own token and the one put before it, which was left out
  bool empty = false;           // the text, or the turn that alone is learned

  int64_t scored() const { return int64_t(tokens.size()) - first_scored; }
};

enum class DataFormat : uint8_t { none, completions, chat, text };
const char* to_string(DataFormat format);

/// A row as text: of a text row the whole, else the last message.
struct LearnedText {
  std::vector<std::pair<std::string, std::string>> before;  // roles and contents of the turns before it
  std::string text;
};

struct Dataset {
  std::string name;  // of the file, for messages; rows in memory: "train", "valid", "test"
  DataFormat format = DataFormat::none;
  std::vector<DataRow> rows;

  int64_t truncated = 0;  // rows that were longer than max_seq_length
  int64_t unscored = 0;   // rows left out, because the mask and the limit leave nothing to score
  int64_t began_twice = 0;
  int64_t blank = 0;     // rows left out, because they say nothing where they are learned
  int64_t repeated = 0;  // rows in which an object has a key twice: the last value counts
  int longest = 0;       // tokens, before truncation
  bool empty() const { return rows.empty(); }
  int64_t size() const { return int64_t(rows.size()); }
  int64_t tokens() const;
  int64_t scored() const;
  /// BLAKE2b-256 of all ids and masks, in hex: the identity of the data for a resumed run.
  std::string hash() const;
  /// "train.jsonl:12", for errors about row `index`.
  std::string where(int64_t index) const;
};

struct Splits {
  Dataset train, valid, test;
};

}  // namespace bumblebee::dataset
