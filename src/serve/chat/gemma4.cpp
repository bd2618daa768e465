// <|tool_call>call:NAME{key:<|"|>text<|"|>,other:[1,true]}<tool_call|>, repeated, as Gemma 4 writes calls: keys without
// quotes, texts between marks of their own, so that nothing in them needs an escape. Arguments become JSON as they
// come.
#include <vector>

#include "serve/chat/bare_value.h"
#include "serve/chat/call_parser.h"
#include "serve/chat/json_scanner.h"
#include "serve/chat/json_text.h"

namespace bumblebee::serve {
namespace {

/// One object, from its opening brace on.
class GemmaObject {
 public:
  explicit GemmaObject(std::string_view quote) : quote_(quote) {}
  enum class Step : uint8_t { more, ends, malformed };

  Step push(char c, std::string& out) {
    switch (state_) {
      case State::key: return key(c, out);
      case State::text: return text(c, out);
      case State::bare: return bare(c, out);
      case State::value: return is_json_blank(c) && quote_.held().empty() ? Step::more : value(c, out);
      default: return is_json_blank(c) ? Step::more : between(c, out);
    }
  }

 private:
  Step open(char c, std::string& out) {
    if (objects_.size() >= size_t(kCallDepth)) return Step::malformed;
    objects_.push_back(c == '{');
    out += c;
    state_ = c == '{' ? State::first_key : State::first_item;
    return Step::more;
  }

  Step close(char c, std::string& out) {
    if (objects_.empty() || c != (objects_.back() ? '}' : ']')) return Step::malformed;
    objects_.pop_back();
    out += c;
    state_ = State::after;
    return objects_.empty() ? Step::ends : Step::more;
  }

  Step between(char c, std::string& out) {
    switch (state_) {
      case State::open: return c == '{' ? open(c, out) : Step::malformed;
      case State::first_key:
        if (c == '}') return close(c, out);
        state_ = State::key;
        return key(c, out);
      case State::first_item:
        if (c == ']') return close(c, out);
        state_ = State::value;
        return value(c, out);
      default: break;
    }
    if (c != ',') return close(c, out);
    out += c;
    word_.clear();
    state_ = objects_.back() ? State::key : State::value;
    return Step::more;
  }

  Step key(char c, std::string& out) {
    if (word_.empty() && is_json_blank(c)) return Step::more;
    if (c != ':') {
      word_ += c;
      return word_.size() <= kLongestWritten ? Step::more : Step::malformed;
    }
    std::string_view name = word_;
    const std::string_view quote = quote_.mark();
    if (name.size() >= 2 * quote.size() && name.starts_with(quote) && name.ends_with(quote)) {
      name.remove_prefix(quote.size());
      name.remove_suffix(quote.size());
    }
    out += json_text(name) + ": ";
    word_.clear();
    state_ = State::value;
    return Step::more;
  }

  Step value(char c, std::string& out) {
    if (quote_.held().empty() && (c == '{' || c == '[')) return open(c, out);
    switch (quote_.push(c)) {
      case MarkMatcher::Step::more: return Step::more;
      case MarkMatcher::Step::found:
        out += '"';
        state_ = State::text;
        return Step::more;
      case MarkMatcher::Step::no: break;
    }
    word_ = quote_.held();
    quote_.reset();
    state_ = State::bare;
    return bare(c, out);
  }

  Step text(char c, std::string& out) {
    switch (quote_.push(c)) {
      case MarkMatcher::Step::more: return Step::more;
      case MarkMatcher::Step::found:
        out += '"';
        state_ = State::after;
        return Step::more;
      case MarkMatcher::Step::no: break;
    }
    const bool held = !quote_.held().empty();
    for (const char before : quote_.held()) append_json_text(out, before);
    quote_.reset();
    if (held) return text(c, out);
    append_json_text(out, c);
    return Step::more;
  }

  Step bare(char c, std::string& out) {
    if (c != ',' && c != '}' && c != ']') {
      word_ += c;
      return Step::more;
    }
    if (word_.empty()) return Step::malformed;
    out += bare_value(word_);
    word_.clear();
    state_ = State::after;
    return between(c, out);
  }

  enum class State : uint8_t { open, first_key, key, value, first_item, text, bare, after };
  State state_ = State::open;
  std::vector<bool> objects_;  // of each level: an object, or an array
  std::string word_;           // a key, or a value without quotes
  MarkMatcher quote_;
};

class Gemma4Parser final : public CallParser {
 public:
  explicit Gemma4Parser(AnswerOutput& out)
      : CallParser(out, out.as_it_comes("\xFF<|tool_call>")),
        object_(quote()),
        close_(out.as_it_comes("\xFF<tool_call|>")) {}

 private:
  std::string_view quote() const { return out_.as_it_comes("\xFF<|\"|>"); }
  void begin() override {
    state_ = State::name;
    name_.clear();
    object_ = GemmaObject(quote());
    close_.reset();
  }

  Step take(char c) override {
    if (state_ == State::name) return name(c);
    if (state_ == State::object) return object(c);
    if (close_.held().empty() && is_json_blank(c)) return Step::more;
    const MarkMatcher::Step step = close_.push(c);
    if (step == MarkMatcher::Step::found) out_.end_call();
    return step == MarkMatcher::Step::found  ? Step::over
           : step == MarkMatcher::Step::more ? Step::more
                                             : Step::malformed;
  }

  Step name(char c) {
    constexpr std::string_view kCall = "call:";
    if (c != '{') {
      name_ += c;
      return name_.size() <= kCall.size() + kLongestWritten ? Step::more : Step::malformed;
    }
    if (!name_.starts_with(kCall) || !out_.knows(name_.substr(kCall.size()))) return Step::malformed;
    out_.begin_call(name_.substr(kCall.size()));
    state_ = State::object;
    return object(c);
  }

  Step object(char c) {
    std::string piece;
    const GemmaObject::Step step = object_.push(c, piece);
    out_.arguments(piece);
    if (step == GemmaObject::Step::ends) state_ = State::after;
    return step == GemmaObject::Step::malformed ? Step::malformed : Step::more;
  }

  bool whole_at_end() const override { return state_ == State::after; }

  enum class State : uint8_t { name, object, after };
  State state_ = State::name;
  std::string name_;
  GemmaObject object_;
  MarkMatcher close_;
};

}  // namespace

std::unique_ptr<CallParser> make_gemma4_parser(AnswerOutput& out) { return std::make_unique<Gemma4Parser>(out); }

}  // namespace bumblebee::serve
