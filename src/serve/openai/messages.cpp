// Conversations and tools: read from OpenAI's form into what chat templates expect.
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cctype>

#include "base/error.h"
#include "base/json.h"
#include "serve/openai/errors.h"
#include "serve/openai/field_reader.h"

namespace bumblebee::serve {
namespace {

constexpr size_t kMessages = 8192, kParts = 1024, kCalls = 128, kTools = 128, kToolNameBytes = 64, kIdBytes = 256;

/// Members that clients send back as they got them. They say nothing to a template.
constexpr std::string_view kEchoed[] = {"refusal", "annotations", "audio", "function_call", "finish_reason", "index"};
constexpr std::string_view kRead[] = {"role",         "content",           "name",     "tool_calls",
                                      "tool_call_id", "reasoning_content", "reasoning"};

[[noreturn]] void refuse_content(const JsonIn& part, std::string_view what) {
  throw ApiError(Refusal::unsupported_content, cat(part.path(), ": expected a text part, got ", what), part.path());
}

/// Text parts become one text, a line each.
std::string read_parts(const JsonIn& content) {
  std::string text;
  content.array(0, kParts);
  for (size_t i = 0; i < content.size(); ++i) {
    const JsonIn part = content.at(i);
    const JsonIn type = part.object()["type"];
    if (type.is_null()) type.missing("\"text\"");
    const std::string& name = type.string();
    const bool refusal = name == "refusal";
    if (name != "text" && !refusal) refuse_content(part, shown(*type));
    const JsonIn piece = part[refusal ? "refusal" : "text"];
    if (piece.is_null()) piece.missing("a string");
    if (i > 0) text += '\n';
    text += piece.string();
  }
  return text;
}

/// A JSON string that holds an object, as OpenAI has it. Templates write arguments as JSON: a string would be encoded
/// twice. What is no object, or cannot be written again as it is, stays a string: a model may have written it.
OrderedJson read_arguments(const JsonIn& arguments) {
  if (arguments.is_object()) return *arguments;
  const std::string& text = arguments.string();
  if (text.empty()) return OrderedJson::object();
  try {
    return read_exact(text);
  } catch (const ApiError&) {
    return text;
  }
}

OrderedJson read_calls(const JsonIn& calls) {
  OrderedJson out = OrderedJson::array();
  calls.array(0, kCalls);
  for (size_t i = 0; i < calls.size(); ++i) {
    const JsonIn call = calls.at(i);
    const JsonIn type = call.object()["type"];
    if (!type.is_null() && type.string() != "function") type.out_of_range("\"function\"");
    const JsonIn function = call["function"];
    if (function.is_null()) function.missing("an object");
    const JsonIn name = function.object()["name"], arguments = function["arguments"], id = call["id"];
    if (name.is_null()) name.missing("a function's name");
    OrderedJson made = OrderedJson::object();
    if (!id.is_null()) made["id"] = id.string(kIdBytes);
    made["type"] = "function";
    made["function"]["name"] = name.string(kIdBytes);
    made["function"]["arguments"] = arguments.is_null() ? OrderedJson::object() : read_arguments(arguments);
    out.push_back(std::move(made));
  }
  return out;
}

std::string read_role(const JsonIn& role, const Draft& draft) {
  if (role.is_null()) role.missing("a role");
  const std::string& name = role.string();
  if (name == "developer") return draft.rules.developer_role ? "developer" : "system";
  if (name == "function") {
    throw ApiError(Refusal::unsupported_parameter, cat(role.path(), ": \"function\" is not supported. Use \"tool\""),
                   role.path());
  }
  if (name != "system" && name != "user" && name != "assistant" && name != "tool") {
    role.out_of_range("system, developer, user, assistant or tool");
  }
  return name;
}

Message read_message(const JsonIn& in, Draft& draft) {
  Message message;
  message.role = read_role(in.object()["role"], draft);
  OrderedJson whole = OrderedJson::object();
  whole["role"] = message.role;

  const bool assistant = message.role == "assistant";
  const JsonIn calls = in["tool_calls"], content = in["content"];
  if (!calls.is_null() && !assistant) calls.out_of_range("no calls in a message of this role");
  OrderedJson made_calls = calls.is_null() ? OrderedJson::array() : read_calls(calls);
  if (content.is_array()) {
    message.content = read_parts(content);
  } else if (content.is_string()) {
    message.content = content.string();
  } else if (!content.is_null()) {
    content.expected("a string, null, or an array of text parts");
  } else if (!assistant) {
    content.missing("a string, or an array of text parts");
  }
  // Some templates ask whether a message that calls has no content, rather than an empty one.
  const bool null = content.is_null() && !made_calls.empty() && draft.rules.null_content;
  whole["content"] = null ? OrderedJson() : OrderedJson(message.content);

  for (const char* key : {"name", "tool_call_id"}) {
    if (const JsonIn value = in[key]; !value.is_null()) whole[key] = value.string(kIdBytes);
  }
  JsonIn thought = in["reasoning_content"];
  const JsonIn other = in["reasoning"];
  if (const JsonIn& given = thought.is_null() ? other : thought; !given.is_null()) {
    // Templates know it under either name.
    whole["reasoning_content"] = given.string();
    whole["reasoning"] = given.string();
  }
  // What was said before a call stays out where the template takes that or the thought, not both.
  const bool thinks = whole.contains("reasoning") && !whole["reasoning"].get_ref<const std::string&>().empty();
  if (thinks && !made_calls.empty() && !draft.rules.thought_beside_content) whole["content"] = "";
  if (!made_calls.empty()) whole["tool_calls"] = std::move(made_calls);
  if (whole.size() > 2 || whole["content"].is_null()) message.json = whole.dump();

  for (const auto& [key, value] : in->items()) {
    const auto is = [&key = key](std::string_view name) { return name == key; };
    if (value.is_null() || std::any_of(std::begin(kRead), std::end(kRead), is)) continue;
    if (std::none_of(std::begin(kEchoed), std::end(kEchoed), is)) draft.ignore("messages[]." + key);
  }
  return message;
}

/// Whether a schema takes the type: `type` is one name or several, and may stand in alternatives.
bool takes(const OrderedJson& schema, std::string_view type) {
  if (!schema.is_object()) return false;
  if (const auto said = schema.find("type"); said != schema.end()) {
    if (*said == type || (said->is_array() && std::find(said->begin(), said->end(), type) != said->end())) return true;
  }
  for (const char* key : {"anyOf", "oneOf"}) {
    const auto list = schema.find(key);
    if (list == schema.end() || !list->is_array()) continue;
    const auto one = [type](const OrderedJson& part) {
      return part.is_object() && part.value("type", OrderedJson()) == type;
    };
    if (std::any_of(list->begin(), list->end(), one)) return true;
  }
  return false;
}

void note_texts(const std::string& tool, const OrderedJson& schema, Draft& draft) {
  const auto properties = schema.find("properties");
  if (properties == schema.end() || !properties->is_object()) return;
  for (const auto& [name, value] : properties->items()) {
    if (takes(value, "string")) draft.text_parameters[tool][name] = takes(value, "null");
  }
}

/// Other types than functions are skipped: agents send what their own service has.
void read_tool(const JsonIn& tool, OrderedJson& out, Draft& draft) {
  const JsonIn type = tool.object()["type"];
  if (type.is_null()) type.missing("\"function\"");
  if (type.string() != "function") {
    draft.ignore(tool.path());
    return;
  }
  const JsonIn function = tool["function"];
  if (function.is_null()) function.missing("an object");
  const JsonIn name = function.object()["name"], strict = function["strict"];
  if (name.is_null()) name.missing("a name");
  const std::string& text = name.string();
  const auto is_plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' ||
           c == '.';
  };
  if (text.empty() || text.size() > kToolNameBytes || !std::all_of(text.begin(), text.end(), is_plain)) {
    name.out_of_range(cat("a name: 1 to ", kToolNameBytes, " of A-Z a-z 0-9 . _ -"));
  }
  if (std::find(draft.tool_names.begin(), draft.tool_names.end(), text) != draft.tool_names.end()) {
    name.out_of_range("every name once");
  }
  if (!strict.is_null() && strict.boolean()) {
    throw ApiError(
        Refusal::unsupported_parameter,
        cat(strict.path(), ": not implemented yet, and arguments that only may follow the schema would be wrong"),
        strict.path());
  }
  if (const JsonIn about = function["description"]; !about.is_null()) about.string();
  if (const JsonIn schema = function["parameters"]; !schema.is_null()) note_texts(text, *schema.object(), draft);
  draft.tool_names.push_back(text);
  OrderedJson made = *tool;
  made["function"].erase("strict");  // says something to the server, nothing to the model
  out.push_back(std::move(made));
}

void read_tool_choice(const JsonIn& value, Draft& draft) {
  if (value.is_string()) {
    const std::string& choice = value.string();
    if (choice == "auto" || choice == "none") {
      draft.use_tools = choice == "auto";
      return;
    }
    if (choice != "required") value.out_of_range("none or auto");
  } else if (!value.is_object()) {
    value.expected("none or auto");
  }
  throw ApiError(Refusal::unsupported_parameter,
                 "tool_choice: only none and auto are implemented yet, and an answer without the call would be wrong",
                 "tool_choice");
}

/// Those that clients send to every model are taken by every template; others where it reads them.
void read_kwargs(const JsonIn& value, Draft& draft) {
  constexpr std::string_view kOurs[] = {"messages", "tools", "documents", "add_generation_prompt", "strftime_now"};
  for (const auto& [key, json] : value.object()->items()) {
    const JsonIn in = value.member(key, json);
    if (key == "enable_thinking" || key == "thinking" || key == "preserve_thinking") {
      if (!in.is_null()) draft.kwargs[key] = in.boolean();
    } else if (key == "reasoning_effort") {
      if (!in.is_null()) draft.kwargs[key] = in.string(32);
    } else if (std::find(std::begin(kOurs), std::end(kOurs), key) != std::end(kOurs) || key.ends_with("_token")) {
      throw ApiError(Refusal::invalid_value, cat(in.path(), ": expected no variable that the server itself sets"),
                     in.path());
    } else if (!reads_variable(draft.rules.chat_template, key)) {
      throw ApiError(Refusal::invalid_value,
                     cat(in.path(), ": expected a variable that the model's chat template reads"), in.path());
    } else if (!in.is_null()) {
      draft.kwargs[key] = json;
    }
  }
}

void read_effort(const JsonIn& value, Draft& draft) {
  constexpr std::string_view kEfforts[] = {"none", "minimal", "low", "medium", "high", "xhigh", "max"};
  const std::string& effort = value.string();
  if (std::find(std::begin(kEfforts), std::end(kEfforts), effort) == std::end(kEfforts)) {
    value.out_of_range("none, minimal, low, medium, high, xhigh or max");
  }
  draft.effort = effort;
}

void read_messages(const JsonIn& value, Draft& draft) {
  value.array(1, kMessages);
  draft.messages.reserve(value.size());
  for (size_t i = 0; i < value.size(); ++i) draft.messages.push_back(read_message(value.at(i), draft));
}

void read_tools(const JsonIn& value, Draft& draft) {
  OrderedJson tools = OrderedJson::array();
  value.array(0, kTools);
  for (size_t i = 0; i < value.size(); ++i) read_tool(value.at(i), tools, draft);
  if (!tools.empty()) draft.tools = tools.dump();
}

/// With blanks after commas and colons, as models have seen JSON that Python wrote.
std::string spaced(const OrderedJson& json) {
  std::string out;
  bool quoted = false, escaped = false;
  for (const char c : json.dump()) {
    out += c;
    if (!quoted && (c == ',' || c == ':')) out += ' ';
    if (c == '"' && !escaped) quoted = !quoted;
    escaped = c == '\\' && !escaped;
  }
  return out;
}

/// The functions as text in the system message's `tools`; there will be one.
void put_tools_into_message(Draft& draft) {
  OrderedJson functions = OrderedJson::array();
  for (const OrderedJson& tool : parse_ordered_json(draft.tools, "tools")) functions.push_back(tool["function"]);
  if (draft.messages.empty() || draft.messages.front().role != "system")
    draft.messages.insert(draft.messages.begin(), Message{.role = "system", .content = "", .json = ""});
  Message& system = draft.messages.front();
  OrderedJson whole = system.json.empty() ? OrderedJson{{"role", system.role}, {"content", system.content}}
                                          : parse_ordered_json(system.json, "messages");
  whole["tools"] = spaced(functions);
  system.json = whole.dump();
}

}  // namespace

