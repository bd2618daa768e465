// `help`: help of the program or of one verb; with --json everything the parser knows, for tools that generate
// documentation.
#include "commands/commands.h"
#include "ui/exit_codes.h"
#include "ui/json_out.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

namespace {

struct HelpFlags {
  CommonFlags common;
  std::string verb;
  const CLI::App* app = nullptr;
};

OutJson describe(const CLI::Option& option) {
  OutJson names = OutJson::array();
  for (const std::string& name : option.get_snames()) names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) names.push_back("--" + name);
  OutJson out;
  out["names"] = names;
  out["positional"] = option.get_positional() ? OutJson(option.get_name(true, false)) : OutJson(nullptr);
  out["takes_value"] = option.get_items_expected_max() > 0;
  out["environment"] = option.get_envname();
  out["description"] = option.get_description();
  return out;
}

OutJson describe(const CLI::App& verb) {
  OutJson options = OutJson::array();
  for (const CLI::Option* option : verb.get_options()) options.push_back(describe(*option));
  return {{"name", verb.get_name()},
          {"aliases", verb.get_aliases()},
          {"description", verb.get_description()},
          {"options", options}};
}

int run(const HelpFlags& flags) {
  if (flags.common.json) {
    OutJson verbs = OutJson::array();
    for (const CLI::App* verb : flags.app->get_subcommands([](const CLI::App*) { return true; })) {
      if (flags.verb.empty() || verb->check_name(flags.verb)) verbs.push_back(describe(*verb));
    }
    if (verbs.empty()) throw UsageError("no verb '" + flags.verb + "'; 'bumblebee help' lists them");
    print_json({{"verbs", verbs}});
    return int(ExitCode::ok);
  }
  if (flags.verb.empty()) {
    // help() of the program would delegate to the chosen verb, which is this one.
    write_out(flags.app->get_formatter()->make_help(flags.app, "bumblebee", CLI::AppFormatMode::Normal));
    return int(ExitCode::ok);
  }
  for (const CLI::App* verb : flags.app->get_subcommands([](const CLI::App*) { return true; })) {
    if (!verb->check_name(flags.verb)) continue;
    write_out(verb->help("bumblebee"));
    return int(ExitCode::ok);
  }
  throw UsageError("no verb '" + flags.verb + "'; 'bumblebee help' lists them");
}

}  // namespace

void add_help(CLI::App& app, Session& session) {
  auto flags = std::make_shared<HelpFlags>();
  flags->app = &app;
  CLI::App* verb = add_verb(app, {"help", "Explain the program, or one verb"});
  verb->add_option("verb", flags->verb, "The verb to explain");
  verb->footer("With --json: every verb and flag with its environment twin.");
  on_chosen(*verb, session, flags, run);
}

}  // namespace bumblebee::cli
