// Splits a source from its strength.
#include "options/adapter_source.h"

#include <fmt/core.h>

#include <charconv>
#include <cmath>

#include "options/hub_source.h"
#include "ui/exit_codes.h"

namespace bumblebee::cli {

AdapterSource AdapterSource::parse(const std::string& text) {
  constexpr std::string_view kScale = "scale=";
  AdapterSource result{.source = text, .scale = {}};
  const size_t colon = text.rfind(':');
  std::error_code ignored;
  // http://host:8080/org/name
  const bool address = colon != std::string::npos && text.find('/', colon) != std::string::npos;
  if (colon != std::string::npos && !address && !std::filesystem::exists(text, ignored)) {
    std::string_view number = std::string_view(text).substr(colon + 1);
    const bool absolute = number.starts_with(kScale);
    if (absolute) number.remove_prefix(kScale.size());
    double value = 0;
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), value);
    if (error != std::errc() || end != number.data() + number.size() || !std::isfinite(value)) {
      throw UsageError("'" + text + "': expected ADAPTER, ADAPTER:WEIGHT (1: as trained) or ADAPTER:scale=NUMBER");
    }
    result.source = text.substr(0, colon);
    if (absolute) {
      result.scale = float(value);
    } else {
      result.weight = value;
    }
  }
  if (result.source.empty()) throw UsageError("'" + text + "': expected a source: an adapter's directory or org/name");
  return result;
}

std::filesystem::path AdapterSource::place(const CommonFlags& common) const {
  return hub_source(source, common).place();
}

std::string AdapterSource::strength() const {
  if (scale) return fmt::format("scale {:g}", *scale);
  return weight == 1 ? "" : fmt::format("{:g} of what was trained", weight);
}

}  // namespace bumblebee::cli
