// `help`: help of the program or of one verb; with --json everything the parser knows, for tools that generate
// documentation.
#include "commands/commands.h"
#include "commands/manual.h"
#include "options/nearest.h"
#include "ui/exit_codes.h"
#include "ui/json_out.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

namespace {

struct HelpFlags {
  CommonFlags common;
  std::string verb;
  bool man = false;
  const Option* json_option = nullptr;
  const Parser* app = nullptr;
};

OutJson describe(const Option& option) {
  OutJson names = OutJson::array();
  for (const std::string& name : option.short_names()) names.push_back("-" + name);
  for (const std::string& name : option.long_names()) names.push_back("--" + name);
  OutJson out;
  out["names"] = names;
  out["positional"] = option.positional_name().empty() ? OutJson(nullptr) : OutJson(option.positional_name());
  out["takes_value"] = option.takes_value();
  out["values"] = option.words();
  out["environment"] = option.environment();
  out["description"] = option.description();
  return out;
}

OutJson describe(const Parser& verb) {
  OutJson options = OutJson::array();
  for (const Option* option : verb.options()) options.push_back(describe(*option));
  return {
      {"name", verb.name()}, {"aliases", verb.aliases()}, {"description", verb.description()}, {"options", options}};
}

int run(const HelpFlags& flags) {
  const Parser* chosen = nullptr;
  for (const Parser* verb : flags.app->verbs()) {
    if (!flags.verb.empty() && verb->check_name(flags.verb)) chosen = verb;
  }
  if (chosen == nullptr && !flags.verb.empty()) {
    std::vector<std::string> verbs;
    for (const Parser* verb : flags.app->verbs()) verbs.push_back(verb->name());
    const std::string near = nearest(flags.verb, verbs);
    throw UsageError("no verb '" + flags.verb + "'; " +
                     (near.empty() ? "'bumblebee help' lists them" : "did you mean '" + near + "'?"));
  }
  if (flags.common.json && (!flags.man || flags.json_option->typed())) {  // a variable says nothing of pages
    OutJson verbs = OutJson::array();
    for (const Parser* verb : flags.app->verbs()) {
      if (chosen == nullptr || verb == chosen) verbs.push_back(describe(*verb));
    }
    print_json({{"verbs", verbs}});
  } else if (flags.man) {
    write_out(manual_page(*flags.app, chosen));
  } else {
    write_out(chosen == nullptr ? flags.app->help() : chosen->help());
  }
  return int(ExitCode::ok);
}

}  // namespace

void add_help(Parser& app, Session& session) {
  auto flags = std::make_shared<HelpFlags>();
  flags->app = &app;
  Parser* verb = add_verb(app, {"help", "Explain the program, or one verb"});
  verb->add_option("verb", flags->verb, "The verb to explain");
  verb->add_flag("--man", flags->man, "As a page for man: bumblebee help generate --man | man -l -");
  verb->footer("With --json: every verb and flag with its environment variable.");
  on_chosen(*verb, session, flags, run);
  flags->json_option = verb->get_option("--json");
}

}  // namespace bumblebee::cli
