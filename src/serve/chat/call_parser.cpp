// The kept bytes are given back once and not read again, whatever they hold: linear time.
#include "serve/chat/call_parser.h"

namespace bumblebee::serve {

void CallParser::push(char c) {
  if (!inside_) return text(c);
  switch (kept_.size() < kLongestCall ? take(c) : Step::malformed) {
    case Step::more: kept_ += c; break;
    case Step::done: kept_.clear(); break;
    case Step::over:
      kept_.clear();
      inside_ = false;
      break;
    case Step::malformed:
      give_back();
      text(c);
      break;
  }
}

void CallParser::text(char c) {
  switch (mark_.push(c)) {
    case MarkMatcher::Step::more: return;
    case MarkMatcher::Step::found:
      kept_ = mark_.mark();
      inside_ = true;
      return begin();
    case MarkMatcher::Step::no: break;
  }
  if (mark_.held().empty()) return unmarked(c);
  for (const char held : mark_.held()) unmarked(held);
  mark_.reset();
  text(c);
}

void CallParser::unmarked(char c) {
  inside_ = begins_unmarked(c);
  if (inside_) {
    kept_ = c;
  } else {
    out_.content(c);
  }
}

void CallParser::finish() {
  if (inside_ && whole_at_end()) return out_.end_call();
  give_back();
  out_.content(mark_.held());
}

void CallParser::give_back() {
  out_.withdraw_call();
  out_.content(kept_);
  kept_.clear();
  inside_ = false;
}

}  // namespace bumblebee::serve
