// [TOOL_CALLS][{"name": ..., "arguments": ...}, ...] and [TOOL_CALLS]name[ARGS]{...}, with or without [CALL_ID]id
// before the arguments, as Mistral models write calls. In the array each call is whole at its own brace: the array may
// end late or never.
#include "serve/chat/call_object.h"
#include "serve/chat/call_parser.h"

namespace bumblebee::serve {
namespace {

/// Longer than a tool's name or an id may be.
constexpr size_t kLongestWord = 128;

bool is_word(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '-' || c == '.';
}

class MistralParser final : public CallParser {
 public:
  explicit MistralParser(AnswerOutput& out) : CallParser(out, "[TOOL_CALLS]") {}

 private:
  void begin() override {
    state_ = State::before;
    name_.clear();
    id_.clear();
  }

  Step take(char c) override {
    switch (state_) {
      case State::object: return object(c);
      case State::arguments: return arguments(c);
      case State::name:
      case State::id: return word(c);
      case State::mark: return mark(c);
      default: break;
    }
    if (is_json_blank(c)) return Step::more;
    switch (state_) {
      case State::before: state_ = c == '[' ? State::first_item : State::name; return c == '[' ? Step::more : word(c);
      case State::first_item:
      case State::item:
        call_.emplace(out_, false);
        state_ = State::object;
        return object(c);
      case State::after_item:
        state_ = State::item;
        return c == ',' ? Step::more : c == ']' ? Step::over : Step::malformed;
      default:
        state_ = State::arguments;
        arguments_.begin(name_, id_);
        return arguments(c);
    }
  }

  Step object(char c) {
    const CallObject::Step step = call_->push(c);
    if (step != CallObject::Step::whole) return step == CallObject::Step::more ? Step::more : Step::malformed;
    out_.end_call();
    state_ = State::after_item;
    return Step::done;
  }

  /// Of the name or the id.
  Step word(char c) {
    std::string& word = state_ == State::name ? name_ : id_;
    if (is_word(c)) {
      word += c;
      return word.size() <= kLongestWord ? Step::more : Step::malformed;
    }
    if (word.empty() || !out_.knows(name_)) return Step::malformed;
    if (c == '[') {
      mark_ = c;
      state_ = State::mark;
      return Step::more;
    }
    if (state_ == State::id || (c != '{' && !is_json_blank(c))) return Step::malformed;
    state_ = State::before_arguments;
    return take(c);
  }

  Step mark(char c) {
    constexpr std::string_view kArgumentsMark = "[ARGS]", kIdMark = "[CALL_ID]";
    mark_ += c;
    if (mark_ == kArgumentsMark)
      state_ = State::before_arguments;
    else if (mark_ == kIdMark && id_.empty())
      state_ = State::id;
    return kArgumentsMark.starts_with(mark_) || (kIdMark.starts_with(mark_) && id_.empty()) ? Step::more
                                                                                            : Step::malformed;
  }

  Step arguments(char c) {
    const ArgumentsValue::Step step = arguments_.push(c);
    if (step == ArgumentsValue::Step::malformed) return Step::malformed;
    if (step != ArgumentsValue::Step::ends) return Step::more;
    out_.end_call();
    return Step::over;
  }

  enum class State : uint8_t {
    before,
    first_item,
    item,
    object,
    after_item,
    name,
    id,
    mark,  // [ARGS], or [CALL_ID] after the name
    before_arguments,
    arguments,
  };
  State state_ = State::before;
  std::optional<CallObject> call_;
  std::string name_, id_, mark_;
  NamedArguments arguments_{out_};
};

}  // namespace

std::unique_ptr<CallParser> make_mistral_parser(AnswerOutput& out) { return std::make_unique<MistralParser>(out); }

}  // namespace bumblebee::serve
