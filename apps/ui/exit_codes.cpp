// Maps errors to exit statuses and prints them, as text or as JSON.
#include "ui/exit_codes.h"

#include <cstdio>
#include <new>
#include <system_error>

#include "ui/json_out.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

ExitCode exit_code(ErrorCode code) {
  switch (code) {
    case ErrorCode::bad_file: return ExitCode::bad_file;
    case ErrorCode::bad_config: return ExitCode::bad_config;
    case ErrorCode::unsupported: return ExitCode::unsupported;
    case ErrorCode::out_of_memory: return ExitCode::out_of_memory;
    case ErrorCode::device: return ExitCode::device;
    case ErrorCode::bad_request: return ExitCode::bad_request;
    case ErrorCode::cancelled: return ExitCode::cancelled;
    case ErrorCode::not_found: return ExitCode::not_found;
    case ErrorCode::forbidden: return ExitCode::forbidden;
    case ErrorCode::network: return ExitCode::network;
    case ErrorCode::too_long: return ExitCode::bad_request;
    case ErrorCode::busy:
    case ErrorCode::timed_out:
    case ErrorCode::draining: return ExitCode::unavailable;
  }
  return ExitCode::internal;
}

std::string_view exit_code_help() {
  return "Exit codes:\n"
         "  0    success\n"
         "  1    internal: a defect of this program, or its output could not be written\n"
         "  2    usage: an unknown flag, a value out of range, flags that exclude each other\n"
         "  3    bad_file: a file is absent, unreadable or broken\n"
         "  4    bad_config: a configuration file contradicts itself or the weights\n"
         "  5    unsupported: an architecture, format or setting that is not implemented\n"
         "  6    out_of_memory\n"
         "  7    device: the device is absent or cannot run this model\n"
         "  8    bad_request, too_long: the prompt or the settings do not fit this model\n"
         "  9    not_found: no such repository, revision or file on the Hub, or in its cache\n"
         "  10   forbidden: the Hub wants a token, another one, or its terms accepted\n"
         "  11   network: the Hub cannot be reached, or answers with failures; serve cannot listen on its address\n"
         "  12   unavailable: a queue is full, a time ran out, or the program is shutting down\n"
         "  130  cancelled with Ctrl-C";
}

namespace {

struct Described {
  ExitCode status;
  std::string code;
  std::string message;
};

Described describe_current_exception() {
  try {
    throw;
  } catch (const Error& e) {
    return {exit_code(e.code()), std::string(to_string(e.code())), e.what()};
  } catch (const UsageError& e) {
    return {ExitCode::usage, "usage", e.what()};
  } catch (const std::bad_alloc&) {
    return {ExitCode::out_of_memory, "out_of_memory", "[memory] not enough memory"};
  } catch (const std::system_error& e) {
    if (e.code() != std::errc::resource_unavailable_try_again) return {ExitCode::internal, "internal", e.what()};
    return {ExitCode::out_of_memory, "out_of_memory",
            "[threads] the system starts no further thread: limits of memory or of processes; fewer need less (-t)"};
  } catch (const std::exception& e) {
    return {ExitCode::internal, "internal", e.what()};
  } catch (...) {
    return {ExitCode::internal, "internal", "unknown exception"};
  }
}

}  // namespace

ExitCode report_current_exception(ErrorFormat format, const std::function<std::string(const std::string&)>& worded) {
  Described error = describe_current_exception();
  if (worded) error.message = worded(error.message);
  // One event, one line: a path or a JSON snippet in the message must not break the line that a log collector reads.
  std::string line = one_line(error.message);
  std::fprintf(stderr, "%sbumblebee: error:%s %s\n", style(stderr, Style::error), style(stderr, Style::reset),
               line.c_str());
  if (format == ErrorFormat::text_and_json) {
    try {
      print_json({{"error", {{"code", error.code}, {"message", error.message}}}});
    } catch (...) {
      // stdout is gone; the line on stderr and the status still tell.
    }
  }
  return error.status;
}

}  // namespace bumblebee::cli
