// <|tool_call|>[{"name": ..., "arguments": {...}}, ...] as Granite 3 writes calls, and Phi-4-mini with <|/tool_call|>
// after it, or as functools[...] at the beginning of the answer. Each call is whole at its own brace; calls may stand
// without the list's brackets. Granite 3.1 writes <tool_call>, too, though its template says the other.
#include <utility>

#include "serve/chat/call_object.h"
#include "serve/chat/call_parser.h"

namespace bumblebee::serve {
namespace {

constexpr std::string_view kFunctools = "functools", kGraniteTag = "<tool_call>", kCallList = "<|tool_call|>",
                           kCallListEnd = "<|/tool_call|>";

class CallListParser final : public CallParser {
 public:
  CallListParser(AnswerOutput& out, bool by_word)
      : CallParser(out, kCallList, by_word ? "" : kGraniteTag), by_word_(by_word), at_start_(by_word) {}

 private:
  void begin() override {
    state_ = State::before;
    at_start_ = false;
  }

  bool begins_unmarked(char c) override {
    const bool begins = at_start_ && c == kFunctools.front();
    at_start_ = at_start_ && is_json_blank(c);
    if (!begins) return false;
    word_ = c;
    state_ = State::word;
    return true;
  }

  Step take(char c) override {
    if (state_ == State::object) return object(c);
    if (state_ == State::word) return word(c);
    const bool may_end = state_ == State::after_list || (state_ == State::after_item && !brackets_);
    if (by_word_ && may_end && (!word_.empty() || c == kCallListEnd.front())) return mark(c);
    if (is_json_blank(c)) return Step::more;
    switch (std::exchange(state_, State::item)) {
      case State::before: brackets_ = c == '['; return brackets_ ? Step::more : begin_object(c);
      case State::item: return begin_object(c);
      case State::after_item:
        if (c == ',') return Step::more;
        if (c != ']' || !brackets_) return Step::malformed;
        break;
      default: return Step::malformed;
    }
    if (!by_word_) return Step::over;
    state_ = State::after_list;
    word_.clear();
    return Step::done;
  }

  /// `functools`, which the list follows.
  Step word(char c) {
    if (word_ == kFunctools) {
      state_ = State::item;
      brackets_ = true;
      return c == '[' ? Step::more : Step::malformed;
    }
    word_ += c;
    return kFunctools.starts_with(word_) ? Step::more : Step::malformed;
  }

  /// The mark that closes the list, or the one that opens another, where the model left the first out.
  Step mark(char c) {
    word_ += c;
    if (word_ == kCallListEnd) return Step::over;
    if (word_ == kCallList) {
      begin();
      return Step::more;
    }
    return kCallListEnd.starts_with(word_) || kCallList.starts_with(word_) ? Step::more : Step::malformed;
  }

  Step begin_object(char c) {
    call_.emplace(out_, false);
    state_ = State::object;
    return object(c);
  }

  Step object(char c) {
    const CallObject::Step step = call_->push(c);
    if (step != CallObject::Step::whole) return step == CallObject::Step::more ? Step::more : Step::malformed;
    out_.end_call();
    state_ = State::after_item;
    word_.clear();
    return Step::done;
  }

  enum class State : uint8_t { word, before, item, object, after_item, after_list };
  State state_ = State::before;
  const bool by_word_;
  bool at_start_;          // nothing but blanks came
  bool brackets_ = false;  // the calls stand in [...]
  std::string word_;       // of what is spelled: `functools`, or a mark after calls
  std::optional<CallObject> call_;
};

}  // namespace

std::unique_ptr<CallParser> make_granite_parser(AnswerOutput& out) {
  return std::make_unique<CallListParser>(out, false);
}
std::unique_ptr<CallParser> make_phi4_parser(AnswerOutput& out) { return std::make_unique<CallListParser>(out, true); }

}  // namespace bumblebee::serve
