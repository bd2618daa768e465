// As local time in words, not as seconds: the other machine may be in another zone.
#include "train/run_date.h"

#include <time.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/json.h"
#include "base/mapped_file.h"

namespace bumblebee::train {

namespace fs = std::filesystem;

namespace {
constexpr const char* kPattern = "%Y-%m-%d %H:%M:%S";
}

std::string local_time() {
  const time_t now = ::time(nullptr);
  tm fields{};
  ::localtime_r(&now, &fields);
  char text[32];
  return {text, ::strftime(text, sizeof text, kPattern, &fields)};
}

std::string date_of_run(const fs::path& adapter_path) {
  const fs::path root = adapter_path / "checkpoints";
  const std::string latest = read_text_file_if_any(root / "latest", 256).value_or("");
  const std::string name = latest.substr(0, latest.find('\n'));
  if (name.empty() || fs::path(name).has_parent_path()) return "";
  const fs::path path = root / name / "state.json";
  const auto text = read_text_file_if_any(path, size_t{16} << 20);
  if (!text) return "";  // what is wrong there, the run itself finds
  const Json state = parse_json(*text, path.string());
  const Json options = state.is_object() ? state.value("options", Json()) : Json();
  return options.is_object() ? string_or(options, "date", path.string(), "") : "";
}

double seconds_at(const std::string& local_time) {
  tm fields{};
  const char* end = ::strptime(local_time.c_str(), kPattern, &fields);
  fields.tm_isdst = -1;  // whatever holds there on that day
  const time_t seconds = end != nullptr && *end == '\0' ? ::mktime(&fields) : -1;
  if (seconds < 0)
    throw Error(ErrorCode::bad_file, "date", cat("expected a date and time, got '", local_time.substr(0, 40), "'"));
  return double(seconds);
}

}  // namespace bumblebee::train
