// Builds the parser, runs the chosen verb, and turns every error into a message and an exit status.
#include "program.h"

#include <cstdio>

#include "bumblebee/version.h"
#include "commands/commands.h"
#include "options/common.h"
#include "options/variables.h"
#include "ui/exit_codes.h"
#include "ui/interrupt.h"
#include "ui/log.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

namespace {

constexpr const char* kEnvironmentHelp =
    "Environment: every flag has a variable, BUMBLEBEE_ and the flag's long name in capitals, '-' as '_':\n"
    "--max-tokens is BUMBLEBEE_MAX_TOKENS. Verbs that write or delete have variables of their own, with the verb's\n"
    "name: BUMBLEBEE_TRAIN_ITERS. A flag on the command line beats its variable and those that exclude it; a variable\n"
    "beats a file of --config; an empty one counts as unset. Flags without a value take 1 or 0. A variable holds one\n"
    "value, also of a flag that may be repeated. 'bumblebee help VERB --json' lists a verb's.";

ErrorFormat format_wanted(const Session& session) {
  if (session.understood && session.common)
    return session.common->json ? ErrorFormat::text_and_json : ErrorFormat::text;
  // The command line was not understood; --json may still stand in it.
  bool typed = false;
  for (const std::string& argument : session.arguments) typed = typed || argument == "--json";
  return typed || is_yes(variable("BUMBLEBEE_JSON")) ? ErrorFormat::text_and_json : ErrorFormat::text;
}

/// Whatever becomes of the command line, what nothing read is said: it may be the cause.
std::optional<std::string> parsed(Parser& app, const Session& session) {
  const auto say = [&app] {
    for (const std::string& text : app.notes()) note(text);
  };
  try {
    std::optional<std::string> answer = app.parse(session.arguments);
    say();
    return answer;
  } catch (const UsageError&) {
    say();
    throw;
  }
}

int parse_and_run(Parser& app, Session& session) {
  if (const std::optional<std::string> answer = parsed(app, session)) {
    write_out(*answer);
    return int(ExitCode::ok);
  }
  session.understood = true;
  if (!session.run) {
    std::string help = app.help();
    std::fputs(help.c_str(), stderr);
    return int(ExitCode::usage);
  }
  if (session.common->color == "always") set_color_mode(ColorMode::always);
  if (session.common->color == "never") set_color_mode(ColorMode::never);
  show_log(session.common->log_level);
  return session.run();
}

void add_verbs(Parser& app, Session& session) {
  add_generate(app, session);
  add_chat(app, session);
  add_serve(app, session);
  add_info(app, session);
  add_tokenize(app, session);
  add_detokenize(app, session);
  add_logits(app, session);
  add_perplexity(app, session);
  add_bench(app, session);
  add_convert(app, session);
  add_quantize(app, session);
  add_adapter(app, session);
  add_fuse(app, session);
  add_training_verbs(app, session);
  add_pull(app, session);
  add_cache(app, session);
  add_doctor(app, session);
  add_completions(app, session);
  add_help(app, session);
  app.footer(std::string("'bumblebee VERB --help' explains a verb.\n\n") + kEnvironmentHelp + "\n\n" +
             std::string(exit_code_help()) +
             "\nErrors are one line on standard error. With --json, standard output gets {\"error\": {\"code\", "
             "\"message\"}} too.");
  app.finish();
}

}  // namespace

int run_program(int count, char** arguments) {
  interrupt::install();
  Session session;
  session.arguments.assign(arguments + (count > 0 ? 1 : 0), arguments + count);
  Parser app("Runs MLX 4-bit language models on this machine.", "bumblebee", version());
  try {
    add_verbs(app, session);
    return parse_and_run(app, session);
  } catch (...) {
    return int(report_current_exception(format_wanted(session),
                                        [&app](const std::string& message) { return app.in_flags(message); }));
  }
}

}  // namespace bumblebee::cli
