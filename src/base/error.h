// The two ways to fail. `Error` says the world is wrong (a file, a config, a request, a device) and is thrown;
// `BB_CHECK` says that we are wrong and aborts. Kernels do neither. Never thrown across a thread, a C boundary or the
// engine's loop.
#pragma once

#include <sstream>
#include <string>

#include "bumblebee/error.h"

namespace bumblebee {

/// Streams its arguments into one string: `cat("expected ", n, ", got ", m)`.
template <class... Args>
std::string cat(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return out.str();
}

namespace detail {
[[noreturn]] void check_failed(const char* expression, const char* file, int line, const std::string& message);
}  // namespace detail

}  // namespace bumblebee

/// Programmer error: prints expression, values, file and line, then aborts. Always on: a server that goes on with a
/// broken page table answers with another user's text.
#define BB_CHECK(cond, ...)                                                                                          \
  do {                                                                                                               \
    if (!(cond)) [[unlikely]]                                                                                        \
      ::bumblebee::detail::check_failed(#cond, __FILE__, __LINE__, ::bumblebee::cat("" __VA_OPT__(, ) __VA_ARGS__)); \
  } while (false)

#ifdef NDEBUG
#define BB_DCHECK(cond, ...) ((void)0)
#else
#define BB_DCHECK(cond, ...) BB_CHECK(cond, __VA_ARGS__)
#endif
