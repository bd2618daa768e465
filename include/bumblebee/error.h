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

}  // namespace bumblebee
