// The one sink of the process.
#include "base/log.h"

#include <atomic>
#include <mutex>
#include <string>
#include <utility>

#include "base/format.h"

namespace bumblebee {
namespace {

constexpr int kNobody = 1 + int(LogLevel::error);
std::atomic<int> threshold = kNobody;

struct Sink {
  std::mutex mutex;
  LogSink call;
};

/// Never destroyed: threads may still log while the process ends.
Sink& sink() {
  static Sink* const only = new Sink;
  return *only;
}

}  // namespace

std::string_view to_string(LogLevel level) {
  switch (level) {
    case LogLevel::debug: return "debug";
    case LogLevel::info: return "info";
    case LogLevel::warning: return "warning";
    case LogLevel::error: return "error";
  }
  return "unknown";
}

void set_log_sink(LogSink call, LogLevel least) {
  const std::lock_guard lock(sink().mutex);
  threshold = call == nullptr ? kNobody : int(least);
  sink().call = std::move(call);
}

bool is_logged(LogLevel level) { return int(level) >= threshold.load(std::memory_order_relaxed); }

void detail::log(LogLevel level, std::string_view message) noexcept {
  try {
    std::string line;  // names come from files and from the network
    for (size_t i = 0; i < message.size(); ++i) {
      const auto byte = static_cast<unsigned char>(message[i]);
      // U+0080 to U+009F are controls too: in UTF-8, C2 and one of these bytes.
      const auto next = i + 1 < message.size() ? static_cast<unsigned char>(message[i + 1]) : 0;
      const bool is_wide = byte == 0xc2 && next >= 0x80 && next < 0xa0;
      if (byte < 0x20 || byte == 0x7f || is_wide) {
        line += bumblebee::format("\\x{:02x}", int(is_wide ? next : byte));
        i += is_wide;
      } else {
        line += message[i];
      }
    }
    const std::lock_guard lock(sink().mutex);
    if (sink().call && is_logged(level)) sink().call(level, line);
  } catch (...) {  // a sink that fails must not fail what is logged about
  }
}

}  // namespace bumblebee
