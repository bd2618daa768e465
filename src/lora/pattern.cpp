// A recursive descent over the pattern to a Thompson automaton, which is then simulated with a set of states.
#include "lora/pattern.h"

#include <algorithm>
#include <cctype>

#include "base/error.h"
#include "io/quote.h"

namespace bumblebee::lora {
namespace {

constexpr size_t kLongest = 8192;
constexpr size_t kStates = 4096;
constexpr int kDepth = 64;
constexpr int kRepeats = 1000;

using Bytes = std::bitset<256>;

bool is_word(unsigned char c) { return std::isalnum(c) != 0 || c == '_'; }

Bytes bytes_where(bool (*test)(unsigned char)) {
  Bytes set;
  for (int c = 0; c < 256; ++c) set[size_t(c)] = test(static_cast<unsigned char>(c));
  return set;
}

/// \d, \w, \s and their opposites; an empty set for any other letter.
Bytes class_of(char letter) {
  switch (letter) {
    case 'd': return bytes_where([](unsigned char c) { return c >= '0' && c <= '9'; });
    case 'w': return bytes_where(is_word);
    case 's': return bytes_where([](unsigned char c) { return c == ' ' || (c >= 9 && c <= 13); });
    case 'D': return ~class_of('d');
    case 'W': return ~class_of('w');
    case 'S': return ~class_of('s');
    default: return {};
  }
}

}  // namespace

/// Builds the automaton backwards: each part is compiled knowing the state that follows it.
class PatternParser {
 public:
  PatternParser(Pattern& pattern, std::string_view where) : p_(pattern), where_(where), text_(pattern.text_) {}

  void run() {
    const int end = add({Pattern::Step::match, -1, -1, {}});
    Node root = alternatives(0);
    if (at_ < text_.size()) broken("a ')' without '('");
    p_.start_ = compile(root, end);
  }

 private:
  struct Node {
    enum class Kind : uint8_t {
      empty,
      bytes,
      begin,
      end,
      boundary,
      no_boundary,
      sequence,
      choice,
      repeat
    } kind = Kind::empty;
    Bytes bytes;
    std::vector<Node> parts;
    int low = 0, high = 0;  // repeat; high -1: no limit
  };

  [[noreturn]] void refuse(std::string_view what) const {
    throw Error(ErrorCode::unsupported, where_,
                cat("pattern ", in_quotes(text_), ": ", what, " is not supported: name the modules in a list instead"));
  }
  [[noreturn]] void broken(std::string_view what) const {
    throw Error(ErrorCode::bad_config, where_, cat("pattern ", in_quotes(text_), ": ", what));
  }
  bool more() const { return at_ < text_.size(); }
  char peek() const { return text_[at_]; }
  char take() { return text_[at_++]; }

  int add(Pattern::State state) {
    if (p_.states_.size() >= kStates) broken(cat("too large: expected at most ", kStates, " states"));
    p_.states_.push_back(state);
    return int(p_.states_.size()) - 1;
  }

  Node alternatives(int depth) {
    if (depth > kDepth) broken(cat("nested too deeply: expected at most ", kDepth, " levels"));
    Node choice{Node::Kind::choice, {}, {}, 0, 0};
    choice.parts.push_back(sequence(depth));
    while (more() && peek() == '|') {
      take();
      choice.parts.push_back(sequence(depth));
    }
    return choice.parts.size() == 1 ? std::move(choice.parts.front()) : choice;
  }

  Node sequence(int depth) {
    Node all{Node::Kind::sequence, {}, {}, 0, 0};
    while (more() && peek() != '|' && peek() != ')') all.parts.push_back(repeated(depth));
    return all;
  }

