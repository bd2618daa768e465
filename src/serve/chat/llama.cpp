// {"name": ..., "parameters": ...} at the answer's beginning or after <|python_tag|>, as Llama 3 models write calls; a
// semicolon or blanks between several.
#include "serve/chat/call_object.h"
#include "serve/chat/call_parser.h"

namespace bumblebee::serve {
namespace {

class LlamaParser final : public CallParser {
 public:
  explicit LlamaParser(AnswerOutput& out) : CallParser(out, "<|python_tag|>") {}

 private:
  void begin() override {
    plain_ = false;
    state_ = State::before;
    at_start_ = false;
  }

  bool begins_unmarked(char c) override {
    const bool begins = at_start_ && c == '{';
    at_start_ = at_start_ && is_json_blank(c);
    if (!begins) return false;
    plain_ = true;
    begin_object();
    return true;
  }

  Step take(char c) override {
    if (state_ != State::object) {
      if (is_json_blank(c)) return Step::more;
      if (state_ == State::between && c == ';') {
        state_ = State::before;
        return Step::more;
      }
      if (c != '{') return Step::malformed;
      begin_object();
      return Step::more;
    }
    const CallObject::Step step = call_->push(c);
    if (step != CallObject::Step::whole) return step == CallObject::Step::more ? Step::more : Step::malformed;
    out_.end_call();
    state_ = State::between;
    return Step::done;
  }

  void begin_object() {
    call_.emplace(out_, plain_);
    call_->push('{');
    state_ = State::object;
  }

  enum class State : uint8_t { before, object, between };
  State state_ = State::before;
  bool plain_ = false;
  bool at_start_ = true;  // nothing but blanks came
  std::optional<CallObject> call_;
};

}  // namespace

std::unique_ptr<CallParser> make_llama_parser(AnswerOutput& out) { return std::make_unique<LlamaParser>(out); }

}  // namespace bumblebee::serve
