// Reads the sidecar files of a tokenizer, in the order of precedence that transformers uses.
#include "text/tokenizer_config.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/foreign_file.h"
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

std::optional<bool> flag_at(const OrderedJson& object, const char* key, std::string_view where) {
  if (!object.contains(key) || object[key].is_null()) return std::nullopt;
  if (!object[key].is_boolean()) throw Error(ErrorCode::bad_config, where, cat(key, ": expected true or false"));
  return object[key].get<bool>();
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
  for (const char* key : {"additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens"}) {
    if (!object.contains(key)) continue;
    const OrderedJson& extra = object[key];
    for (const auto& [name, value] : extra.items()) {
      const std::optional<std::string> text = token_text(value);
      if (!text) continue;
      if (extra.is_object()) {
        set_named(config, name, *text);  // {"image_token": "<image>"}: also a variable of the templates
      } else {
        auto& list = config.additional_special_tokens;
        if (std::find(list.begin(), list.end(), *text) == list.end()) list.push_back(*text);
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
    const auto flag = [&](const char* name, bool fallback) {
      return value.is_object() ? flag_at(value, name, where).value_or(fallback) : fallback;
    };
    const bool special = flag("special", false);
    config.declared_tokens.push_back({.id = std::stoi(key),
                                      .text = *text,
                                      .special = special,
                                      .single_word = flag("single_word", false),
                                      .lstrip = flag("lstrip", false),
                                      .rstrip = flag("rstrip", false),
                                      .normalized = flag("normalized", !special)});
  }
}

void set_template(TokenizerConfig& config, const std::string& name, std::string source) {
  if (const std::string what = foreign_content(source); !what.empty())
    throw Error(ErrorCode::bad_file, cat("chat template ", name), what);
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
  if (value.is_object()) {
    OrderedJson list = OrderedJson::array();
    for (const auto& [name, source] : value.items()) list.push_back({{"name", name}, {"template", source}});
    return read_templates(config, {{"chat_template", list}}, where);
  }
  if (!value.is_array())
    throw Error(ErrorCode::bad_config, where, "chat_template: expected a string, an array or an object");
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

/// Settings that make other ids or prompts in the programs that read them, and are not done here.
void refuse_foreign(const OrderedJson& object, std::string_view where) {
  const auto refuse = [&](const char* key, const char* why) {
    throw Error(ErrorCode::unsupported, where, cat("'", key, "': ", why));
  };
  if (flag_at(object, "split_special_tokens", where).value_or(false))
    refuse("split_special_tokens", "expected false: control tokens of a template would be spelled in letters");
  if (flag_at(object, "fix_mistral_regex", where).value_or(false))
    refuse("fix_mistral_regex", "expected false: save tokenizer.json with the corrected pattern instead");
  if (object.contains("chat_template_type") && !object["chat_template_type"].is_null())
    refuse("chat_template_type", "a template that is Python code of mlx-lm cannot be rendered");
  if (object.contains("tokenizer_class") && object["tokenizer_class"] == "NewlineTokenizer")
    refuse("tokenizer_class", "mlx-lm's NewlineTokenizer, which writes <n> for line ends, is not implemented");
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
  const OrderedJson map =
      special_tokens_map.empty() ? OrderedJson::object() : parse_object(special_tokens_map, "special_tokens_map.json");
  read_tokens(config, map);
  if (!tokenizer_config.empty()) {
    const OrderedJson object = parse_object(tokenizer_config, where);
    refuse_foreign(object, where);
    read_tokens(config, object);
    // A config without it is of the time when the map was the one that was kept.
    if (!object.contains("added_tokens_decoder")) read_tokens(config, map);
    read_declared(config, object, where);
    read_templates(config, object, where);
    config.add_prefix_space = flag_at(object, "add_prefix_space", where);
    config.add_bos_token = flag_at(object, "add_bos_token", where);
    config.add_eos_token = flag_at(object, "add_eos_token", where);
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
