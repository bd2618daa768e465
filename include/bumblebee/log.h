// Where the library's remarks go. It never prints: without a sink they are dropped.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

namespace bumblebee {

enum class LogLevel : uint8_t { debug, info, warning, error };

/// "debug", "info", "warning", "error".
std::string_view to_string(LogLevel level);

/// Gets each remark: an event and its figures on one line ("weights packed: seconds=1.52 bytes=..."), without control
/// characters and without an end of line. Called from any thread, one call at a time; what it throws is dropped. It
/// must not call the library.
using LogSink = std::function<void(LogLevel level, std::string_view message)>;

/// Replaces the sink, which gets remarks of level `least` and above; an empty one turns remarks off. When it returns,
/// the old sink is called no more.
void set_log_sink(LogSink sink, LogLevel least = LogLevel::debug);

}  // namespace bumblebee
