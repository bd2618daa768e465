// The variables of huggingface_hub, with its order and its idea of true.
#include "hub/settings.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "base/ascii.h"
#include "base/error.h"
#include "base/mapped_file.h"
#include "hub/http.h"
#include "hub/names.h"

namespace fs = std::filesystem;

namespace bumblebee::hub {
std::string environment(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  return value == nullptr ? "" : value;
}

namespace {

std::string first_of(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (std::string value = environment(name); !value.empty()) return value;
  }
  return "";
}

bool is_true(const std::string& value) {
  const std::string word = fold_case(value);
  return word == "1" || word == "on" || word == "yes" || word == "true";
}

fs::path home() {
  const std::string value = environment("HOME");
  return value.empty() ? fs::path(".") : fs::path(value);
}

bool of_name(char c) { return c == '_' || std::isalnum(static_cast<unsigned char>(c)) != 0; }

/// $NAME and ${NAME}; what is not set stays as it is, as in Python's expandvars.
std::string expand_variables(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const bool braces = text.compare(i, 2, "${") == 0;
    const size_t start = i + (braces ? 2 : 1);
    size_t end = start;
    while (text[i] == '$' && end < text.size() && of_name(text[end])) ++end;
    const bool closed = !braces || (end < text.size() && text[end] == '}');
    const char* value = end > start && closed ? std::getenv(text.substr(start, end - start).c_str()) : nullptr;
    if (value == nullptr) {
      out += text[i++];
      continue;
    }
    out += value;
    i = end + (braces ? 1 : 0);
  }
  return out;
}

fs::path expand(const fs::path& path) {
  const std::string text = expand_variables(path.string());
  if (text == "~") return home();
  return text.starts_with("~/") ? home() / text.substr(2) : fs::path(text);
}

fs::path hugging_face_home() {
  if (const std::string value = environment("HF_HOME"); !value.empty()) return expand(value);
  if (const std::string value = environment("XDG_CACHE_HOME"); !value.empty()) return expand(value) / "huggingface";
  return home() / ".cache" / "huggingface";
}

std::string find_token() {
  if (is_true(environment("HF_HUB_DISABLE_IMPLICIT_TOKEN"))) return "";
  std::string token(trimmed(first_of({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"})));
  std::string where = "HF_TOKEN";
  if (token.empty()) {
    const std::string chosen = environment("HF_TOKEN_PATH");
    const fs::path file = chosen.empty() ? hugging_face_home() / "token" : expand(chosen);
    std::error_code ignored;
    if (!fs::is_regular_file(file, ignored)) return "";
    token = trimmed(read_text_file(file, 65536));
    where = file.string();
  }
  // It becomes part of a header: a line break in it would add headers of its own.
  if (!std::all_of(token.begin(), token.end(), [](char c) { return c > 0x20 && c < 0x7F; }))
    throw Error(ErrorCode::bad_request, where, "expected a token of printable ASCII characters");
  return token;
}

Milliseconds seconds(const char* name, Milliseconds otherwise) {
  const std::string text(trimmed(environment(name)));
  if (text.empty()) return otherwise;
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= 0 && value <= 86400))
    throw Error(ErrorCode::bad_request, name, cat("expected seconds from 0 to 86400, got '", text.substr(0, 60), "'"));
  return Milliseconds(std::llround(value * 1000));
}

/// 0 seconds is what huggingface_hub reads as "the default".
Milliseconds timeout(const char* name, Milliseconds otherwise) {
  const Milliseconds value = seconds(name, otherwise);
  return value.count() == 0 ? otherwise : value;
}

std::string find_endpoint(const std::string& otherwise) {
  std::string endpoint(trimmed(environment("HF_ENDPOINT")));
  if (endpoint.empty()) return otherwise;
  while (endpoint.ends_with('/')) endpoint.pop_back();
  if (origin_of(endpoint).empty())
    throw Error(ErrorCode::bad_request, "HF_ENDPOINT",
                cat("expected a URL with http:// or https://, got '", endpoint.substr(0, 200), "'"));
  return endpoint;
}

}  // namespace

fs::path cache_directory(const fs::path& chosen) {
  if (!chosen.empty()) return expand(chosen);
  if (const std::string value = first_of({"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"}); !value.empty())
    return expand(value);
  return hugging_face_home() / "hub";
}

Settings settings_from_environment() {
  Settings settings;
  settings.endpoint = find_endpoint(settings.endpoint);
  settings.token = find_token();
  settings.cache = cache_directory();
  settings.offline = is_true(first_of({"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"}));
  settings.symlinks = !is_true(environment("HF_HUB_DISABLE_SYMLINKS"));
  settings.api_timeout = timeout("HF_HUB_ETAG_TIMEOUT", settings.api_timeout);
  settings.download_timeout = timeout("HF_HUB_DOWNLOAD_TIMEOUT", settings.download_timeout);
  settings.retry.first_wait = seconds("BUMBLEBEE_HUB_BACKOFF", settings.retry.first_wait);
  settings.retry.longest_wait = std::max(settings.retry.longest_wait, settings.retry.first_wait);
  return settings;
}

}  // namespace bumblebee::hub