bool has_developer_role(std::string_view chat_template) {
  return chat_template.find("'developer'") != chat_template.npos ||
         chat_template.find("\"developer\"") != chat_template.npos;
}

bool reads_variable(std::string_view chat_template, std::string_view name) {
  const auto in_word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; };
  bool in_tag = false;
  char last = ' ';  // that is no blank
  for (size_t at = 0; at < chat_template.size();) {
    const std::string_view rest = chat_template.substr(at);
    if (!in_tag) {
      in_tag = rest.starts_with("{{") || rest.starts_with("{%");
      const size_t end = rest.starts_with("{#") ? rest.find("#}") : 0;
      at = end == rest.npos ? chat_template.size() : at + std::max(end, size_t(in_tag ? 2 : 1));
      last = ' ';
    } else if (rest.starts_with("}}") || rest.starts_with("%}")) {
      in_tag = false;
      at += 2;
    } else if (rest.front() == '\'' || rest.front() == '"') {
      size_t end = 1;
      while (end < rest.size() && rest[end] != rest.front()) end += rest[end] == '\\' ? 2 : 1;
      at += end + 1;
      last = '\'';
    } else if (in_word(rest.front())) {
      const size_t end = size_t(std::find_if_not(rest.begin(), rest.end(), in_word) - rest.begin());
      if (last != '.' && rest.substr(0, end) == name) return true;
      at += end;
      last = 'a';
    } else {
      if (!std::isspace(static_cast<unsigned char>(rest.front()))) last = rest.front();
      ++at;
    }
  }
  return false;
}

