// `chat`: a conversation at the terminal, or line by line from a pipe.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <set>

#include "commands/commands.h"
#include "commands/generation.h"
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
    "  /reset          forget the conversation\n"
    "  /system TEXT    set what the model is told first, and forget the conversation\n"
    "  /stats          speed of the last answer, and how full the context is\n"
    "  /save FILE      write the conversation as JSON\n"
    "  /help           this list\n"
    "  /quit           leave (also Ctrl-D)\n"
    "  \"\"\"             begin and end a message of several lines\n"
    "  Ctrl-C          stop the answer; at the prompt: drop the line\n";

class Conversation {
 public:
  Conversation(const ChatVerbFlags& flags, ReadyModel ready)
      : flags_(flags), ready_(std::move(ready)), chat_(flags.chat.options()), system_(flags.chat.system_prompt) {
    reset();
  }

  void reset() {
    messages_.clear();
    last_ = {};
    if (!system_.empty()) messages_.push_back({"system", system_, {}});
  }

  void set_system(std::string text) {
    system_ = std::move(text);
    reset();
  }

  /// Asks and prints the answer. A refused question leaves the conversation as it was.
  void ask(std::string question) {
    text::Input input;
    input.messages = messages_;
    input.messages.push_back({"user", std::move(question), {}});
    input.chat = chat_;
    input.seed = ready_.config.seed + turns_;  // otherwise every turn would draw the same numbers
    {
      interrupt::Scope scope(input.cancel);
      last_ = flags_.common.json ? ready_.serving.run(input) : stream(input);
    }
    ++turns_;
    messages_ = std::move(input.messages);
    messages_.push_back({"assistant", last_.text, {}});
    if (flags_.common.json) print_json(to_json(last_, ready_));
    if (flags_.common.verbose) note(speed_line(last_));
  }

  void stats() const {
    if (last_.token_summary.input == 0) return note("nothing was asked yet");
    int limit = ready_.serving.limits().sequence_length;
    int used = last_.token_summary.input + last_.token_summary.output;
    note(speed_line(last_));
    note("[" + std::to_string(used) + " of " + std::to_string(limit) + " tokens of context, " +
         human_bytes(double(ready_.model.info().kv_bytes(used, ready_.model.options().kv_type))) +
         " of keys and values]");
  }

  void save(const std::string& path) {
    if (!saved_.contains(path) && std::filesystem::exists(path))
      throw Error(ErrorCode::bad_file, path, "exists already, and this chat did not save it; choose another name");
    OutJson list = OutJson::array();
    for (const Message& message : messages_) list.push_back({{"role", message.role}, {"content", message.content}});
    std::ofstream out(path, std::ios::binary | std::ios::trunc);
    out << OutJson{{"messages", list}}.dump(2) << '\n';
    out.close();
    if (!out) throw Error(ErrorCode::bad_file, path, "cannot write the conversation");
    saved_.insert(path);
    note("[saved to " + path + "]");
  }

  bool cancelled() const { return last_.finish_reason == text::FinishReason::cancelled; }

  static void note(const std::string& text) {
    std::fprintf(stderr, "%s%s%s\n", style(stderr, Style::dim), text.c_str(), style(stderr, Style::reset));
  }

 private:
  text::Result stream(const text::Input& input) const {
    std::exception_ptr failure;
    text::Result result = ready_.serving.stream(input, [&failure](std::string_view piece) {
      try {
        write_out(piece);
        return true;
      } catch (...) {
        failure = std::current_exception();
        return false;
      }
    });
    if (failure) std::rethrow_exception(failure);
    write_out("\n");
    return result;
  }

  const ChatVerbFlags& flags_;
  ReadyModel ready_;
  ChatOptions chat_;
  std::string system_;
  std::vector<Message> messages_;
  std::set<std::string> saved_;  // files of this chat, which it may write again
  text::Result last_;
  uint64_t turns_ = 0;
};

std::string trimmed(std::string_view text) {
  size_t first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return std::string(text.substr(first, text.find_last_not_of(" \t") - first + 1));
}

/// What a person typed, with """ blocks joined to one message.
ReadLine read_message(LineReader& reader) {
  ReadLine line = reader.read(">>> ");
  std::string start = trimmed(line.text);
  if (line.status != ReadStatus::line || !start.starts_with("\"\"\"")) return line;
  std::string text = start.substr(3);
  if (text.ends_with("\"\"\"")) return {ReadStatus::line, text.substr(0, text.size() - 3)};
  for (;;) {
    ReadLine more = reader.read("... ");
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

Next command(const std::string& line, Conversation& conversation) {
  size_t space = line.find(' ');
  std::string name = line.substr(0, space);
  std::string rest = space == std::string::npos ? "" : trimmed(line.substr(space));
  if (name == "/quit" || name == "/exit" || name == "/bye") return Next::leave;
  if (name == "/help" || name == "/?") {
    std::fputs(kHelp, stderr);
  } else if (name == "/reset" || name == "/clear") {
    conversation.reset();
    Conversation::note("[the conversation is forgotten]");
  } else if (name == "/system") {
    conversation.set_system(rest);
    Conversation::note(rest.empty() ? "[no system prompt]" : "[system prompt set]");
  } else if (name == "/stats") {
    conversation.stats();
  } else if (name == "/save") {
    if (rest.empty()) throw UsageError("/save: expected a file name");
    conversation.save(rest);
  } else {
    throw UsageError("unknown command '" + name + "'; /help lists them");
  }
  return Next::go_on;
}

/// One line of input; errors end a script but not a conversation.
Next step(const std::string& line, Conversation& conversation, const LineReader& reader, const CommonFlags& common) {
  try {
    if (line.starts_with('/')) return command(line, conversation);
    conversation.ask(line);
  } catch (...) {
    if (!reader.interactive()) throw;
    report_current_exception(common.json ? ErrorFormat::text_and_json : ErrorFormat::text);
  }
  return Next::go_on;
}

int run(const ChatVerbFlags& flags) {
  flags.chat.options();  // reports contradictions before the model is loaded
  ReadyModel ready =
      load_serving({flags.model, flags.sampling, flags.adapters, flags.ctx_size, flags.kv_memory}, flags.common);
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
  Conversation conversation(flags, std::move(ready));
  for (;;) {
    interrupt::clear();
    ReadLine line = read_message(reader);
    if (line.status == ReadStatus::end) {
      if (reader.interactive()) write_out("\n");
      return int(ExitCode::ok);
    }
    if (line.status == ReadStatus::interrupted) {
      if (!reader.interactive()) return int(ExitCode::cancelled);
      write_out("\n");
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
  add_sampling_flags(*verb, flags->sampling);
  verb->add_flag("--no-history", flags->no_history, "Do not keep the typed lines for the next session")
      ->group("Output");
  verb->footer(std::string("In the conversation:\n") + kHelp +
               "\nFrom a pipe every line is one message, and --json prints one object per answer.\n\n"
               "Example:\n  bumblebee chat -m DIR --system-prompt \"Answer in one sentence.\"");
  on_chosen(*verb, session, flags, run);
}

}  // namespace bumblebee::cli
