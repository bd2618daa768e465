// <｜tool▁calls▁begin｜>, calls, <｜tool▁calls▁end｜>, as DeepSeek's models write them. A call lies between
// <｜tool▁call▁begin｜> and <｜tool▁call▁end｜> and is NAME<｜tool▁sep｜>{...} (V3.1) or function<｜tool▁sep｜>NAME, a
// line end, and the arguments as a block of Markdown (V3, R1). Each call is whole at its own end; the marks after the
// last may be missing at the end of the text.
#include "base/ascii.h"
#include "serve/chat/call_object.h"
#include "serve/chat/call_parser.h"
#include "serve/chat/json_scanner.h"

namespace bumblebee::serve {
namespace {

constexpr std::string_view kDeepseekCalls = "<｜tool▁calls▁begin｜>", kDeepseekCallsEnd = "<｜tool▁calls▁end｜>";
constexpr std::string_view kDeepseekCall = "<｜tool▁call▁begin｜>", kDeepseekCallEnd = "<｜tool▁call▁end｜>";
constexpr std::string_view kDeepseekSeparator = "<｜tool▁sep｜>", kDeepseekBlock = "```json", kDeepseekBlockEnd = "```",
                           kDeepseekKind = "function";

class DeepseekParser final : public CallParser {
 public:
  explicit DeepseekParser(AnswerOutput& out) : CallParser(out, kDeepseekCalls) {}

 private:
  enum class State : uint8_t { between, first, after_first, name, block, before, arguments, block_end, end };

  void begin() override {
    next(State::between);
    called_ = false;
  }

  Step take(char c) override {
    switch (state_) {
      case State::between: return between(c);
      case State::first: return first(c);
      case State::after_first: return after_first(c);
      case State::name: return name(c);
      case State::block: return literal(c, kDeepseekBlock, State::before);
      case State::before:
        if (is_json_blank(c)) return Step::more;
        state_ = State::arguments;
        [[fallthrough]];
      case State::arguments: return arguments(c);
      case State::block_end: return literal(c, kDeepseekBlockEnd, State::end);
      case State::end: break;
    }
    if (word_.empty() && is_json_blank(c)) return Step::more;
    word_ += c;
    if (!kDeepseekCallEnd.starts_with(word_)) return Step::malformed;
    if (word_ != kDeepseekCallEnd) return Step::more;
    out_.end_call();
    called_ = true;
    next(State::between);
    return Step::done;
  }

  /// Another call, or the end of all.
  Step between(char c) {
    if (word_.empty() && is_json_blank(c)) return Step::more;
    word_ += c;
    if (word_ == kDeepseekCallsEnd) return called_ ? Step::over : Step::malformed;
    if (word_ == kDeepseekCall) return next(State::first);
    return kDeepseekCallsEnd.starts_with(word_) || kDeepseekCall.starts_with(word_) ? Step::more : Step::malformed;
  }

  /// The word before the separator.
  Step first(char c) {
    word_ += c;
    if (word_.size() > kLongestWritten + kDeepseekSeparator.size()) return Step::malformed;
    if (!word_.ends_with(kDeepseekSeparator)) return Step::more;
    name_ = trimmed(std::string_view(word_).substr(0, word_.size() - kDeepseekSeparator.size()), kJsonBlanks);
    return next(State::after_first);
  }

  Step after_first(char c) {
    if (is_json_blank(c)) return Step::more;
    blocks_ = c != '{';
    if (blocks_) return name_ == kDeepseekKind ? (next(State::name), name(c)) : Step::malformed;
    return begin_call() ? (next(State::before), take(c)) : Step::malformed;
  }

  Step name(char c) {
    if (c == '\n') {
      name_ = trimmed(word_, kJsonBlanks);
      return begin_call() ? next(State::block) : Step::malformed;
    }
    word_ += c;
    return word_.size() <= kLongestWritten ? Step::more : Step::malformed;
  }

  bool begin_call() {
    arguments_.begin(name_);
    return out_.knows(name_);
  }

  Step literal(char c, std::string_view text, State after) {
    if (word_.empty() && is_json_blank(c)) return Step::more;
    word_ += c;
    if (word_ == text) return next(after);
    return text.starts_with(word_) ? Step::more : Step::malformed;
  }

  Step arguments(char c) {
    const ArgumentsValue::Step step = arguments_.push(c);
    if (step == ArgumentsValue::Step::malformed) return Step::malformed;
    return step == ArgumentsValue::Step::ends ? next(blocks_ ? State::block_end : State::end) : Step::more;
  }

  bool whole_at_end() const override { return state_ == State::block_end || state_ == State::end; }

  Step next(State state) {
    state_ = state;
    word_.clear();
    return Step::more;
  }

  State state_ = State::between;
  std::string word_, name_;
  NamedArguments arguments_{out_};
  bool blocks_ = false;  // the arguments are a block of Markdown
  bool called_ = false;  // a call was whole since the mark
};

}  // namespace

std::unique_ptr<CallParser> make_deepseek_parser(AnswerOutput& out) { return std::make_unique<DeepseekParser>(out); }

}  // namespace bumblebee::serve
