// <tool_call>NAME<arg_key>KEY</arg_key><arg_value>value</arg_value>...</tool_call>, repeated, with or without line ends
// between the parts, as GLM-4.5 and later write calls. Values are bare: the tool's schema says which of them are texts.
// A call streams parameter by parameter, and is none without its closing tag: only that says that nothing is missing.
#include <set>

#include "base/ascii.h"
#include "serve/chat/bare_value.h"
#include "serve/chat/call_parser.h"
#include "serve/chat/json_scanner.h"
#include "serve/chat/json_text.h"

namespace bumblebee::serve {
namespace {

constexpr std::string_view kGlmKey = "<arg_key>", kGlmValue = "<arg_value>", kGlmEnd = "</tool_call>";

class GlmParser final : public CallParser {
 public:
  explicit GlmParser(AnswerOutput& out) : CallParser(out, "<tool_call>") {}

 private:
  void begin() override {
    next(State::name);
    end_of_key_.reset();
    end_of_value_.reset();
    keys_.clear();
  }

  Step take(char c) override {
    switch (state_) {
      case State::name: return name(c);
      case State::key: return bare(c, end_of_key_);
      case State::value: return bare(c, end_of_value_);
      case State::before_key:
      case State::before_value: break;
    }
    return word_.empty() && is_json_blank(c) ? Step::more : tag(c);
  }

  Step name(char c) {
    if (word_.empty() && is_json_blank(c)) return Step::more;
    if (c != '\n' && c != '<') {
      word_ += c;
      return word_.size() <= kLongestWritten ? Step::more : Step::malformed;
    }
    name_ = trimmed(word_, kJsonBlanks);
    if (!out_.knows(name_)) return Step::malformed;
    out_.begin_call(name_);
    next(State::before_key);
    return take(c);
  }

  Step tag(char c) {
    word_ += c;
    const bool key = state_ == State::before_key;
    if (key && word_ == kGlmKey) return next(State::key);
    if (!key && word_ == kGlmValue) return next(State::value);
    if (key && word_ == kGlmEnd) {
      out_.arguments(keys_.empty() ? "{}" : "}");
      out_.end_call();
      return Step::over;
    }
    const bool goes_on = key ? kGlmKey.starts_with(word_) || kGlmEnd.starts_with(word_) : kGlmValue.starts_with(word_);
    return goes_on ? Step::more : Step::malformed;
  }

  /// A key or a value, up to its closing tag.
  Step bare(char c, MarkMatcher& end) {
    switch (end.push(c)) {
      case MarkMatcher::Step::more: return Step::more;
      case MarkMatcher::Step::found: break;
      case MarkMatcher::Step::no:
        const bool held = !end.held().empty();
        word_ += end.held();
        end.reset();
        if (held) return bare(c, end);
        word_ += c;
        return state_ == State::value || word_.size() <= kLongestWritten ? Step::more : Step::malformed;
    }
    if (state_ == State::key) {
      key_ = trimmed(word_, kJsonBlanks);
      return keys_.insert(key_).second ? next(State::before_value) : Step::malformed;
    }
    out_.arguments(keys_.size() == 1 ? "{" : ", ");
    out_.arguments(json_text(key_) + ": ");
    out_.arguments(out_.is_text(name_, key_, word_) ? json_text(word_) : bare_value(word_));
    return next(State::before_key);
  }

  enum class State : uint8_t { name, before_key, key, before_value, value };
  Step next(State state) {
    state_ = state;
    word_.clear();
    return Step::more;
  }

  State state_ = State::name;
  std::string word_;  // what is read: of a tag, a name, a key or a value
  std::string name_, key_;
  std::set<std::string> keys_;  // that were given: one given twice does not say which value it means
  MarkMatcher end_of_key_{"</arg_key>"}, end_of_value_{"</arg_value>"};
};

}  // namespace

std::unique_ptr<CallParser> make_glm_parser(AnswerOutput& out) { return std::make_unique<GlmParser>(out); }

}  // namespace bumblebee::serve
