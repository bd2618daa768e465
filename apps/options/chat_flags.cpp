// Parses the flags of a conversation into ChatOptions.
#include "options/chat_flags.h"

#include <nlohmann/json.hpp>

#include "options/validators.h"
#include "ui/exit_codes.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

namespace {

// Bounds the nesting before the library sees the text: flags are typed by people, but scripts pass on what they were
// given.
nlohmann::ordered_json parse(const std::string& text, const std::string& flag) {
  constexpr int kDepth = 64;
  auto shallow = [](int depth, nlohmann::ordered_json::parse_event_t, nlohmann::ordered_json&) {
    if (depth > kDepth) throw std::length_error("nested too deeply");
    return true;
  };
  try {
    return nlohmann::ordered_json::parse(text, shallow);
  } catch (const std::exception& e) {
    const std::string why = e.what();  // behind the library's own name of the error, "[json.exception...] "
    throw UsageError(flag + ": expected JSON: " + why.substr(why.starts_with('[') ? why.find("] ") + 2 : 0));
  }
}

}  // namespace

std::vector<const Option*> add_chat_flags(Parser& verb, ChatFlags& flags) {
  auto text = [&verb](const char* name, std::string& to, const char* metavar, const char* what) {
    return verb.add_option(name, to, what)->option_text(metavar)->group("Conversation");
  };
  const Option* system = text("--system-prompt", flags.system_prompt, "TEXT", "What the model is told first");
  const Option* own =
      text("--chat-template", flags.chat_template, "TEXT", "A Jinja template instead of the model's own");
  const Option* file =
      text("--chat-template-file", flags.chat_template_file, "FILE", "The same, from a file")->excludes(own);
  const Option* kwargs = text("--chat-template-kwargs", flags.chat_template_kwargs, "JSON",
                              "Variables for the template: {\"enable_thinking\": false}");
  const Option* tools = text("--tools", flags.tools, "FILE", "A JSON array of tools for the template");
  const Option* plain =
      verb.add_flag("--no-thinking", flags.no_thinking, "Short for enable_thinking = false in --chat-template-kwargs")
          ->group("Conversation");
  const Option* trust =
      verb.add_flag("--trust-content", flags.trust_content, "Let messages contain control tokens such as <|im_start|>")
          ->group("Conversation");
  return {system, own, file, kwargs, tools, plain, trust};
}

std::vector<Message> read_conversation(const std::string& path) {
  const auto fail = [&path](const std::string& what) { return Error(ErrorCode::bad_file, path, what); };
  nlohmann::ordered_json json;
  try {
    json = parse(read_input(path), path);
  } catch (const UsageError&) {
    throw fail("expected JSON, as /save writes it");
  }
  if (json.is_object() && json.contains("messages")) json = nlohmann::ordered_json(json["messages"]);
  if (!json.is_array() || json.empty()) throw fail("expected a list of messages, or an object with 'messages'");
  std::vector<Message> messages;
  for (const auto& one : json) {
    const std::string where = "message " + std::to_string(messages.size() + 1) + ": ";
    for (const char* key : {"role", "content"}) {
      if (!one.is_object() || !one.contains(key) || !one[key].is_string())
        throw fail(where + "expected a 'role' and a 'content' of text");
    }
    if (one.size() > 2) throw fail(where + "expected nothing but 'role' and 'content'");
    messages.push_back({one["role"].get<std::string>(), one["content"].get<std::string>(), {}});
  }
  return messages;
}

ChatOptions ChatFlags::options() const {
  ChatOptions out;
  out.chat_template = chat_template_file.empty() ? chat_template : read_input(chat_template_file);
  if (!tools.empty()) {
    out.tools = read_input(tools);
    if (!parse(out.tools, "--tools").is_array()) throw UsageError("--tools: expected a JSON array in '" + tools + "'");
  }
  nlohmann::ordered_json kwargs = nlohmann::ordered_json::object();
  if (!chat_template_kwargs.empty()) kwargs = parse(chat_template_kwargs, "--chat-template-kwargs");
  if (!kwargs.is_object())
    throw UsageError("--chat-template-kwargs: expected a JSON object, got '" + chat_template_kwargs + "'");
  if (no_thinking) {
    if (kwargs.contains("enable_thinking") && kwargs["enable_thinking"] != false) {
      throw UsageError("--no-thinking contradicts enable_thinking in --chat-template-kwargs");
    }
    kwargs["enable_thinking"] = false;
  }
  if (!kwargs.empty()) out.template_kwargs = kwargs.dump();
  out.trust_content = trust_content;
  return out;
}

void check_template(const Tokenizer& tokenizer, const ChatFlags& flags, const ChatOptions& options) {
  if (options.chat_template.empty()) return;
  try {
    tokenizer.apply_chat_template(std::vector<Message>{{"user", "?", {}}}, options);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::bad_file) return;  // what it refuses is said when it is asked
    const std::string said = error.what();            // "[where] what"
    const std::string what = said.substr(said.starts_with('[') ? said.find("] ") + 2 : 0);
    if (flags.chat_template_file.empty()) throw UsageError("--chat-template: " + what);
    throw Error(ErrorCode::bad_file, flags.chat_template_file, what);
  }
}

void check_effects(const Tokenizer& tokenizer, const std::vector<Message>& messages, const ChatOptions& options) {
  if (options.tools.empty() && options.template_kwargs.empty()) return;
  const auto rendered = tokenizer.apply_chat_template(messages, options).tokens;
  ChatOptions without = options;
  without.tools.clear();
  if (!options.tools.empty() && tokenizer.apply_chat_template(messages, without).tokens == rendered)
    throw Error(ErrorCode::unsupported, "--tools",
                "the chat template has no place for tools: the model would not see them");
  without = options;
  without.template_kwargs.clear();
  if (!options.template_kwargs.empty() && tokenizer.apply_chat_template(messages, without).tokens == rendered)
    note("--chat-template-kwargs or --no-thinking: the chat template makes the same prompt without " +
         options.template_kwargs);
}

}  // namespace bumblebee::cli
