// Splits a source from its number and reads the adapter.
#include "commands/adapter_source.h"

#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "lora/read_adapter.h"
#include "options/hub_source.h"
#include "ui/exit_codes.h"

namespace bumblebee::cli {

AdapterSource AdapterSource::parse(const std::string& text) {
  AdapterSource result{text, std::nullopt};
  const size_t colon = text.rfind(':');
  std::error_code ignored;
  if (colon != std::string::npos && !std::filesystem::exists(text, ignored)) {
    const std::string number = text.substr(colon + 1);
    char* end = nullptr;
    const double value = std::strtod(number.c_str(), &end);
    if (!number.empty() && *end == '\0') {
      if (!std::isfinite(value)) throw UsageError("'" + text + "': expected a finite number after ':'");
      result.source = text.substr(0, colon);
      result.number = value;
    }
  }
  if (result.source.empty()) throw UsageError("'" + text + "': expected an adapter's directory or org/name");
  return result;
}

std::filesystem::path AdapterSource::directory(const CommonFlags& common) const {
  return hub_source(source, common).directory();
}

lora::Adapter AdapterSource::read(const CommonFlags& common, const std::optional<float>& scale) const {
  lora::ReadOptions options;
  options.scale = scale;
  // A directory of the Hugging Face cache is named by a commit: the repository's name says more.
  if (!std::filesystem::exists(source)) options.name = source.substr(source.rfind('/') + 1);
  return lora::read_adapter(directory(common), options);
}

}  // namespace bumblebee::cli
