// Adds the flags of every verb, and names their environment twins.
#include "options/common.h"

#include <algorithm>
#include <cctype>

#include "options/validators.h"
#include "ui/exit_codes.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

bool CommonFlags::remarks() const { return verbose || (!json && is_terminal(stderr)); }

bool Session::typed(const CLI::Option& option) const {
  auto is_it = [&option](const std::string& argument) {
    for (const std::string& name : option.get_lnames()) {
      if (argument == "--" + name || argument.starts_with("--" + name + "=")) return true;
    }
    for (const std::string& name : option.get_snames()) {
      if (argument.starts_with("-" + name)) return true;
    }
    return false;
  };
  if (option.get_positional() && option.get_lnames().empty()) return option.count() > 0;
  return std::any_of(arguments.begin(), arguments.end(), is_it);
}

CLI::App* add_verb(CLI::App& app, const Verb& verb) { return app.add_subcommand(verb.name, verb.description); }

void add_common_flags(CLI::App& verb, CommonFlags& common) {
  verb.add_flag("--json", common.json, "Print JSON on standard output, for programs")->group("Output");
  verb.add_flag("-v,--verbose", common.verbose, "Say more on standard error")->group("Output");
  verb.add_flag("--no-progress", common.no_progress, "Draw no progress bars")->group("Output");
  verb.add_option("--color", common.color, "Colours: auto, always or never (default auto; NO_COLOR is honoured)")
      ->option_text("WHEN")
      ->check(one_of({"auto", "always", "never"}))
      ->group("Output");
}

std::string environment_twin(const CLI::Option& option) {
  if (option.get_lnames().empty()) return {};
  std::string name = option.get_lnames().front();
  if (name == "help" || name == "version") return {};
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return c == '-' ? '_' : char(std::toupper(c)); });
  return "BUMBLEBEE_" + name;
}

const CLI::Option* exclusive(const Session& session, const std::vector<const CLI::Option*>& options) {
  const CLI::Option* from_typed = nullptr;
  const CLI::Option* from_environment = nullptr;
  for (const CLI::Option* option : options) {
    if (option->count() == 0) continue;
    const CLI::Option*& slot = session.typed(*option) ? from_typed : from_environment;
    if (slot) throw UsageError(slot->get_name() + " and " + option->get_name() + " exclude each other");
    slot = option;
  }
  return from_typed ? from_typed : from_environment;
}

}  // namespace bumblebee::cli
