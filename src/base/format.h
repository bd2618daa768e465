// fmt's patterns for numbers and texts. The work is one function, compiled once: fmt's own headers would cost every
// file that includes them.
#pragma once

#include "base/error.h"

namespace bumblebee {

namespace detail {
std::string format(const char* pattern, const CatArg* arguments, size_t count);
}  // namespace detail

/// fmt::format of numbers and texts. Patterns are ours, never a user's: a broken one throws fmt::format_error.
template <class... Args>
std::string format(const char* pattern, const Args&... args) {
  const detail::CatArg list[] = {args...};
  return detail::format(pattern, list, sizeof...(args));
}

}  // namespace bumblebee
