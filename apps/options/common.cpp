// Adds the flags of every verb.
#include "options/common.h"

#include "options/validators.h"
#include "ui/exit_codes.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

bool CommonFlags::remarks() const { return verbose || (!json && is_terminal(stderr)); }

void add_common_flags(Parser& verb, CommonFlags& common) {
  verb.add_flag("--json", common.json, "Print JSON on standard output, for programs")->group("Output")->shared();
  verb.add_flag("-v,--verbose", common.verbose, "Say more on standard error")->group("Output")->shared();
  verb.add_flag("--no-progress", common.no_progress, "Draw no progress bars")->group("Output")->shared();
  verb.add_option("--color", common.color, "Colours: auto, always or never (default auto; NO_COLOR is honoured)")
      ->option_text("WHEN")
      ->check(one_of({"auto", "always", "never"}))
      ->group("Output")
      ->shared();
  verb.add_option("--log-level", common.log_level,
                  "What the library says: notes (default), events from error, warning, info or debug on, or off")
      ->option_text("LEVEL")
      ->check(one_of({"off", "notes", "error", "warning", "info", "debug"}))
      ->group("Output")
      ->shared();
}

const Option* exclusive(const std::vector<const Option*>& options) {
  const Option* from_typed = nullptr;
  const Option* from_environment = nullptr;
  for (const Option* option : options) {
    if (option->count() == 0) continue;
    const Option*& slot = option->typed() ? from_typed : from_environment;
    if (slot) throw UsageError(slot->origin() + " and " + option->origin() + " exclude each other");
    slot = option;
  }
  return from_typed ? from_typed : from_environment;
}

}  // namespace bumblebee::cli
