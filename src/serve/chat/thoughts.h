// Splits the thought off that an answer may begin with. Only the first one, and only at the beginning, counts: a later
// <think> is something that is said. Where marks are certain (AnswerFormat::certain_marks) every thought counts.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace bumblebee::serve {

class Thoughts {
 public:
  Thoughts(bool reasoning, bool in_thought, bool certain)
      : state_(!reasoning   ? State::after
               : in_thought ? State::inside
                            : State::before),
        certain_(reasoning && certain) {}
  /// Appends what has become certain.
  void push(char c, std::string& reasoning, std::string& answer);
  void finish(std::string& reasoning, std::string& answer);
  bool inside() const { return state_ == State::inside; }

 private:
  enum class State : uint8_t { before, inside, closed, after };
  void before(char c, std::string& answer);
  void inside(char c, std::string& reasoning);
  void after(char c, std::string& answer);

  State state_;
  std::string blanks_;  // not given yet
  std::string held_;    // may become a tag
  bool begun_ = false;  // something of the thought was given
  const bool certain_;
  bool parted_ = false;  // the thought stood between lines of the answer
};

/// A prompt that ends, but for blanks, with the opening tag of a thought: the answer begins within it.
bool opens_thought(std::string_view prompt);

}  // namespace bumblebee::serve
