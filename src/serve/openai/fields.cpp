// Reading by table, and the tables as documentation.
#include "serve/openai/fields.h"

#include <nlohmann/json.hpp>

#include <algorithm>

#include "base/error.h"
#include "serve/openai/errors.h"
#include "serve/openai/field_reader.h"

namespace bumblebee::serve {
namespace {

constexpr size_t kIgnoredNames = 20, kIgnoredBytes = 64;

const FieldReader* find(const std::vector<FieldReader>& readers, std::string_view name) {
  const auto it = std::find_if(readers.begin(), readers.end(), [&](const auto& r) { return r.field.name == name; });
  return it == readers.end() ? nullptr : &*it;
}

/// Sends a body that is another endpoint's there.
void check_endpoint(const OrderedJson& body, Endpoint endpoint) {
  const auto has = [&](const char* name) { return body.contains(name) && !body[name].is_null(); };
  const auto refuse = [](const char* field, const char* what, const char* path) {
    throw ApiError(Refusal::wrong_endpoint, cat("this is a ", what, " request: POST it to ", path), field);
  };
  if (endpoint == Endpoint::chat && !has("messages")) {
    if (has("input")) refuse("input", "Responses", "/v1/responses");
    if (has("prompt")) refuse("prompt", "completions", "/v1/completions");
  }
  if (endpoint == Endpoint::completions && !has("prompt") && has("messages")) {
    refuse("messages", "chat completions", "/v1/chat/completions");
  }
}

void add_columns(FieldUse use, std::string& out) {
  switch (use) {
    case FieldUse::accepted: out += "accepted"; break;
    case FieldUse::ignored: out += "ignored"; break;
    case FieldUse::refused: out += "refused"; break;
    case FieldUse::later: out += "not yet"; break;
  }
}

}  // namespace

bool is_off(const OrderedJson& value) {
  return value.is_null() || (value.is_boolean() && !value.get<bool>()) ||
         (value.is_string() && value.get_ref<const std::string&>().empty());
}

bool is_empty(const OrderedJson& value) { return is_off(value) || (value.is_structured() && value.empty()); }

void Draft::ignore(const std::string& path) {
  std::string name = path.substr(0, kIgnoredBytes);
  if (rules.strict) throw ApiError(Refusal::unknown_field, cat(name, ": not known here"), name);
  // It goes into a header, as one of several.
  for (char& c : name) {
    if (c <= ' ' || c > '~' || c == ',' || c == '"') c = '?';
  }
  auto& ignored = request.ignored;
  if (ignored.size() < kIgnoredNames && std::find(ignored.begin(), ignored.end(), name) == ignored.end()) {
    ignored.push_back(std::move(name));
  }
}

void read_fields(const OrderedJson& body, Endpoint endpoint, Draft& draft) {
  check_endpoint(body, endpoint);
  const std::vector<FieldReader>& readers = readers_of(endpoint);
  const JsonIn whole(body);
  for (const auto& [name, json] : body.items()) {
    const FieldReader* reader = find(readers, name);
    if (reader == nullptr) {
      draft.ignore(name);
      continue;
    }
    const JsonIn value = whole.member(name, json);
    switch (reader->field.use) {
      case FieldUse::accepted:
        if (!json.is_null()) reader->read(value, draft);
        break;
      case FieldUse::ignored: break;
      case FieldUse::refused:
      case FieldUse::later:
        if (json.is_null() || reader->off(json)) break;
        throw ApiError(Refusal::unsupported_parameter,
                       cat(name, reader->field.use == FieldUse::later ? ": not implemented yet" : ": not supported",
                           reader->field.about.empty() ? "" : ". ", reader->field.about),
                       name);
    }
  }
}

std::vector<Field> fields_of(Endpoint endpoint) {
  std::vector<Field> fields;
  for (const FieldReader& reader : readers_of(endpoint)) fields.push_back(reader.field);
  return fields;
}

std::string_view path_of(Endpoint endpoint) {
  switch (endpoint) {
    case Endpoint::chat: return "/v1/chat/completions";
    case Endpoint::completions: return "/v1/completions";
    case Endpoint::tokenize: return "/tokenize";
    case Endpoint::detokenize: return "/detokenize";
    case Endpoint::apply_template: return "/apply-template";
    case Endpoint::load_adapter: return "/v1/load_lora_adapter";
    case Endpoint::unload_adapter: return "/v1/unload_lora_adapter";
  }
  BB_UNREACHABLE();
}

std::string field_table(Endpoint endpoint) {
  std::string out = "| field | | |\n|---|---|---|\n";
  for (const FieldUse use : {FieldUse::accepted, FieldUse::ignored, FieldUse::refused, FieldUse::later}) {
    for (const Field& field : fields_of(endpoint)) {
      if (field.use != use) continue;
      out += cat("| `", field.name, "` | ");
      add_columns(use, out);
      out += cat(" | ", field.about, " |\n");
    }
  }
  return out;
}

}  // namespace bumblebee::serve
