// Texts that somebody wrote become rows to train on: conversations in which the assistant's turn is the text.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "bumblebee/tokenizer.h"

namespace bumblebee {

/// How texts lie in a file. automatic: by the name (.json, .jsonl, .csv, .car) and by what archives begin with, else
/// paragraphs where a text file has empty lines, and lines where it has none.
enum class PostFormat : uint8_t {
  automatic,
  lines,       // a text on each line
  paragraphs,  // texts with empty lines between them, or with lines that are exactly `separator`
  json,        // an array of strings, or of objects with the key `column`
  jsonl,       // a string or an object on each line
  csv,         // RFC 4180, with names in the first line; the column `column`
  twitter,     // tweets.js, note-tweet.js and their like of Twitter's archive
  bluesky,     // an account's repository (.car), or posts as the API's JSON has them
};
const char* to_string(PostFormat format);

struct PrepareOptions {
  PostFormat format = PostFormat::automatic;
  std::string column = {};                               // of CSV, key of JSON; empty: "text", or the only column
  std::string separator = {};                            // of paragraphs; empty: empty lines
  std::vector<std::string> prompts = {"Write a post."};  // the user's turn: one of them, drawn for each row
  std::string system_prompt = {};                        // empty: no such turn
  double split_ratio = 0.9;                              // of the texts go to train.jsonl, (0, 1]
  double test_ratio = 0;                                 // go to test.jsonl; the rest to valid.jsonl
  int64_t min_length = 1;                                // characters (code points); shorter texts are left out
  int64_t max_length = 0;                                // longer ones too; 0: no limit
  bool replies = true;                                   // of archives: answers to others stay; own threads always
  uint64_t seed = 0;                                     // of the shuffle before the split, of draws
  bool overwrite = false;  // replaces the files of an earlier run, which are an error otherwise
};

/// A file, and how often each of its texts is learned: 3 puts it into train.jsonl three times, 0.5 once or not at all,
/// by a draw for each text. Validation and test have every text once.
struct PostSource {
  std::filesystem::path path;
  double weight = 1;
  PostSource(std::filesystem::path p, double w = 1)
      : path(std::move(p)), weight(w) {}  // NOLINT: {path} should read well
};

/// Of the texts that were kept. All 0 when nothing was measured.
struct LengthStatistics {
  int64_t count = 0, total = 0;
  int64_t shortest = 0, median = 0, percentile95 = 0, longest = 0;  // nearest rank
  double mean = 0;
};

struct PreparedSource {
  std::string path;
  PostFormat format = PostFormat::lines;  // as it was read
  int64_t texts = 0;
  double weight = 1;
};

struct PrepareResult {
  std::vector<PreparedSource> sources;
  int64_t texts = 0;                                    // found
  int64_t reposts = 0, replies = 0;                     // left out, of archives
  int64_t too_short = 0, too_long = 0, duplicates = 0;  // left out
  int64_t train = 0, valid = 0, test = 0;               // rows written
  int64_t train_texts = 0;              // of train; more or fewer than its rows where sources have weights
  std::vector<std::string> notes = {};  // for people: what was guessed
  LengthStatistics characters;
  LengthStatistics tokens;  // of whole rows, template included; with a tokenizer that has a chat template
};

/// Reads `sources`, leaves out what is too short, too long or there already (white space aside; the larger weight
/// counts), shuffles, and writes
/// train.jsonl, valid.jsonl and test.jsonl (the last two only where they get rows) into `directory`. With two texts or
/// more and a split_ratio below 1, training and validation get at least one each. No text is in two files. Throws
/// Error: `bad_file` for sources that cannot be read (naming file and line), that hold no valid content, and for files
/// in the way; `bad_request` for options out of range.
PrepareResult prepare_data(const std::vector<PostSource>& sources, const std::filesystem::path& directory,
                           const PrepareOptions& options = {}, const Tokenizer* tokenizer = nullptr);

}  // namespace bumblebee
