// What the program's exit status means. A shell script decides by these numbers; docs/cli.md and --help print the same
// table.
#pragma once

#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>

#include "bumblebee/error.h"

namespace bumblebee::cli {

enum class ExitCode : int {
  ok = 0,
  internal = 1,
  usage = 2,
  bad_file = 3,
  bad_config = 4,
  unsupported = 5,
  out_of_memory = 6,
  device = 7,
  bad_request = 8,
  not_found = 9,
  forbidden = 10,
  network = 11,
  unavailable = 12,
  cancelled = 130,  // what a shell reports for a program ended by Ctrl-C
};

ExitCode exit_code(ErrorCode code);

/// The command line itself is wrong: a flag, a value out of range, two flags that exclude each other.
class UsageError : public std::runtime_error {
 public:
  explicit UsageError(const std::string& message) : std::runtime_error(message) {}
};

/// The table as text, one line per code, for --help.
std::string_view exit_code_help();

/// Reports the exception being handled: one line `bumblebee: error: ...` on stderr and, when the caller asked for JSON,
/// `{"error": {"code": ..., "message": ...}}` on stdout. `worded` has the last word on the message. Returns the status
/// to exit with. Call it only inside a catch block.
enum class ErrorFormat : unsigned char { text, text_and_json };
ExitCode report_current_exception(ErrorFormat format,
                                  const std::function<std::string(const std::string&)>& worded = {});

}  // namespace bumblebee::cli
