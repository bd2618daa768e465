// The one sink of the process.
#include "base/log.h"

#include <atomic>
#include <mutex>
#include <utility>

namespace bumblebee {
namespace {

std::atomic<bool> listening = false;

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

void set_log_sink(LogSink call) {
  const std::lock_guard lock(sink().mutex);
  listening = call != nullptr;
  sink().call = std::move(call);
}

bool is_logged() { return listening; }

void log(LogLevel level, std::string_view message) noexcept {
  if (!listening) return;
  try {
    const std::lock_guard lock(sink().mutex);
    if (sink().call) sink().call(level, message);
  } catch (...) {  // a sink that fails must not fail what is logged about
  }
}

}  // namespace bumblebee
