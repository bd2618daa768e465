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

  /// What the bytes are: text; a control token's spelling, which is only looked at; what stands between such tokens,
  /// which is no text either, and no stop string by itself.
  enum class Of : uint8_t { text, control, header };

  /// Takes more text; returns what is certain to come before any stop string. After a match everything is dropped.
  std::string push(std::string_view piece, Of of = Of::text);
  /// Text that nobody wrote and no stop string looks at: it only keeps its place.
  std::string pass(std::string_view piece);
  /// The end of the text, or of a part of it that no stop string reaches beyond: what was held back, unless a stop
  /// string was found.
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
  std::string held_;                                    // never longer than the longest stop string
  std::vector<Of> of_;                                  // each byte of it
  std::vector<std::pair<size_t, std::string>> passed_;  // before which byte of it
};

}  // namespace bumblebee::txt
