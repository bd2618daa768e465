// `completions`: shell scripts made from the parser itself, so that a new flag is completed without anybody remembering
// to.
#include <algorithm>

#include "commands/commands.h"
#include "options/validators.h"
#include "ui/exit_codes.h"
#include "ui/json_out.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

namespace {

struct CompletionFlags {
  CommonFlags common;
  std::string shell;
  const Parser* app = nullptr;
};

struct FlagWords {
  std::vector<std::string> names;  // "-m", "--model"
  std::string description;
  bool takes_value = false;
};

struct VerbWords {
  std::vector<std::string> names;  // the verb, then its aliases
  std::string description;
  std::vector<FlagWords> flags;
};

std::vector<FlagWords> flags_of(const Parser& app) {
  std::vector<FlagWords> out;
  for (const Option* option : app.options()) {
    FlagWords words{{}, option->description(), option->takes_value()};
    for (const std::string& name : option->short_names()) words.names.push_back("-" + name);
    for (const std::string& name : option->long_names()) words.names.push_back("--" + name);
    if (words.names.empty()) continue;  // it stands by its place
    out.push_back(std::move(words));
  }
  return out;
}

std::vector<VerbWords> verbs_of(const Parser& app) {
  std::vector<VerbWords> out;
  for (const Parser* verb : app.verbs()) {
    VerbWords words{{verb->name()}, verb->description(), flags_of(*verb)};
    for (const std::string& alias : verb->aliases()) words.names.push_back(alias);
    out.push_back(std::move(words));
  }
  return out;
}

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
  return text;
}

std::string joined(const std::vector<std::string>& words, const std::string& separator) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : separator) + word;
  return out;
}

std::string all_names(const std::vector<FlagWords>& flags) {
  std::string out;
  for (const FlagWords& flag : flags) out += (out.empty() ? "" : " ") + joined(flag.names, " ");
  return out;
}

std::string bash(const Parser& app) {
  std::vector<VerbWords> verbs = verbs_of(app);
  std::string names, cases;
  for (const VerbWords& verb : verbs) {
    names += joined(verb.names, " ") + " ";
    cases += "    " + joined(verb.names, "|") + ") words=\"" + all_names(verb.flags) + "\" ;;\n";
  }
  return "# bash completion of bumblebee: source it, or put it in "
         "~/.local/share/bash-completion/completions/bumblebee\n"
         "_bumblebee() {\n"
         "  local current=\"${COMP_WORDS[COMP_CWORD]}\" words=\"\"\n"
         "  COMPREPLY=()\n"
         "  if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
         "    words=\"" +
         names + all_names(flags_of(app)) +
         "\"\n"
         "    COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
         "    return\n"
         "  fi\n"
         "  case \"${COMP_WORDS[1]}\" in\n" +
         cases +
         "  esac\n"
         "  if [ \"${COMP_WORDS[1]}\" = completions ] && [ \"${current#-}\" = \"$current\" ]; then words=\"bash zsh "
         "fish\"; fi\n"
         "  if [ \"${current#-}\" != \"$current\" ] || [ \"${COMP_WORDS[1]}\" = completions ]; then\n"
         "    COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
         "  fi\n"
         "}\n"
         "complete -o default -F _bumblebee bumblebee\n";
}

std::string zsh_quoted(std::string text) {
  text = replaced(std::move(text), "'", "'\\''");
  text = replaced(std::move(text), "[", "\\[");
  text = replaced(std::move(text), "]", "\\]");
  return replaced(std::move(text), ":", "\\:");
}

std::string zsh_flags(const std::vector<FlagWords>& flags) {
  std::string out;
  for (const FlagWords& flag : flags) {
    for (const std::string& name : flag.names) {
      out += " \\\n        '*" + name + "[" + zsh_quoted(flag.description) + "]" +
             (flag.takes_value ? ":value:_files'" : "'");
    }
  }
  return out;
}

std::string zsh(const Parser& app) {
  std::string list, cases;
  for (const VerbWords& verb : verbs_of(app)) {
    for (const std::string& name : verb.names) list += "    '" + name + ":" + zsh_quoted(verb.description) + "'\n";
    std::string rest = verb.names.front() == "completions" ? "'*:shell:(bash zsh fish)'" : "'*:file:_files'";
    cases += "    " + joined(verb.names, "|") + ")\n      _arguments" + zsh_flags(verb.flags) + " \\\n        " + rest +
             " ;;\n";
  }
  return "#compdef bumblebee\n"
         "# zsh completion of bumblebee: put it as _bumblebee into a directory of $fpath\n"
         "_bumblebee() {\n"
         "  local -a verbs\n"
         "  verbs=(\n" +
         list +
         "  )\n"
         "  if (( CURRENT == 2 )); then\n"
         "    _describe 'verb' verbs\n"
         "    _arguments" +
         zsh_flags(flags_of(app)) +
         "\n"
         "    return\n"
         "  fi\n"
         "  local verb=\"$words[2]\"\n"
         "  shift words\n"
         "  (( CURRENT-- ))\n"
         "  case \"$verb\" in\n" +
         cases +
         "  esac\n"
         "}\n"
         "_bumblebee \"$@\"\n";
}

std::string fish_flag(const FlagWords& flag, const std::string& condition) {
  std::string out = "complete -c bumblebee" + condition;
  for (const std::string& name : flag.names) {
    out += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
  }
  if (flag.takes_value) out += " -r";
  return out + " -d '" + replaced(replaced(flag.description, "\\", "\\\\"), "'", "\\'") + "'\n";
}

std::string fish(const Parser& app) {
  std::string out = "# fish completion of bumblebee: put it in ~/.config/fish/completions/bumblebee.fish\n";
  for (const FlagWords& flag : flags_of(app)) out += fish_flag(flag, " -n __fish_use_subcommand");
  for (const VerbWords& verb : verbs_of(app)) {
    for (const std::string& name : verb.names) {
      out += "complete -c bumblebee -n __fish_use_subcommand -f -a " + name + " -d '" +
             replaced(verb.description, "'", "\\'") + "'\n";
    }
    std::string condition = " -n '__fish_seen_subcommand_from " + joined(verb.names, " ") + "'";
    for (const FlagWords& flag : verb.flags) out += fish_flag(flag, condition);
    if (verb.names.front() == "completions") out += "complete -c bumblebee" + condition + " -f -a 'bash zsh fish'\n";
  }
  return out;
}

int run(const CompletionFlags& flags) {
  std::string script = flags.shell == "bash"  ? bash(*flags.app)
                       : flags.shell == "zsh" ? zsh(*flags.app)
                                              : fish(*flags.app);
  if (flags.common.json) {
    print_json({{"shell", flags.shell}, {"script", script}});
  } else {
    write_out(script);
  }
  return int(ExitCode::ok);
}

}  // namespace

void add_completions(Parser& app, Session& session) {
  auto flags = std::make_shared<CompletionFlags>();
  flags->app = &app;
  Parser* verb = add_verb(app, {"completions", "Print a completion script for bash, zsh or fish"});
  verb->add_option("shell", flags->shell, "bash, zsh or fish")->required()->check(one_of({"bash", "zsh", "fish"}));
  verb->footer("Example:\n  source <(bumblebee completions bash)");
  on_chosen(*verb, session, flags, run);
}

}  // namespace bumblebee::cli