std::vector<FieldReader> template_fields() {
  using enum FieldUse;
  return {
      {{"messages", accepted,
        "1 to 8,192. Content is a string or text parts, of the assistant also null. `developer` is `system` where the "
        "template has none; `reasoning_content` and `reasoning` are the same"},
       read_messages},
      {{"tools", accepted,
        "At most 128 functions with names of 1 to 64 bytes; other types are skipped; `strict` true: not yet. Refused "
        "where the template shows none"},
       read_tools},
      {{"tool_choice", accepted, "`none` leaves the tools out; `auto`; `required` and a name: not yet"},
       read_tool_choice},
      {{"chat_template_kwargs", accepted,
        "`enable_thinking`, `thinking`, `preserve_thinking`, `reasoning_effort`, and what else the template reads; no "
        "others"},
       read_kwargs},
      {{"reasoning_effort", accepted,
        "`none`: no thinking, where the template can do without; others go to the template"},
       read_effort},
      {{"add_generation_prompt", accepted, "false: the last message goes on, as far as the template has it open"},
       [](const JsonIn& v, Draft& d) { d.add_generation_prompt = v.boolean(); }},
      {{"continue_final_message", later, ""}},
      {{"chat_template", refused, "The template is the model's"}},
      {{"documents", refused, ""}, nullptr, is_empty},
  };
}

ChatOptions chat_options(Draft& draft) {
  ChatOptions options;
  OrderedJson kwargs = OrderedJson::object();
  if (draft.effort == "none") {
    kwargs["enable_thinking"] = false;
    kwargs["thinking"] = false;
  } else if (draft.effort) {
    kwargs["reasoning_effort"] = *draft.effort;
  }
  kwargs.update(draft.kwargs);  // which say it more exactly
  if (!kwargs.empty()) options.template_kwargs = kwargs.dump();
  if (draft.use_tools && !draft.tools.empty()) {
    if (!draft.rules.shows_tools) {
      throw ApiError(Refusal::unsupported_parameter,
                     "tools: the model's chat template has no place for them, so it would not see them", "tools");
    }
    if (draft.rules.tools_in_message && !draft.messages.empty()) {
      put_tools_into_message(draft);
    } else {
      options.tools = draft.tools;
    }
  }
  options.add_generation_prompt = draft.add_generation_prompt;
  return options;
}

}  // namespace bumblebee::serve
