// spdlog behind the library's sink: one line an event, with the time in UTC and the level.
#include "ui/log.h"

#include <spdlog/logger.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/ansicolor_sink.h>

#include <cstdio>
#include <memory>
#include <set>
#include <string>

#include "bumblebee/log.h"
#include "ui/overlay.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

namespace {

constexpr size_t kMostNotes = 50;

spdlog::level::level_enum level_of(LogLevel level) {
  switch (level) {
    case LogLevel::debug: return spdlog::level::debug;
    case LogLevel::info: return spdlog::level::info;
    case LogLevel::warning: return spdlog::level::warn;
    case LogLevel::error: break;
  }
  return spdlog::level::err;
}

/// What the library left out or took otherwise, as a person wants to hear of it: once, on a line without ceremony.
/// Errors reach the person as such.
void show_notes() {
  set_log_sink(
      [told = std::make_shared<std::set<std::string>>()](LogLevel one, std::string_view line) {
        if (one != LogLevel::warning || !line.starts_with("[")) return;  // an event, not a note
        if (told->size() >= kMostNotes || !told->emplace(line).second) return;
        overlay::above([&] { std::fprintf(stderr, "note: %.*s\n", int(line.size()), line.data()); });
      },
      LogLevel::warning);
}

}  // namespace

void show_log(const std::string& level) {
  if (level == "off") return set_log_sink({});
  if (level == "notes") return show_notes();
  const bool colored = *style(stderr, Style::error) != '\0';
  auto out = std::make_shared<spdlog::sinks::ansicolor_stderr_sink_mt>(colored ? spdlog::color_mode::always
                                                                               : spdlog::color_mode::never);
  out->set_formatter(
      std::make_unique<spdlog::pattern_formatter>("%Y-%m-%dT%H:%M:%S.%eZ %^%l%$ %v", spdlog::pattern_time_type::utc));
  const auto logger = std::make_shared<spdlog::logger>("bumblebee", std::move(out));
  logger->set_level(spdlog::level::trace);
  logger->flush_on(spdlog::level::trace);
  LogLevel least = LogLevel::error;
  for (const LogLevel one : {LogLevel::debug, LogLevel::info, LogLevel::warning}) {
    if (to_string(one) == level) least = one;
  }
  set_log_sink(
      [logger](LogLevel one, std::string_view line) {
        overlay::above([&] { logger->log(level_of(one), spdlog::string_view_t(line.data(), line.size())); });
      },
      least);
}

}  // namespace bumblebee::cli
