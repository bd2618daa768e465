// Remarks of the library for whoever operates it: one line an event, never on the path of a token.
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"
#include "bumblebee/log.h"

namespace bumblebee {

/// Whether anybody listens to this level, so that a costly message need not be made.
bool is_logged(LogLevel level);

namespace detail {
void log(LogLevel level, std::string_view message) noexcept;
}  // namespace detail

/// Puts the parts together as cat() does and hands the line to the sink, if there is one for this level. Never throws,
/// and without a sink neither allocates nor locks.
template <class... Parts>
void log(LogLevel level, const Parts&... parts) noexcept {
  if (!is_logged(level)) return;
  try {
    detail::log(level, cat(parts...));
  } catch (...) {  // memory is short: the line is lost
  }
}

/// What a file or a setting says and this program left out or took otherwise, for the person who gave it: a warning
/// whose line is "[where] what", as an error's is, where other remarks name an event.
template <class... Parts>
void note(std::string_view where, const Parts&... parts) noexcept {
  log(LogLevel::warning, "[", where, "] ", parts...);
}

}  // namespace bumblebee
