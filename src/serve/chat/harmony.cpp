// <|channel|>commentary to=functions.NAME<|message|>{...}<|call|>: calls of gpt-oss, as text spells the channels of an
// answer. The closing mark may be missing at the end of the text: it ends the answer, too.
#include "serve/chat/call_object.h"
#include "serve/chat/call_parser.h"

namespace bumblebee::serve {
namespace {

constexpr size_t kLongestHeader = 256;

class HarmonyParser final : public CallParser {
 public:
  explicit HarmonyParser(AnswerOutput& out)
      : CallParser(out, out.as_it_comes("\xFF<|channel|>")), close_(out.as_it_comes("\xFF<|call|>")) {}

 private:
  void begin() override {
    state_ = State::header;
    header_.clear();
    close_.reset();
  }

  Step take(char c) override {
    switch (state_) {
      case State::header: return header(c);
      case State::before:
        if (is_json_blank(c)) return Step::more;
        state_ = State::arguments;
        [[fallthrough]];
      case State::arguments: return arguments(c);
      case State::after: break;
    }
    if (close_.held().empty() && is_json_blank(c)) return Step::more;
    switch (close_.push(c)) {
      case MarkMatcher::Step::more: return Step::more;
      case MarkMatcher::Step::no: return Step::malformed;
      case MarkMatcher::Step::found: break;
    }
    out_.end_call();
    return Step::over;
  }

  Step header(char c) {
    constexpr std::string_view kTo = " to=functions.";
    const std::string_view message = out_.as_it_comes("\xFF<|message|>");
    header_ += c;
    if (header_.size() > kLongestHeader) return Step::malformed;
    if (!header_.ends_with(message)) return Step::more;
    const std::string_view whole = std::string_view(header_).substr(0, header_.size() - message.size());
    const size_t to = whole.find(kTo);
    if (to == std::string_view::npos) return Step::malformed;
    const std::string_view rest = whole.substr(to + kTo.size());
    const std::string_view name = rest.substr(0, rest.find_first_of(" \n<\xFF"));
    if (!out_.knows(name)) return Step::malformed;
    arguments_.begin(name);
    state_ = State::before;
    return Step::more;
  }

  Step arguments(char c) {
    const ArgumentsValue::Step step = arguments_.push(c);
    if (step == ArgumentsValue::Step::malformed) return Step::malformed;
    if (step == ArgumentsValue::Step::ends) state_ = State::after;
    return Step::more;
  }

  bool whole_at_end() const override { return state_ == State::after; }

  enum class State : uint8_t { header, before, arguments, after };
  State state_ = State::header;
  std::string header_;
  NamedArguments arguments_{out_};
  MarkMatcher close_;
};

}  // namespace

std::unique_ptr<CallParser> make_harmony_parser(AnswerOutput& out) { return std::make_unique<HarmonyParser>(out); }

}  // namespace bumblebee::serve
