// Builds the parser, runs the chosen verb, and turns every error into a message and an exit status.
#include "program.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "bumblebee/version.h"
#include "commands/commands.h"
#include "ui/exit_codes.h"
#include "ui/interrupt.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

namespace {

constexpr const char* kEnvironmentHelp =
    "Environment: every flag has a twin, BUMBLEBEE_ and the flag's long name in capitals, '-' as '_': --max-tokens is\n"
    "BUMBLEBEE_MAX_TOKENS. A flag on the command line beats its twin; an empty variable counts as unset. Flags without "
    "a\n"
    "value take 1 or 0. A twin holds one value, also of a flag that may be repeated.";

/// CLI11's layout without what only costs width here: the environment twins follow one rule, which the footer states.
class Layout : public CLI::Formatter {
 public:
  Layout() { column_width(34); }
  std::string make_option_opts(const CLI::Option* option) const override {
    return option->get_option_text().empty() ? "" : " " + option->get_option_text();
  }
  std::string make_usage(const CLI::App* app, std::string name) const override {
    if (app->get_parent() == nullptr) return "\nUsage: bumblebee VERB [OPTIONS]\n";
    return "\n" + CLI::Formatter::make_usage(app, name);
  }
  std::string make_group(std::string group, bool is_positional,
                         std::vector<const CLI::Option*> options) const override {
    std::string text = CLI::Formatter::make_group(std::move(group), is_positional, std::move(options));
    return is_positional ? text : text.substr(1);  // CLI11 puts an empty line on both sides
  }
  std::string make_positionals(const CLI::App* app) const override {
    std::string text = CLI::Formatter::make_positionals(app);
    return text.empty() ? "\n" : text + "\n";
  }
  std::string make_subcommand(const CLI::App* verb) const override {
    std::string name = verb->get_name();
    for (const std::string& alias : verb->get_aliases()) name += ", " + alias;
    std::ostringstream out;
    CLI::detail::format_help(out, name, verb->get_description(), 20);
    return out.str();
  }
};

void finish_verb(CLI::App& verb) {
  for (CLI::Option* option : verb.get_options()) {
    option->envname(environment_twin(*option));
    // The last one given counts, so that a script can add to a line it was handed; lists collect instead.
    if (option->get_items_expected_max() <= 1) option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  }
  verb.footer(verb.get_footer() + "\n\n" + "Exit codes and environment twins of the flags: bumblebee --help");
}

bool truthy(const char* text) {
  return text && *text && std::strcmp(text, "0") != 0 && std::strcmp(text, "false") != 0;
}

ErrorFormat format_wanted(const Session& session) {
  if (session.common) return session.common->json ? ErrorFormat::text_and_json : ErrorFormat::text;
  // The command line was not understood; --json may still stand in it.
  bool typed = false;
  for (const std::string& argument : session.arguments) typed = typed || argument == "--json";
  return typed || truthy(std::getenv("BUMBLEBEE_JSON")) ? ErrorFormat::text_and_json : ErrorFormat::text;
}

/// CLI11's message as one sentence of ours: names the environment variable when the bad value came from there.
UsageError usage_error(const CLI::App& app, const Session& session, const CLI::ParseError& failure) {
  std::string message = failure.what();
  const CLI::App* verb = nullptr;
  for (const CLI::App* one : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (!session.arguments.empty() && one->check_name(session.arguments.front())) verb = one;
  }
  if (!verb && !session.arguments.empty() && !session.arguments.front().starts_with('-')) {
    return UsageError("no verb '" + session.arguments.front() + "'; 'bumblebee --help' lists them");
  }
  if (verb) {
    for (const CLI::Option* option : verb->get_options()) {
      bool named = message.starts_with(option->get_name() + ":");
      if (named && !session.typed(*option) && std::getenv(option->get_envname().c_str())) {
        message += " (from " + option->get_envname() + ")";
      }
    }
  }
  return UsageError(message + "; see 'bumblebee " + (verb ? verb->get_name() + " --help'" : "--help'"));
}

int parse_and_run(CLI::App& app, Session& session, std::vector<std::string> arguments) {
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());  // the order that CLI11 wants
  try {
    app.parse(reversed);
  } catch (const CLI::CallForHelp&) {
    for (const CLI::App* verb : app.get_subcommands()) {
      write_out(verb->help("bumblebee"));
      return int(ExitCode::ok);
    }
    write_out(app.help("bumblebee"));
    return int(ExitCode::ok);
  } catch (const CLI::CallForVersion&) {
    write_out(std::string("bumblebee ") + version() + "\n");
    return int(ExitCode::ok);
  } catch (const CLI::ParseError& failure) {
    throw usage_error(app, session, failure);
  }
  if (!session.run) {
    std::string help = app.help("bumblebee");
    std::fputs(help.c_str(), stderr);
    return int(ExitCode::usage);
  }
  if (session.common->color == "always") set_color_mode(ColorMode::always);
  if (session.common->color == "never") set_color_mode(ColorMode::never);
  return session.run();
}

}  // namespace

std::unique_ptr<CLI::App> make_program(Session& session) {
  auto app = std::make_unique<CLI::App>("Runs MLX 4-bit language models on this machine.", "bumblebee");
  app->formatter(std::make_shared<Layout>());
  app->set_help_flag("-h,--help", "Print this help and exit");
  app->set_version_flag("--version", version(), "Print the version and exit");
  app->require_subcommand(0, 1);
  app->get_formatter()->label("Subcommands", "Verbs");
  add_generate(*app, session);
  add_chat(*app, session);
  add_info(*app, session);
  add_tokenize(*app, session);
  add_detokenize(*app, session);
  add_logits(*app, session);
  add_perplexity(*app, session);
  add_bench(*app, session);
  add_convert(*app, session);
  add_quantize(*app, session);
  add_adapter(*app, session);
  add_fuse(*app, session);
  add_training_verbs(*app, session);
  add_pull(*app, session);
  add_cache(*app, session);
  add_doctor(*app, session);
  add_completions(*app, session);
  add_help(*app, session);
  for (CLI::App* verb : app->get_subcommands([](const CLI::App*) { return true; })) {
    verb->group("Verbs");
    finish_verb(*verb);
  }
  app->footer(std::string("'bumblebee VERB --help' explains a verb.\n\n") + kEnvironmentHelp + "\n\n" +
              std::string(exit_code_help()) +
              "\nErrors are one line on standard error. With --json, standard output gets {\"error\": {\"code\", "
              "\"message\"}} too.");
  return app;
}

int run_program(int count, char** arguments) {
  interrupt::install();
  Session session;
  session.arguments.assign(arguments + (count > 0 ? 1 : 0), arguments + count);
  try {
    std::unique_ptr<CLI::App> app = make_program(session);
    return parse_and_run(*app, session, session.arguments);
  } catch (...) {
    return int(report_current_exception(format_wanted(session)));
  }
}

}  // namespace bumblebee::cli
