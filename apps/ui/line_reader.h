// Lines from a person or a pipe. With libedit: cursor keys, history kept between sessions. Without it, or when the
// input is not a terminal: plain lines.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

namespace bumblebee::cli {

enum class ReadStatus : unsigned char { line, end, interrupted };

struct ReadLine {
  ReadStatus status = ReadStatus::end;
  std::string text;  // without the newline; with those that were pasted. Interrupted: what is dropped
};

class LineReader {
 public:
  /// `history`: where lines are kept between sessions, readable by the user alone; empty: not kept.
  explicit LineReader(std::filesystem::path history);
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  /// Whether a person sits at the other end.
  bool interactive() const { return interactive_; }
  ReadLine read(const std::string& prompt);
  void remember(const std::string& entry);

 private:
  struct Editor;
  std::unique_ptr<Editor> editor_;
  bool interactive_;
};

/// $XDG_STATE_HOME/bumblebee/chat_history, else below ~/.local/state; empty when there is no home.
std::filesystem::path default_history_path();

}  // namespace bumblebee::cli