  Node repeated(int depth) {
    Node one = atom(depth);
    if (!more()) return one;
    int low = 0, high = -1;
    if (peek() == '*') {
      take();
    } else if (peek() == '+') {
      take();
      low = 1;
    } else if (peek() == '?') {
      take();
      high = 1;
    } else if (peek() != '{' || !counted(low, high)) {
      return one;
    }
    if (more() && peek() == '?') take();  // lazy: the same whole matches
    if (more() && (peek() == '*' || peek() == '+' || peek() == '?')) refuse("a repetition of a repetition");
    Node repeat{Node::Kind::repeat, {}, {}, low, high};
    repeat.parts.push_back(std::move(one));
    return repeat;
  }

  /// {m}, {m,}, {,n}, {m,n}; anything else in braces is literal text, as in Python.
  bool counted(int& low, int& high) {
    size_t at = at_ + 1;
    const auto number = [&](int absent) {
      if (at >= text_.size() || std::isdigit(static_cast<unsigned char>(text_[at])) == 0) return absent;
      int n = 0;
      while (at < text_.size() && std::isdigit(static_cast<unsigned char>(text_[at])) != 0) {
        n = std::min(n * 10 + (text_[at++] - '0'), kRepeats + 1);
      }
      return n;
    };
    const int first = number(-1);
    int last = first;
    if (at < text_.size() && text_[at] == ',') {
      ++at;
      last = number(-1);
    } else if (first < 0) {
      return false;
    }
    if (at >= text_.size() || text_[at] != '}') return false;
    low = std::max(first, 0);
    high = last;
    if (low > kRepeats || high > kRepeats) broken(cat("a repetition of more than ", kRepeats));
    if (high >= 0 && high < low) broken("a repetition whose maximum is below its minimum");
    at_ = at + 1;
    return true;
  }

  Node set_of(const Bytes& bytes) const { return {Node::Kind::bytes, bytes, {}, 0, 0}; }
  Node simple(Node::Kind kind) const { return {kind, {}, {}, 0, 0}; }

  Node atom(int depth) {
    const char c = take();
    switch (c) {
      case '(': return group(depth);
      case '[': return set_of(bracket());
      case '.': {
        Bytes all;
        all.set();
        all.reset('\n');
        return set_of(all);
      }
      case '^': return simple(Node::Kind::begin);
      case '$': return simple(Node::Kind::end);
      case '\\': return escape();
      case '*':
      case '+':
      case '?': broken("nothing to repeat");
      default: return literal(c);
    }
  }

  Node literal(char c) const {
    Bytes one;
    one.set(static_cast<unsigned char>(c));
    return set_of(one);
  }

  Node group(int depth) {
    if (more() && peek() == '?') {
      take();
      if (!more() || peek() != ':')
        refuse(cat("a group that begins with '(?", more() ? std::string(1, peek()) : "", "'"));
      take();
    }
    Node inside = alternatives(depth + 1);
    if (!more()) broken("a '(' without ')'");
    take();
    return inside;
  }

  Node escape() {
    if (!more()) broken("it ends in a backslash");
    const char c = take();
    if (c == 'b') return simple(Node::Kind::boundary);
    if (c == 'B') return simple(Node::Kind::no_boundary);
    if (const Bytes known = class_of(c); known.any()) return set_of(known);
    if (is_word(static_cast<unsigned char>(c))) refuse(cat("the escape '\\", std::string(1, c), "'"));
    return literal(c);
  }

  Bytes bracket() {
    Bytes set;
    bool negated = false;
    if (more() && peek() == '^') {
      take();
      negated = true;
    }
    for (bool first = true;; first = false) {
      if (!more()) broken("a '[' without ']'");
      char c = take();
      if (c == ']' && !first) break;
      if (c == '[' && more() && peek() == ':') refuse("a class in '[: :]'");
      if (c == '\\') {
        if (!more()) broken("it ends in a backslash");
        c = take();
        if (const Bytes known = class_of(c); known.any()) {
          set |= known;
          continue;
        }
        if (is_word(static_cast<unsigned char>(c))) refuse(cat("the escape '\\", std::string(1, c), "' in '[]'"));
      }
      char last = c;
      if (at_ + 1 < text_.size() && peek() == '-' && text_[at_ + 1] != ']') {
        take();
        last = take();
        if (last == '\\') refuse("an escape as the end of a range");
      }
      const int from = static_cast<unsigned char>(c), to = static_cast<unsigned char>(last);
      if (to < from) broken("a range in '[]' that runs backwards");
      for (int i = from; i <= to; ++i) set.set(size_t(i));
    }
    return negated ? ~set : set;
  }

