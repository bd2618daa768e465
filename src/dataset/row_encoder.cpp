// Checks a row, renders it and finds its mask.
#include "dataset/row_encoder.h"

#include <nlohmann/json.hpp>

#include <algorithm>

#include "base/error.h"

namespace bumblebee::dataset {
namespace {

[[noreturn]] void broken(std::string_view where, const std::string& what) {
  throw Error(ErrorCode::bad_file, where, what);
}

std::string short_form(const OrderedJson& value) {
  std::string text = value.dump(-1, ' ', true, OrderedJson::error_handler_t::replace);
  return text.size() > 60 ? text.substr(0, 57) + "..." : text;
}

std::string dump(const OrderedJson& value) { return value.dump(-1, ' ', false, OrderedJson::error_handler_t::replace); }

const std::string& text_of(const OrderedJson& row, const std::string& key, std::string_view where) {
  const auto value = row.find(key);
  if (value == row.end()) broken(where, cat("missing key '", key, "', which the first row has"));
  if (!value->is_string()) broken(where, cat("'", key, "': expected a string, got ", short_form(*value)));
  return value->get_ref<const std::string&>();
}

/// NaN and Infinity are read as tagged objects (base/json.h); as part of a prompt they would be another text than
/// Python's. In columns that nobody learns from they are nothing to complain of.
void refuse_no_numbers(const std::string& json, std::string_view where) {
  if (json.find("\"__float__\"") != std::string::npos)
    broken(where, "NaN or Infinity in a message or a tool: expected a number that JSON has");
}

bool has_calls(const OrderedJson& message) {
  const auto calls = message.find("tool_calls");
  return calls != message.end() && calls->is_array() && !calls->empty();
}

/// Nothing is said in a turn. A tool, a user or a system prompt may well say nothing; in the last turn, which is
/// learned, it is a gap in the data.
bool is_empty(const OrderedJson& message) {
  const auto content = message.find("content");
  return !has_calls(message) && content != message.end() && content->is_string() &&
         blank(content->get_ref<const std::string&>());
}

/// Data sets whose columns must have one type keep tools and calls as text that holds a JSON list.
OrderedJson list_in_text(const OrderedJson& value, std::string_view where) {
  if (!value.is_string() || !value.get_ref<const std::string&>().starts_with('[')) return value;
  return parse_ordered_json(value.get_ref<const std::string&>(), where);
}

void check_message(const OrderedJson& message, size_t index, std::string_view where) {
  const std::string name = cat("message ", index + 1);
  if (!message.is_object()) broken(where, cat(name, ": expected an object, got ", short_form(message)));
  const auto role = message.find("role");
  if (role == message.end() || !role->is_string() || blank(role->get_ref<const std::string&>()))
    broken(where, cat(name, ": expected a 'role' that is text"));
  const auto content = message.find("content");
  if (content == message.end() || content->is_null()) {
    if (!has_calls(message)) broken(where, cat(name, " (", role->get<std::string>(), "): missing 'content'"));
    return;
  }
  if (content->is_array())
    throw Error(ErrorCode::unsupported, where, cat(name, ": content in parts; expected one string"));
  if (!content->is_string()) broken(where, cat(name, ": 'content': expected a string, got ", short_form(*content)));
}

}  // namespace

DataFormat RowEncoder::detect(const OrderedJson& row, std::string_view where) const {
  if (!row.is_object()) broken(where, cat("expected a JSON object, got ", short_form(row)));
  if (row.contains(data_.prompt_feature) && row.contains(data_.completion_feature)) return DataFormat::completions;
  if (row.contains(data_.chat_feature)) return DataFormat::chat;
  if (row.contains(data_.text_feature)) return DataFormat::text;
  std::string keys;
  for (const auto& [key, value] : row.items()) keys += cat(keys.empty() ? "'" : ", '", key.substr(0, 40), "'");
  throw Error(ErrorCode::bad_config, where,
              cat("no format of data fits: expected '", data_.prompt_feature, "' and '", data_.completion_feature,
                  "', '", data_.chat_feature, "', or '", data_.text_feature, "', got ",
                  keys.empty() ? "no keys" : keys.substr(0, 300)));
}

DataRow RowEncoder::encode(const OrderedJson& row, DataFormat format, std::string_view where) const {
  if (!row.is_object()) broken(where, cat("expected a JSON object, got ", short_form(row)));
  if (format == DataFormat::text) return encode_text(row, where);
  const auto found = row.find("tools");
  const OrderedJson tools = found == row.end() ? OrderedJson() : list_in_text(*found, where);
  const OrderedJson* given = tools.is_null() ? nullptr : &tools;
  if (given && !given->is_array()) broken(where, cat("'tools': expected an array, got ", short_form(*given)));
  if (format == DataFormat::completions) {
    return encode_chat({{{"role", "user"}, {"content", text_of(row, data_.prompt_feature, where)}},
                        {{"role", "assistant"}, {"content", text_of(row, data_.completion_feature, where)}}},
                       given, where);
  }
  const auto messages = row.find(data_.chat_feature);
  if (messages == row.end()) broken(where, cat("missing key '", data_.chat_feature, "', which the first row has"));
  if (!messages->is_array() || messages->empty())
    broken(where, cat("'", data_.chat_feature, "': expected a list of messages, got ", short_form(*messages)));
  OrderedJson turns = *messages;
  for (size_t i = 0; i < turns.size(); ++i) {
    const auto calls = turns[i].is_object() ? turns[i].find("tool_calls") : turns[i].end();
    if (calls != turns[i].end()) *calls = list_in_text(*calls, where);
    check_message(turns[i], i, where);
  }
  return encode_chat(turns, given, where);
}

LearnedText RowEncoder::learned(const OrderedJson& row, DataFormat format) const {
  const auto text_in = [](const OrderedJson& object, const std::string& key) {
    const auto found = object.find(key);
    return found == object.end() || !found->is_string() ? std::string() : found->get<std::string>();
  };
  if (format == DataFormat::text) return {{}, text_in(row, data_.text_feature)};
  if (format == DataFormat::completions)
    return {{{"user", text_in(row, data_.prompt_feature)}}, text_in(row, data_.completion_feature)};
  LearnedText out;
  const auto messages = row.find(data_.chat_feature);
  if (messages == row.end() || !messages->is_array()) return out;
  for (const OrderedJson& message : *messages)
    if (message.is_object()) out.before.emplace_back(text_in(message, "role"), text_in(message, "content"));
  if (out.before.empty()) return out;
  out.text = std::move(out.before.back().second);
  out.before.pop_back();
  return out;
}

DataRow RowEncoder::encode_text(const OrderedJson& row, std::string_view where) const {
  if (data_.mask_prompt)
    throw Error(ErrorCode::bad_config, where, "text rows have no prompt that mask_prompt could leave out");
  const std::optional<int32_t> eos = tokenizer_.eos_id();
  if (!eos) throw Error(ErrorCode::unsupported, where, "the tokenizer names no token that ends a text (eos_token)");
  DataRow out;
  // Whoever prepared a text may have spelled control tokens in it, as a template would; mlx-lm reads them so.
  const std::string& text = text_of(row, data_.text_feature, where);
  out.empty = text.empty();
  out.tokens = tokenizer_.encode(text, {.control = txt::ControlTokens::parse});
  const std::optional<int32_t> bos = tokenizer_.bos_id();
  if (bos && out.tokens.size() > 1 && out.tokens[0] == *bos && out.tokens[1] == *bos) {
    // mlx-lm learns both; no other text of the model's begins so.
    const auto bare = tokenizer_.encode(text, {.add_special_tokens = false, .control = txt::ControlTokens::parse});
    out.began_twice = bare.size() < out.tokens.size();
    if (out.began_twice) out.tokens.erase(out.tokens.begin());
  }
  if (out.tokens.empty() || out.tokens.back() != *eos) out.tokens.push_back(*eos);
  return out;
}

std::vector<int32_t> RowEncoder::render(const OrderedJson& messages, const std::string& tools, std::string_view kwargs,
                                        bool generation_prompt, std::string_view where) const {
  try {
    const std::string text = dump(messages);
    return tokenizer_.encode(chat_->render({.messages_json = text,
                                            .tools_json = tools,
                                            .kwargs_json = kwargs,
                                            .add_generation_prompt = generation_prompt,
                                            .now = now_}));
  } catch (const Error& error) {
    throw Error(error.code() == ErrorCode::bad_request ? ErrorCode::bad_file : error.code(), where, error.what());
  }
}

DataRow RowEncoder::encode_chat(const OrderedJson& messages, const OrderedJson* tools, std::string_view where) const {
  if (!chat_) {
    throw Error(ErrorCode::unsupported, where,
                "the model has no chat template; only rows of text can be learned with it");
  }
  const std::string tools_json = tools ? dump(*tools) : std::string();
  refuse_no_numbers(tools_json, where);
  refuse_no_numbers(dump(messages), where);
  DataRow out;
  out.tokens = render(messages, tools_json, {}, false, where);
  if (out.tokens.size() < 2) broken(where, "the template makes fewer than two tokens of the conversation");
  if (data_.mask_prompt) {
    out.empty = is_empty(messages.back());
    out.first_scored =
        out.empty ? int32_t(out.tokens.size()) : std::max(1, masked(messages, tools_json, out.tokens, where));
  }
  return out;
}

int32_t RowEncoder::masked(const OrderedJson& messages, const std::string& tools, const std::vector<int32_t>& tokens,
                           std::string_view where) const {
  OrderedJson context = messages;
  context.erase(context.size() - 1);
  if (context.empty()) broken(where, "mask_prompt leaves out what precedes the last message, but there is only one");
  const bool answers = messages.back()["role"] == "assistant";
  // Templates of models that think (Qwen3) put an empty block of thoughts before an answer without any. Who asks with
  // enable_thinking=false has that block in the prompt, so it is not to be learned either.
  for (const char* kwargs : {R"({"enable_thinking": false})", ""}) {
    const std::vector<int32_t> prompt = render(context, tools, kwargs, answers, where);
    const bool prefix = prompt.size() <= tokens.size() && std::equal(prompt.begin(), prompt.end(), tokens.begin());
    if (prefix) return int32_t(prompt.size());
  }
  return content_begin(messages, tools, tokens, where);
}

int32_t RowEncoder::content_begin(const OrderedJson& messages, const std::string& tools,
                                  const std::vector<int32_t>& tokens, std::string_view where) const {
  OrderedJson other = messages;
  OrderedJson& last = other.back();
  const auto content = last.find("content");
  const bool same = content != last.end() && content->is_string() && content->get_ref<const std::string&>()[0] == 'A';
  last.erase("tool_calls");
  last["content"] = same ? "B" : "A";
  const std::vector<int32_t> changed = render(other, tools, {}, false, where);
  return int32_t(std::mismatch(changed.begin(), changed.end(), tokens.begin(), tokens.end()).first - changed.begin());
}

}  // namespace bumblebee::dataset
