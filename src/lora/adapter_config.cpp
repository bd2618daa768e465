// Reading adapter_config.json, twice: as values and in the file's order.
#include "lora/adapter_config.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/mapped_file.h"

namespace bumblebee::lora {
namespace {

constexpr size_t kLargestConfig = size_t{4} << 20;

}  // namespace

AdapterConfig AdapterConfig::parse(std::string_view text, std::string where) {
  JsonLimits limits;
  limits.bytes = kLargestConfig;
  AdapterConfig config;
  config.where = std::move(where);
  config.json = parse_json(text, config.where, limits);
  if (!config.json->is_object()) {
    throw Error(ErrorCode::bad_config, config.where, cat("expected an object, got ", brief(config.json)));
  }
  config.ordered = parse_ordered_json(text, config.where, limits);
  return config;
}

AdapterConfig AdapterConfig::open(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "adapter_config.json";
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) {
    throw Error(ErrorCode::bad_file, path.string(), "missing: only it says which scale the adapter was trained with");
  }
  return parse(read_text_file(path, kLargestConfig), path.string());
}

const Json* AdapterConfig::find(const char* key) const {
  const auto it = json->find(key);
  return it == json->end() || it->is_null() ? nullptr : &*it;
}

void add_common_facts(const Json& object, const char* dropout_key, std::string_view where,
                      std::map<std::string, std::string>& facts) {
  if (dropout_key != nullptr) {
    const auto dropout = object.find(dropout_key);
    if (dropout != object.end() && dropout->is_number() && *dropout != 0) facts["dropout"] = dropout->dump();
  }
  if (std::string under = string_or(object, "on_top_of", where, ""); !under.empty())
    facts["on_top_of"] = std::move(under);
}

std::vector<std::string> strings_or(const Json& object, const char* key, std::string_view where) {
  const auto it = object.find(key);
  if (it == object.end() || it->is_null()) return {};
  if (it->is_string()) return {it->get<std::string>()};
  std::vector<std::string> list;
  const auto refuse = [&](const Json& got) {
    throw Error(ErrorCode::bad_config, where, cat("'", key, "': expected a list of strings, got ", brief(got)));
  };
  if (!it->is_array()) refuse(*it);
  for (const Json& value : *it) {
    if (!value.is_string()) refuse(value);
    list.push_back(value.get<std::string>());
  }
  return list;
}

}  // namespace bumblebee::lora