  int compile(const Node& node, int next) {
    if (++work_ > 16 * kStates) broken("too many repetitions");  // of nothing: they make no states
    using NodeKind = Node::Kind;
    using Step = Pattern::Step;
    switch (node.kind) {
      case NodeKind::empty: return next;
      case NodeKind::bytes: return add({Step::byte, next, -1, node.bytes});
      case NodeKind::begin: return add({Step::begin, next, -1, {}});
      case NodeKind::end: return add({Step::end, next, -1, {}});
      case NodeKind::boundary: return add({Step::boundary, next, -1, {}});
      case NodeKind::no_boundary: return add({Step::no_boundary, next, -1, {}});
      case NodeKind::sequence:
        for (size_t i = node.parts.size(); i-- > 0;) next = compile(node.parts[i], next);
        return next;
      case NodeKind::choice: {
        int first = compile(node.parts.back(), next);
        for (size_t i = node.parts.size() - 1; i-- > 0;)
          first = add({Step::split, compile(node.parts[i], next), first, {}});
        return first;
      }
      default: break;
    }
    const Node& one = node.parts.front();
    if (node.high < 0) {
      const int loop = add({Step::split, -1, next, {}});
      const int inside = compile(one, loop);
      p_.states_[size_t(loop)].next = inside;
      next = loop;
    } else {
      const int after = next;
      for (int i = node.low; i < node.high; ++i) next = add({Step::split, compile(one, next), after, {}});
    }
    for (int i = 0; i < node.low; ++i) next = compile(one, next);
    return next;
  }

  Pattern& p_;
  std::string_view where_;
  const std::string& text_;
  size_t at_ = 0, work_ = 0;
};

Pattern::Pattern(std::string_view text, std::string_view where) : text_(text) {
  if (text.size() > kLongest) {
    throw Error(ErrorCode::bad_config, where,
                cat("pattern too long: expected at most ", kLongest, " bytes, got ", text.size()));
  }
  PatternParser(*this, where).run();
}

bool Pattern::matches(std::string_view text) const {
  std::vector<int> now, later, pending;
  std::vector<size_t> seen(states_.size(), SIZE_MAX);  // the position at which a state was last entered
  const auto enter = [&](std::vector<int>& set, int state, size_t at) {
    pending.push_back(state);
    while (!pending.empty()) {
      const int s = pending.back();
      pending.pop_back();
      if (seen[size_t(s)] == at) continue;
      seen[size_t(s)] = at;
      const State& here = states_[size_t(s)];
      const bool before = at > 0 && is_word(static_cast<unsigned char>(text[at - 1]));
      const bool after = at < text.size() && is_word(static_cast<unsigned char>(text[at]));
      bool passes = false;
      switch (here.step) {
        case Step::split:
          pending.push_back(here.next);
          pending.push_back(here.other);
          break;
        case Step::begin: passes = at == 0; break;
        case Step::end: passes = at == text.size(); break;
        case Step::boundary: passes = before != after; break;
        case Step::no_boundary: passes = before == after; break;
        default: set.push_back(s);
      }
      if (passes) pending.push_back(here.next);
    }
  };
  enter(now, start_, 0);
  for (size_t at = 0; at < text.size(); ++at) {
    later.clear();
    const auto byte = static_cast<unsigned char>(text[at]);
    for (const int s : now) {
      const State& state = states_[size_t(s)];
      if (state.step == Step::byte && state.bytes[byte]) enter(later, state.next, at + 1);
    }
    std::swap(now, later);
  }
  for (const int s : now) {
    if (states_[size_t(s)].step == Step::match) return true;
  }
  return false;
}

}  // namespace bumblebee::lora
