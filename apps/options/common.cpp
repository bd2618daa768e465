// Adds the flags of every verb, and names their environment variables.
#include "options/common.h"

#include <algorithm>
#include <cctype>

#include "options/validators.h"
#include "ui/exit_codes.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

bool CommonFlags::remarks() const { return verbose || (!json && is_terminal(stderr)); }

bool typed(const Option& option, const std::vector<std::string>& arguments) {
  auto is_it = [&option](const std::string& argument) {
    for (const std::string& name : option.long_names()) {
      if (argument == "--" + name || argument.starts_with("--" + name + "=")) return true;
    }
    for (const std::string& name : option.short_names()) {
      if (argument.starts_with("-" + name)) return true;
    }
    return false;
  };
  if (!option.positional_name().empty() && option.long_names().empty()) return option.count() > 0;
  return std::any_of(arguments.begin(), arguments.end(), is_it);
}

bool Session::typed(const Option& option) const { return cli::typed(option, arguments); }

void add_common_flags(Parser& verb, CommonFlags& common) {
  verb.add_flag("--json", common.json, "Print JSON on standard output, for programs")->group("Output");
  verb.add_flag("-v,--verbose", common.verbose, "Say more on standard error")->group("Output");
  verb.add_flag("--no-progress", common.no_progress, "Draw no progress bars")->group("Output");
  verb.add_option("--color", common.color, "Colours: auto, always or never (default auto; NO_COLOR is honoured)")
      ->option_text("WHEN")
      ->check(one_of({"auto", "always", "never"}))
      ->group("Output");
  verb.add_option("--log-level", common.log_level,
                  "Events of the library on standard error: off, error, warning, info or debug (default off)")
      ->option_text("LEVEL")
      ->check(one_of({"off", "error", "warning", "info", "debug"}))
      ->group("Output");
}

std::string environment_twin(const Option& option) {
  const std::vector<std::string> names = option.long_names();
  if (names.empty()) return {};
  std::string name = names.front();
  if (name == "help" || name == "version") return {};
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return c == '-' ? '_' : char(std::toupper(c)); });
  return "BUMBLEBEE_" + name;
}

const Option* exclusive(const Session& session, const std::vector<const Option*>& options) {
  const Option* from_typed = nullptr;
  const Option* from_environment = nullptr;
  for (const Option* option : options) {
    if (option->count() == 0) continue;
    const Option*& slot = session.typed(*option) ? from_typed : from_environment;
    if (slot) throw UsageError(slot->name() + " and " + option->name() + " exclude each other");
    slot = option;
  }
  return from_typed ? from_typed : from_environment;
}

}  // namespace bumblebee::cli
