// What a model says by heart: the longest run of words that a text of its making shares with the texts that it learned.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace bumblebee::train {

struct CopiedRun {
  std::string text;        // as the sample has it, from its first word to its last
  int words = 0;           // letter case, punctuation and white space aside
  int64_t characters = 0;  // of `text`, code points
  int of_words = 0;        // that the sample has
  int64_t source = -1;     // which of the texts; -1: none
};

/// The texts, in order, against the samples: one pass over each, however many samples there are.
class CopiedRuns {
 public:
  explicit CopiedRuns(const std::vector<std::string>& samples);
  ~CopiedRuns();

  /// Texts count from 0.
  void add(std::string_view text);
  /// One for each sample, of all texts so far; the first of equals.
  std::vector<CopiedRun> runs() const;

 private:
  struct Sample;
  std::vector<Sample> samples_;
  int64_t texts_ = 0;
};

}  // namespace bumblebee::train
