// <tool_call>{"name": ..., "arguments": ...}</tool_call>, repeated, as Hermes and Qwen models write calls. The closing
// tag may be missing at the end of the text.
#include "serve/chat/call_object.h"
#include "serve/chat/call_parser.h"

namespace bumblebee::serve {
namespace {

class HermesParser final : public CallParser {
 public:
  explicit HermesParser(AnswerOutput& out) : CallParser(out, "<tool_call>") {}

 private:
  void begin() override {
    call_.emplace(out_, false);
    state_ = State::before;
    close_.reset();
  }

  Step take(char c) override {
    if (state_ != State::object && close_.held().empty() && is_json_blank(c)) return Step::more;
    if (state_ == State::after) {
      const MarkMatcher::Step step = close_.push(c);
      if (step == MarkMatcher::Step::found) out_.end_call();
      return step == MarkMatcher::Step::found  ? Step::over
             : step == MarkMatcher::Step::more ? Step::more
                                               : Step::malformed;
    }
    state_ = State::object;
    const CallObject::Step step = call_->push(c);
    if (step == CallObject::Step::whole) state_ = State::after;
    return step == CallObject::Step::malformed ? Step::malformed : Step::more;
  }

  bool whole_at_end() const override { return state_ == State::after; }

  enum class State : uint8_t { before, object, after };
  State state_ = State::before;
  std::optional<CallObject> call_;
  MarkMatcher close_{"</tool_call>"};
};

}  // namespace

std::unique_ptr<CallParser> make_hermes_parser(AnswerOutput& out) { return std::make_unique<HermesParser>(out); }

}  // namespace bumblebee::serve
