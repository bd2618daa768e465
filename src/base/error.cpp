// The text of errors, names of their codes and the end of the road for failed checks.
#include "base/error.h"

#include <fmt/args.h>
#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <iterator>

#include "base/format.h"

namespace bumblebee {

Error::Error(ErrorCode code, std::string_view where, std::string_view what)
    : std::runtime_error(cat("[", where, "] ", what)), code_(code) {}

std::string_view to_string(ErrorCode code) {
  switch (code) {
    case ErrorCode::bad_file: return "bad_file";
    case ErrorCode::bad_config: return "bad_config";
    case ErrorCode::unsupported: return "unsupported";
    case ErrorCode::out_of_memory: return "out_of_memory";
    case ErrorCode::device: return "device";
    case ErrorCode::bad_request: return "bad_request";
    case ErrorCode::cancelled: return "cancelled";
    case ErrorCode::not_found: return "not_found";
    case ErrorCode::forbidden: return "forbidden";
    case ErrorCode::network: return "network";
    case ErrorCode::too_long: return "too_long";
    case ErrorCode::busy: return "busy";
    case ErrorCode::timed_out: return "timed_out";
    case ErrorCode::draining: return "draining";
  }
  return "unknown";
}

std::string detail::cat(const CatArg* first, size_t count) {
  fmt::memory_buffer out;
  const auto end = std::back_inserter(out);
  for (const CatArg* arg = first; arg != first + count; ++arg) {
    switch (arg->kind) {
      case CatArg::Kind::text: out.append(arg->text); break;
      case CatArg::Kind::character: out.push_back(arg->character); break;
      case CatArg::Kind::integer: fmt::format_to(end, FMT_STRING("{}"), arg->integer); break;
      case CatArg::Kind::natural: fmt::format_to(end, FMT_STRING("{}"), arg->natural); break;
      case CatArg::Kind::real: fmt::format_to(end, FMT_STRING("{:.6g}"), arg->real); break;
      case CatArg::Kind::pointer: fmt::format_to(end, FMT_STRING("{}"), arg->pointer); break;
    }
  }
  return fmt::to_string(out);
}

std::string detail::format(const char* pattern, const CatArg* arguments, size_t count) {
  fmt::dynamic_format_arg_store<fmt::format_context> store;
  for (const CatArg* arg = arguments; arg != arguments + count; ++arg) {
    switch (arg->kind) {
      case CatArg::Kind::text: store.push_back(arg->text); break;
      case CatArg::Kind::character: store.push_back(arg->character); break;
      case CatArg::Kind::integer: store.push_back(arg->integer); break;
      case CatArg::Kind::natural: store.push_back(arg->natural); break;
      case CatArg::Kind::real: store.push_back(arg->real); break;
      case CatArg::Kind::pointer: store.push_back(arg->pointer); break;
    }
  }
  return fmt::vformat(pattern, store);
}

void detail::check_failed(const char* expression, const char* file, int line, const std::string& message) {
  std::fprintf(stderr, "%s:%d: check failed: %s %s\n", file, line, expression, message.c_str());
  std::abort();
}

}  // namespace bumblebee
