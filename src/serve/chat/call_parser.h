// What the machines of all forms share: text until a mark, then bytes that may be calls, which are kept until it
// is known, and given back as content where they are none.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "serve/chat/answer_output.h"

namespace bumblebee::serve {

/// A tool's name or a key that a model writes without quotes is not longer.
inline constexpr size_t kLongestWritten = 128;

/// Looks for a mark in text that comes byte by byte. No mark holds its own first byte a second time, so that after a
/// mismatch only the new byte can begin one.
class MarkMatcher {
 public:
  /// `other`: another mark that is one as well.
  explicit MarkMatcher(std::string_view mark, std::string_view other = {}) : mark_(mark), other_(other) {}
  enum class Step : uint8_t { no, more, found };
  /// no: what was held() is no mark, nor does `c` go on with it; it was not taken.
  Step push(char c) {
    if (mark_[length_] != c) {
      if (other_.size() <= length_ || other_[length_] != c || !other_.starts_with(held())) return Step::no;
      std::swap(mark_, other_);
    }
    if (++length_ < mark_.size()) return Step::more;
    length_ = 0;
    return Step::found;
  }
  std::string_view held() const { return mark_.substr(0, length_); }
  /// The mark that was found.
  std::string_view mark() const { return mark_; }
  void reset() { length_ = 0; }

 private:
  std::string_view mark_, other_;
  size_t length_ = 0;
};

class CallParser {
 public:
  CallParser(AnswerOutput& out, std::string_view mark, std::string_view other_mark = {})
      : out_(out), mark_(mark, other_mark) {}
  virtual ~CallParser() = default;
  void push(char c);
  void finish();

 protected:
  enum class Step : uint8_t {
    more,       // kept
    done,       // what is kept is dealt with, others may follow
    over,       // the same, and what follows is text
    malformed,  // what is kept is text; the byte was not taken
  };
  /// The mark was read.
  virtual void begin() = 0;
  /// A byte after it. Calls that are whole are ended in the output.
  virtual Step take(char c) = 0;
  /// Text outside of calls that is no mark. True: calls begin with this byte, without one.
  virtual bool begins_unmarked(char) { return false; }
  /// The text has ended: the call that is kept is whole as it is.
  virtual bool whole_at_end() const { return false; }

  AnswerOutput& out_;

 private:
  void text(char c);
  void unmarked(char c);
  void give_back();

  MarkMatcher mark_;
  bool inside_ = false;
  std::string kept_;
};

std::unique_ptr<CallParser> make_hermes_parser(AnswerOutput& out);
std::unique_ptr<CallParser> make_llama_parser(AnswerOutput& out);
std::unique_ptr<CallParser> make_mistral_parser(AnswerOutput& out);
std::unique_ptr<CallParser> make_harmony_parser(AnswerOutput& out);
std::unique_ptr<CallParser> make_gemma4_parser(AnswerOutput& out);
std::unique_ptr<CallParser> make_qwen3_coder_parser(AnswerOutput& out);
std::unique_ptr<CallParser> make_seed_oss_parser(AnswerOutput& out);
std::unique_ptr<CallParser> make_glm_parser(AnswerOutput& out);
std::unique_ptr<CallParser> make_deepseek_parser(AnswerOutput& out);
std::unique_ptr<CallParser> make_granite_parser(AnswerOutput& out);
std::unique_ptr<CallParser> make_phi4_parser(AnswerOutput& out);

}  // namespace bumblebee::serve
