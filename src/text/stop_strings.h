// Finds the first of several stop strings in text that arrives in pieces, and holds back what may still become one.
// Works on bytes: a stop string is UTF-8, so what is let through always ends between characters when the text does.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bumblebee::txt {

/// An Aho-Corasick automaton over the stop strings; linear in the text whatever the strings are. "First" is the one
/// that is complete first (the longest, when several end at the same byte), so the result does not depend on how the
/// text was cut into pieces.
class StopStrings {
 public:
  explicit StopStrings(const std::vector<std::string>& stops);

  /// Takes more text; returns what is certain to come before any stop string. After a match everything is dropped. What
  /// is not `shown`, a control token's text, is only looked for.
  std::string push(std::string_view piece, bool shown = true);
  /// The end of the text: what was held back, unless a stop string was found.
  std::string flush();
  bool matched() const { return matched_; }
  /// The stop string that was found; empty before.
  const std::string& found() const { return found_; }

 private:
  struct Node {
    std::vector<std::pair<uint8_t, int>> next;
    int fail = 0;
    int depth = 0;
    int match = 0;  // length of the longest stop string that ends here, 0 for none
  };
  int child(int node, uint8_t byte) const;
  /// The first `size` bytes that are held, as far as they are shown; they are held no longer.
  std::string release(size_t size);

  std::vector<Node> nodes_;
  int state_ = 0;
  bool matched_ = false;
  std::string found_;
  std::string held_;         // never longer than the longest stop string
  std::vector<bool> shown_;  // of each byte of it
};

}  // namespace bumblebee::txt
