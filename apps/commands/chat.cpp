// `chat`: a conversation at the terminal, or line by line from a pipe.
#include <cstdio>
#include <filesystem>

#include "commands/commands.h"
#include "commands/conversation.h"
#include "options/chat_flags.h"
#include "options/validators.h"
#include "ui/exit_codes.h"
#include "ui/interrupt.h"
#include "ui/line_reader.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

namespace {

struct ChatVerbFlags {
  CommonFlags common;
  ModelFlags model;
  SamplingFlags sampling;
  AdapterFlags adapters;
  ChatFlags chat;
  int ctx_size = 0;
  std::string kv_memory;
  bool no_history = false;
};

constexpr const char* kHelp =
    "  /retry          answer the last question anew\n"
    "  /undo           take the last question and its answer back\n"
    "  /reset          forget the conversation\n"
    "  /system TEXT    tell the model this first, and forget the conversation\n"
    "  /system         show it; /system \"\" removes it\n"
    "  /set NAME X     change a flag: /set temp 0.5, /set max-tokens 200\n"
    "  /set            show them\n"
    "  /stats          speed of the last answer, and how full the context is\n"
    "  /save FILE      write the conversation as JSON\n"
    "  /load FILE      go on with a conversation that was saved\n"
    "  /help           this list\n"
    "  /quit           leave (also Ctrl-D)\n"
    "  \"\"\"             begin and end a message of several lines\n"
    "  a paste         is one message, whatever lines it has\n"
    "  Ctrl-C          stop the answer; at the prompt: drop the line\n";

std::string trimmed(std::string_view text) {
  size_t first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return std::string(text.substr(first, text.find_last_not_of(" \t") - first + 1));
}

/// What a person typed, with """ blocks joined to one message. The end of the input ends a block too.
ReadLine read_message(LineReader& reader) {
  ReadLine line = reader.read(">>> ");
  const std::string start = trimmed(line.text);
  if (line.status != ReadStatus::line || !start.starts_with("\"\"\"")) return line;
  std::string text = start.substr(3);
  if (text.ends_with("\"\"\"")) return {ReadStatus::line, text.substr(0, text.size() - 3)};
  for (;;) {
    ReadLine more = reader.read("... ");
    if (more.status == ReadStatus::end) return {ReadStatus::line, text};
    if (more.status != ReadStatus::line) return more;
    std::string end = trimmed(more.text);
    bool last = end.ends_with("\"\"\"");
    if (last) more.text = more.text.substr(0, more.text.rfind("\"\"\""));
    if (!text.empty()) text += '\n';
    text += more.text;
    if (last) {
      if (text.ends_with('\n')) text.pop_back();
      return {ReadStatus::line, text};
    }
  }
}

enum class Next : unsigned char { go_on, leave };

/// What is to be carried out rather than said: /name, alone or with more behind it. A path such as /etc/passwd, and
/// what has several lines, is said.
bool is_command(const std::string& line) {
  const std::string name = line.substr(0, line.find(' '));
  return name.size() > 1 && name[0] == '/' &&
         name.find_first_not_of("abcdefghijklmnopqrstuvwxyz?", 1) == std::string::npos &&
         line.find('\n') == std::string::npos;
}

std::string file_name(const std::string& command, const std::string& rest) {
  if (rest.empty()) throw UsageError(command + ": expected a file name");
  return rest;
}

Next command(const std::string& line, Conversation& conversation) {
  const size_t space = line.find(' ');
  const std::string name = line.substr(0, space);
  const std::string rest = space == std::string::npos ? "" : trimmed(line.substr(space));
  if (name == "/quit" || name == "/exit" || name == "/bye") return Next::leave;
  if (name == "/help" || name == "/?") {
    std::fputs(kHelp, stderr);
  } else if (name == "/reset" || name == "/clear") {
    conversation.reset();
    Conversation::note("[the conversation is forgotten]");
  } else if (name == "/retry" || name == "/regen") {
    conversation.retry();
  } else if (name == "/undo") {
    conversation.undo();
  } else if (name == "/system" && rest.empty()) {
    Conversation::note(conversation.system().empty() ? "[no system prompt]" : conversation.system());
  } else if (name == "/system") {
    conversation.set_system(rest == "\"\"" ? "" : rest);
    Conversation::note(rest == "\"\"" ? "[no system prompt; the conversation is forgotten]"
                                      : "[system prompt set; the conversation is forgotten]");
  } else if (name == "/set") {
    conversation.set(rest);
  } else if (name == "/stats") {
    conversation.stats();
  } else if (name == "/save") {
    conversation.save(file_name(name, rest));
  } else if (name == "/load") {
    conversation.load(file_name(name, rest));
  } else {
    throw UsageError("unknown command '" + name + "'; /help lists them");
  }
  return Next::go_on;
}

/// One line of input; errors end a script but not a conversation.
Next step(const std::string& line, Conversation& conversation, const LineReader& reader, const CommonFlags& common) {
  try {
    if (const std::string start = trimmed(line); is_command(start)) return command(start, conversation);
    conversation.ask(line);
  } catch (...) {
    if (!reader.interactive()) throw;
    report_current_exception(common.json ? ErrorFormat::text_and_json : ErrorFormat::text);
  }
  return Next::go_on;
}

int run(const ChatVerbFlags& flags) {
  flags.chat.options();  // reports contradictions before the model is loaded
  ReadyModel ready = load_serving({.model = flags.model,
                                   .sampling = flags.sampling,
                                   .adapters = flags.adapters,
                                   .ctx_size = flags.ctx_size,
                                   .kv_memory = flags.kv_memory,
                                   .uncapped = Uncapped::yes},
                                  flags.common);
  if (!ready.tokenizer.has_chat_template() && flags.chat.chat_template.empty() &&
      flags.chat.chat_template_file.empty()) {
    throw Error(ErrorCode::unsupported, flags.model.model,
                "expected a chat template, found none: use 'generate --raw', or --chat-template-file FILE");
  }
  LineReader reader(flags.no_history ? std::filesystem::path{} : default_history_path());
  if (reader.interactive()) {
    Conversation::note("[" + ready.model.info().architecture + ", " +
                       human_count(double(ready.model.info().parameters)) + " parameters, loaded in " +
                       std::to_string(ready.load_s).substr(0, 4) + " s; /help lists the commands]");
  }
  Conversation conversation(flags.common, flags.sampling, flags.chat, std::move(ready));
  for (;;) {
    interrupt::clear();
    ReadLine line = read_message(reader);
    if (line.status == ReadStatus::end) {
      if (reader.interactive()) std::fputs("\n", stderr);
      return int(ExitCode::ok);
    }
    if (line.status == ReadStatus::interrupted) {
      if (!reader.interactive()) return int(ExitCode::cancelled);
      std::fputs("\n", stderr);
      if (line.text.empty()) Conversation::note("[Ctrl-D or /quit leaves]");
      continue;
    }
    if (trimmed(line.text).empty()) continue;
    reader.remember(line.text);
    if (step(line.text, conversation, reader, flags.common) == Next::leave) return int(ExitCode::ok);
    if (conversation.cancelled() && interrupt::requested() && !reader.interactive()) return int(ExitCode::cancelled);
  }
}

}  // namespace

void add_chat(Parser& app, Session& session) {
  auto flags = std::make_shared<ChatVerbFlags>();
  Parser* verb = add_verb(app, {"chat", "Talk with a model"});
  add_model_flags(*verb, flags->model);
  add_adapter_flags(*verb, flags->adapters);
  add_ctx_flag(*verb, flags->ctx_size);
  add_kv_memory_flag(*verb, flags->kv_memory);
  add_chat_flags(*verb, flags->chat);
  add_sampling_flags(*verb, flags->sampling, Uncapped::yes);
  verb->add_flag("--no-history", flags->no_history, "Do not keep the typed lines for the next session")
      ->group("Output");
  verb->footer(std::string("In the conversation:\n") + kHelp +
               "\nFrom a pipe every line is one message, and --json prints one object per answer.\n\n"
               "Example:\n  bumblebee chat -m DIR --system-prompt \"Answer in one sentence.\"");
  on_chosen(*verb, session, flags, run);
}

}  // namespace bumblebee::cli
