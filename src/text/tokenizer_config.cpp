// Reads the sidecar files of a tokenizer, in the order of precedence that transformers uses.
#include "text/tokenizer_config.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/json.h"
#include "base/mapped_file.h"

namespace bumblebee::txt {

namespace {

constexpr size_t kMaxConfigBytes = size_t{16} << 20;
constexpr size_t kMaxTemplateBytes = size_t{4} << 20;
constexpr size_t kMaxTemplates = 64;

/// A token is written as a string or as {"content": ..., ...}.
std::optional<std::string> token_text(const OrderedJson& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object() && value.contains("content") && value["content"].is_string())
    return value["content"].get<std::string>();
  return std::nullopt;
}

bool names_a_token(const std::string& key, const OrderedJson& value) {
  return key.ends_with("_token") && !key.starts_with("add_") && token_text(value).has_value();
}

void set_named(TokenizerConfig& config, const std::string& name, std::string text) {
  const auto known = std::find_if(config.named_tokens.begin(), config.named_tokens.end(),
                                  [&](const auto& entry) { return entry.first == name; });
  if (known == config.named_tokens.end()) {
    config.named_tokens.emplace_back(name, std::move(text));
  } else {
    known->second = std::move(text);
  }
}

void read_tokens(TokenizerConfig& config, const OrderedJson& object) {
  for (const auto& [key, value] : object.items()) {
    if (names_a_token(key, value)) set_named(config, key, *token_text(value));
  }
  for (const char* key : {"additional_special_tokens", "extra_special_tokens"}) {
    if (!object.contains(key)) continue;
    const OrderedJson& extra = object[key];
    for (const auto& [name, value] : extra.items()) {
      const std::optional<std::string> text = token_text(value);
      if (!text) continue;
      if (extra.is_object()) {
        set_named(config, name, *text);  // {"image_token": "<image>"}: also a variable of the templates
      } else {
        config.additional_special_tokens.push_back(*text);
      }
    }
  }
}

void read_declared(TokenizerConfig& config, const OrderedJson& object, std::string_view where) {
  if (!object.contains("added_tokens_decoder")) return;
  const OrderedJson& declared = object["added_tokens_decoder"];
  if (!declared.is_object()) throw Error(ErrorCode::bad_config, where, "added_tokens_decoder: expected an object");
  for (const auto& [key, value] : declared.items()) {
    const bool digits = !key.empty() && key.size() <= 9 &&
                        std::all_of(key.begin(), key.end(), [](char c) { return c >= '0' && c <= '9'; });
    const std::optional<std::string> text = token_text(value);
    if (!digits || !text) {
      throw Error(ErrorCode::bad_config, where,
                  cat("added_tokens_decoder: expected ids with a content, got key \"", key, "\""));
    }
    const bool special =
        value.is_object() && value.contains("special") && value["special"].is_boolean() && value["special"].get<bool>();
    config.declared_tokens.push_back({std::stoi(key), *text, special});
  }
}

void set_template(TokenizerConfig& config, const std::string& name, std::string source) {
  for (auto& [known, text] : config.chat_templates) {
    if (known == name) {
      text = std::move(source);
      return;
    }
  }
  config.chat_templates.emplace_back(name, std::move(source));
}

/// A template is a string, or a list of {"name", "template"}.
void read_templates(TokenizerConfig& config, const OrderedJson& object, std::string_view where) {
  if (!object.contains("chat_template") || object["chat_template"].is_null()) return;
  const OrderedJson& value = object["chat_template"];
  if (value.is_string()) {
    set_template(config, "default", value.get<std::string>());
    return;
  }
  if (!value.is_array()) throw Error(ErrorCode::bad_config, where, "chat_template: expected a string or an array");
  for (const OrderedJson& entry : value) {
    const bool whole = entry.is_object() && entry.contains("name") && entry["name"].is_string() &&
                       entry.contains("template") && entry["template"].is_string();
    if (!whole || config.chat_templates.size() >= kMaxTemplates) {
      throw Error(ErrorCode::bad_config, where,
                  cat("chat_template: expected at most ", kMaxTemplates, " of {name, template}"));
    }
    set_template(config, entry["name"].get<std::string>(), entry["template"].get<std::string>());
  }
}

void finish(TokenizerConfig& config) {
  const auto named = [&](std::string_view name) -> std::optional<std::string> {
    for (const auto& [known, text] : config.named_tokens) {
      if (known == name) return text;
    }
    return std::nullopt;
  };
  config.bos_token = named("bos_token");
  config.eos_token = named("eos_token");
  config.pad_token = named("pad_token");
  config.unk_token = named("unk_token");
}

OrderedJson parse_object(std::string_view text, std::string_view where) {
  OrderedJson object = parse_ordered_json(text, where, {.bytes = kMaxConfigBytes});
  if (!object.is_object()) throw Error(ErrorCode::bad_config, where, "expected a JSON object");
  return object;
}

void read_named_templates(TokenizerConfig& config, const std::filesystem::path& directory) {
  const std::filesystem::path folder = directory / "additional_chat_templates";
  std::error_code failed;
  if (!std::filesystem::is_directory(folder, failed)) return;
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".jinja") paths.push_back(entry.path());
    if (paths.size() > kMaxTemplates) {
      throw Error(ErrorCode::bad_config, folder.string(), cat("expected at most ", kMaxTemplates, " templates"));
    }
  }
  std::sort(paths.begin(), paths.end());
  for (const auto& path : paths) {
    if (auto text = read_text_file_if_any(path, kMaxTemplateBytes))
      set_template(config, path.stem().string(), std::move(*text));
  }
}

}  // namespace

TokenizerConfig TokenizerConfig::from_json(std::string_view tokenizer_config, std::string_view special_tokens_map,
                                           std::string_view where) {
  TokenizerConfig config;
  if (!special_tokens_map.empty()) read_tokens(config, parse_object(special_tokens_map, "special_tokens_map.json"));
  if (!tokenizer_config.empty()) {
    const OrderedJson object = parse_object(tokenizer_config, where);
    read_tokens(config, object);
    read_declared(config, object, where);
    read_templates(config, object, where);
    if (object.contains("tokenizer_class") && object["tokenizer_class"].is_string()) {
      config.tokenizer_class = object["tokenizer_class"].get<std::string>();
    }
  }
  finish(config);
  return config;
}

TokenizerConfig TokenizerConfig::load(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "tokenizer_config.json";
  const std::string main = read_text_file_if_any(path, kMaxConfigBytes).value_or("");
  const std::string map = read_text_file_if_any(directory / "special_tokens_map.json", kMaxConfigBytes).value_or("");
  TokenizerConfig config = from_json(main, map, path.string());
  const std::filesystem::path legacy = directory / "chat_template.json";
  const std::filesystem::path jinja = directory / "chat_template.jinja";
  if (auto text = read_text_file_if_any(jinja, kMaxTemplateBytes)) {
    // The file replaces what the config says, named templates included; the folder beside it may bring others.
    config.chat_templates.clear();
    set_template(config, "default", std::move(*text));
  } else if (auto json = read_text_file_if_any(legacy, kMaxConfigBytes)) {
    read_templates(config, parse_object(*json, legacy.string()), legacy.string());
  }
  read_named_templates(config, directory);
  return config;
}

}  // namespace bumblebee::txt
