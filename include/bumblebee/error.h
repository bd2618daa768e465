// What the library throws. Every error of the outside world (a file, a config, a request, a device) is a
// bumblebee::Error.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace bumblebee {

/// What kind of thing went wrong; the program's exit codes and a server's status codes follow from it.
enum class ErrorCode : uint8_t {
  bad_file,
  bad_config,
  unsupported,
  out_of_memory,
  device,
  bad_request,
  cancelled,
  not_found,  // on the Hub or in its cache: a repository, a revision, a file
  forbidden,  // the Hub wants a token, another one, or its terms accepted
  network,    // the Hub cannot be reached, or answers with failures
  too_long,   // a request that the context or the memory for keys and values cannot hold: TooLong has the numbers
  busy,       // a serving's queue is full; later, it may not be
  timed_out,  // a request's time in the queue or its deadline ran out
  draining,   // a serving that takes nothing new, since it is being shut down
};

/// The name of a code as it is printed in JSON and logs, for instance "bad_file".
std::string_view to_string(ErrorCode code);

/// An error of the outside world. `what()` reads `[where] what: expected X, got Y`.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, std::string_view where, std::string_view what);
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

/// Error(too_long), with its numbers.
class TooLong : public Error {
 public:
  TooLong(std::string_view where, std::string_view what, int64_t tokens, int64_t limit)
      : Error(ErrorCode::too_long, where, what), tokens_(tokens), limit_(limit) {}
  int64_t tokens() const noexcept { return tokens_; }  // of the request
  int64_t limit() const noexcept { return limit_; }    // tokens that a request may have

 private:
  int64_t tokens_, limit_;
};

}  // namespace bumblebee
