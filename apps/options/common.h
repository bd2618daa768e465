// Flags that every verb has, and the session that carries the chosen verb from parsing to running.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "options/parser.h"
#include "ui/progress.h"

namespace bumblebee::cli {

struct CommonFlags {
  bool json = false;
  bool verbose = false;
  bool no_progress = false;
  std::string color = "auto";
  std::string log_level = "notes";

  ProgressBar::Visible progress() const {
    return no_progress || json ? ProgressBar::Visible::never : ProgressBar::Visible::on_terminal;
  }
  /// Whether remarks such as the speed belong on stderr: a person looks, or asked.
  bool remarks() const;
};

/// What parsing leaves behind.
struct Session {
  std::vector<std::string> arguments;   // as typed, after the program's name
  std::function<int()> run;             // the chosen verb; empty when there was nothing to choose
  const CommonFlags* common = nullptr;  // of the chosen verb
  bool understood = false;              // the whole command line was
};

struct Verb {
  const char* name;
  const char* description;
};

inline Parser* add_verb(Parser& app, const Verb& verb) { return app.add_verb(verb.name, verb.description); }
void add_common_flags(Parser& verb, CommonFlags& common);

/// Completes a verb: adds the common flags (last, so that help shows the verb's own first) and sets what runs when it
/// was chosen. `Flags` is the verb's struct of flags and has a member `common`; it stays alive with the parser.
template <class Flags>
void on_chosen(Parser& verb, Session& session, std::shared_ptr<Flags> flags, int (*run)(const Flags&)) {
  add_common_flags(verb, flags->common);
  // CLI11 reads environment variables of every verb that has no such callback, chosen or not: with it, only the chosen
  // verb's count.
  verb.parse_complete_callback([&session, flags, run] {
    session.common = &flags->common;
    session.run = [flags, run] { return run(*flags); };
  });
}

/// At most one of the options may be typed. When several have values, those from the environment yield to a typed one;
/// returns the one that counts, or nullptr. Throws UsageError when two are typed, or two come from the environment.
const Option* exclusive(const std::vector<const Option*>& options);

}  // namespace bumblebee::cli
