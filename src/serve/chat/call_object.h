// One call of a tool as a JSON object, {"name": ..., "arguments": {...}}, its keys in any order, taken byte by byte.
// The arguments are handed on as they come once the name is known.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "serve/chat/answer_output.h"
#include "serve/chat/json_scanner.h"

namespace bumblebee::serve {

/// The value of "arguments": an object, whose bytes are handed on as they are; a string that holds an object as text,
/// which is handed on unescaped; null and a blank string are {}. Anything else is malformed.
class ArgumentsValue {
 public:
  using Step = JsonScanner::Step;
  /// Appends to `out` what the byte gives. Step::has_ended does not occur.
  Step push(char c, std::string& out);

 private:
  enum class Form : uint8_t { none, object, string, null };
  Step string_byte(char c, std::string& out);
  bool give(std::string_view text, std::string& out);
  bool give_code(uint32_t code, std::string& out);

  Form form_ = Form::none;
  JsonScanner outer_, inner_;
  bool inner_begun_ = false, inner_over_ = false;
  int escape_ = 0;  // bytes of an escape that are to come
  bool hex_ = false;
  uint32_t code_ = 0, high_ = 0;  // of \u; high_: the first half of a pair, which waits for the second
};

/// The arguments of a call whose name is known: the call begins in the output with their first byte.
class NamedArguments {
 public:
  explicit NamedArguments(AnswerOutput& out) : out_(out) {}
  /// Those of another call come; `id` as AnswerOutput::begin_call() takes it.
  void begin(std::string_view name, std::string_view id = {});
  ArgumentsValue::Step push(char c);

 private:
  AnswerOutput& out_;
  std::string name_, id_;
  ArgumentsValue value_;
  bool begun_ = false;  // the call, in the output
};

class CallObject {
 public:
  enum class Step : uint8_t { more, whole, malformed };
  /// `plain`: nothing marks it as a call but itself. It must have arguments, and no key but "type" may come before they
  /// and the name are there, or it is data.
  CallObject(AnswerOutput& out, bool plain) : out_(out), plain_(plain) {}
  /// From the opening brace on. What it begins in the output stays open, for the caller to end or to withdraw.
  Step push(char c);

 private:
  enum class State : uint8_t { open, first_key, key, in_key, colon, value, after_value };
  enum class Role : uint8_t { name, arguments, other };
  Step take(char c);
  Step begin_value();
  Step value_byte(char c);
  bool name_over();
  void begin_call();
  Step close();

  AnswerOutput& out_;
  const bool plain_;
  State state_ = State::open;
  Role role_ = Role::other;
  JsonScanner scanner_;
  ArgumentsValue value_;
  std::string text_;   // of the key or the name that is being read
  std::string early_;  // arguments that came before the name
  std::optional<std::string> name_;
  bool value_begun_ = false;
  bool arguments_ = false;  // they began
  bool begun_ = false;      // the call, in the output
};

}  // namespace bumblebee::serve
