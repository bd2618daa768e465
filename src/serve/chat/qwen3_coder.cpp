// <tool_call><function=NAME><parameter=KEY>value</parameter>...</function></tool_call>, repeated, as Qwen3-Coder and
// Qwen3.5 write calls; Seed-OSS the same in <seed:tool_call>. Values are bare: the tool's schema says which of them are
// texts. A call streams parameter by parameter. The last closing tag may be missing at the end of the text.
#include "serve/chat/bare_value.h"
#include "serve/chat/call_parser.h"
#include "serve/chat/json_scanner.h"
#include "serve/chat/json_text.h"

namespace bumblebee::serve {
namespace {

constexpr std::string_view kFunction = "<function=", kParameter = "<parameter=", kFunctionEnd = "</function>";

class Qwen3CoderParser final : public CallParser {
 public:
  /// `lines`: a line end on each side of a value is the form's.
  Qwen3CoderParser(AnswerOutput& out, std::string_view open, std::string_view close, bool lines)
      : CallParser(out, open), lines_(lines), close_(close) {}

 private:
  void begin() override {
    state_ = State::before;
    word_.clear();
    value_end_.reset();
    close_.reset();
    parameters_ = 0;
  }

  Step take(char c) override {
    switch (state_) {
      case State::name: return name(c);
      case State::key: return key(c);
      case State::value: return value(c);
      case State::before:
      case State::inside: return word_.empty() && is_json_blank(c) ? Step::more : tag(c);
      case State::after: break;
    }
    if (close_.held().empty() && is_json_blank(c)) return Step::more;
    const MarkMatcher::Step step = close_.push(c);
    if (step == MarkMatcher::Step::found) out_.end_call();
    return step == MarkMatcher::Step::found  ? Step::over
           : step == MarkMatcher::Step::more ? Step::more
                                             : Step::malformed;
  }

  Step tag(char c) {
    word_ += c;
    const bool before = state_ == State::before;
    if (before && word_ == kFunction) return next(State::name);
    if (!before && word_ == kParameter) return next(State::key);
    if (!before && word_ == kFunctionEnd) {
      out_.arguments(parameters_ == 0 ? "{}" : "}");
      return next(State::after);
    }
    const bool goes_on =
        before ? kFunction.starts_with(word_) : kParameter.starts_with(word_) || kFunctionEnd.starts_with(word_);
    return goes_on ? Step::more : Step::malformed;
  }

  Step name(char c) {
    if (c != '>') return longer(c);
    name_ = word_;
    if (!out_.knows(name_)) return Step::malformed;
    out_.begin_call(name_);
    return next(State::inside);
  }

  Step key(char c) {
    if (c != '>') return longer(c);
    key_ = word_;
    return next(State::value);
  }

  Step longer(char c) {
    word_ += c;
    return word_.size() <= kLongestWritten ? Step::more : Step::malformed;
  }

  Step value(char c) {
    switch (value_end_.push(c)) {
      case MarkMatcher::Step::more: return Step::more;
      case MarkMatcher::Step::found: break;
      case MarkMatcher::Step::no:
        const bool held = !value_end_.held().empty();
        word_ += value_end_.held();
        value_end_.reset();
        if (held) return value(c);
        word_ += c;
        return Step::more;
    }
    std::string_view text = word_;
    if (lines_ && text.starts_with('\n')) text.remove_prefix(1);
    if (lines_ && text.ends_with('\n')) text.remove_suffix(1);
    out_.arguments(parameters_++ == 0 ? "{" : ", ");
    out_.arguments(json_text(key_) + ": ");
    out_.arguments(out_.is_text(name_, key_, text) ? json_text(text) : bare_value(text));
    return next(State::inside);
  }

  bool whole_at_end() const override { return state_ == State::after; }

  enum class State : uint8_t { before, name, inside, key, value, after };
  Step next(State state) {
    state_ = state;
    word_.clear();
    return Step::more;
  }

  const bool lines_;
  State state_ = State::before;
  std::string word_;  // of a tag, a name or a value: what is read
  std::string name_, key_;
  size_t parameters_ = 0;  // that were given
  MarkMatcher value_end_{"</parameter>"}, close_;
};

}  // namespace

std::unique_ptr<CallParser> make_qwen3_coder_parser(AnswerOutput& out) {
  return std::make_unique<Qwen3CoderParser>(out, "<tool_call>", "</tool_call>", true);
}
std::unique_ptr<CallParser> make_seed_oss_parser(AnswerOutput& out) {
  return std::make_unique<Qwen3CoderParser>(out, "<seed:tool_call>", "</seed:tool_call>", false);
}

}  // namespace bumblebee::serve
