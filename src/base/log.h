// Remarks of the library for whoever operates it: one line an event, never on the path of a token.
#pragma once

#include <string_view>

#include "bumblebee/log.h"

namespace bumblebee {

/// Whether anybody listens, so that a costly message need not be made.
bool is_logged();

/// Hands a line to the sink, if there is one. Never throws.
void log(LogLevel level, std::string_view message) noexcept;

}  // namespace bumblebee
