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
  const Option* json_option = nullptr;
};

/// What may stand as a value.
enum class Value : unsigned char { none, any, words, files, folders, models };

struct FlagWords {
  std::vector<std::string> names;  // "-m", "--model"
  std::string description;
  Value value = Value::none;
  std::vector<std::string> words;
};

struct VerbWords {
  std::vector<std::string> names;  // the verb, then its aliases
  std::string description;
  std::vector<FlagWords> flags;
  FlagWords first;              // what may stand first without a flag
  Value others = Value::files;  // and after it
};

Value value_of(const Option& option) {
  if (!option.words().empty()) return Value::words;
  const std::string shown = option.value_name();
  if (shown == "MODEL" || shown.starts_with("SRC")) return Value::models;
  if (shown == "DIR") return Value::folders;
  return shown == "FILE" ? Value::files : Value::any;
}

std::vector<FlagWords> flags_of(const Parser& app) {
  std::vector<FlagWords> out;
  for (const Option* option : app.options()) {
    FlagWords words{
        {}, option->description(), option->takes_value() ? value_of(*option) : Value::none, option->words()};
    for (const std::string& name : option->short_names()) words.names.push_back("-" + name);
    for (const std::string& name : option->long_names()) words.names.push_back("--" + name);
    if (words.names.empty()) continue;  // it stands by its place
    out.push_back(std::move(words));
  }
  return out;
}

/// `help` is followed by a verb, `cache rm` by what is in the cache; `info`, `fuse` and those like them by a model.
void add_places(VerbWords& verb, const Parser& parser, const std::vector<std::string>& verbs) {
  const std::string& name = verb.names.front();
  for (const Option* option : parser.options()) {
    const std::string place = option->positional_name();
    if (place.empty() || verb.first.value != Value::none) continue;
    verb.first.words = name == "help" ? verbs : option->words();
    const bool model = place == "source" || place == "directory" || name == "generate";
    verb.first.value = !verb.first.words.empty() ? Value::words : model ? Value::models : Value::files;
  }
  if (name == "cache" || name == "adapter") verb.others = Value::models;
}

std::vector<VerbWords> verbs_of(const Parser& app) {
  std::vector<std::string> names;
  for (const Parser* verb : app.verbs()) names.push_back(verb->name());
  std::vector<VerbWords> out;
  for (const Parser* verb : app.verbs()) {
    VerbWords words{{verb->name()}, verb->description(), flags_of(*verb), {}, Value::files};
    for (const std::string& alias : verb->aliases()) words.names.push_back(alias);
    add_places(words, *verb, names);
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

/// The command that proposes `value`.
std::string bash_value(Value value, const std::vector<std::string>& words) {
  if (value == Value::words) return "_bumblebee_words \"" + joined(words, " ") + "\"";
  if (value == Value::models) return "_bumblebee_models";
  return value == Value::folders ? "_bumblebee_folders" : value == Value::files ? "_bumblebee_files" : ":";
}

std::string bash_verb(const VerbWords& verb) {
  std::string out = "    " + joined(verb.names, "|") + ")\n      case \"$previous\" in\n";
  for (const FlagWords& flag : verb.flags) {
    if (flag.value != Value::none)
      out += "        " + joined(flag.names, "|") + ") " + bash_value(flag.value, flag.words) + "; return ;;\n";
  }
  out += "      esac\n      if [[ $current == -* ]]; then _bumblebee_words \"" + all_names(verb.flags) +
         "\"; return; fi\n";
  if (verb.first.value != Value::none)
    out += "      if (( COMP_CWORD == 2 )); then " + bash_value(verb.first.value, verb.first.words) + "; return; fi\n";
  return out + "      " + bash_value(verb.others, {}) + " ;;\n";
}

std::string bash(const Parser& app) {
  std::string names, cases;
  for (const VerbWords& verb : verbs_of(app)) {
    names += joined(verb.names, " ") + " ";
    cases += bash_verb(verb);
  }
  return "# bash completion of bumblebee: source it, or put it in "
         "~/.local/share/bash-completion/completions/bumblebee\n"
         "_bumblebee_words() { COMPREPLY=($(compgen -W \"$1\" -- \"$current\")); }\n"
         "_bumblebee_files() { compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- \"$current\"); }\n"
         "_bumblebee_folders() { compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- \"$current\"); }\n"
         "_bumblebee_models() {\n"
         "  local name\n"  // not compgen -W, which expands what it is given: names of folders are not ours
         "  while IFS= read -r name; do\n"
         "    [[ $name == \"$current\"* ]] && COMPREPLY+=(\"$name\")\n"
         "  done < <(\"${COMP_WORDS[0]}\" cache ls --names --json=false 2>/dev/null)\n"
         "  (( ${#COMPREPLY[@]} )) || _bumblebee_files\n"
         "}\n"
         "_bumblebee() {\n"
         "  local current=\"${COMP_WORDS[COMP_CWORD]}\" previous=\"${COMP_WORDS[COMP_CWORD-1]}\"\n"
         "  COMPREPLY=()\n"
         "  if (( COMP_CWORD == 1 )); then _bumblebee_words \"" +
         names + all_names(flags_of(app)) +
         "\"; return; fi\n"
         "  case \"${COMP_WORDS[1]}\" in\n" +
         cases +
         "  esac\n"
         "}\n"
         "complete -F _bumblebee bumblebee\n";
}

std::string zsh_quoted(std::string text) {
  text = replaced(std::move(text), "'", "'\\''");
  text = replaced(std::move(text), "[", "\\[");
  text = replaced(std::move(text), "]", "\\]");
  return replaced(std::move(text), ":", "\\:");
}

std::string zsh_value(Value value, const std::vector<std::string>& words) {
  if (value == Value::words) return "(" + joined(words, " ") + ")";
  if (value == Value::models) return "_bumblebee_models";
  return value == Value::folders ? "_files -/" : value == Value::files ? "_files" : " ";
}

std::string zsh_flags(const std::vector<FlagWords>& flags) {
  std::string out;
  for (const FlagWords& flag : flags) {
    for (const std::string& name : flag.names) {
      out += " \\\n        '*" + name + "[" + zsh_quoted(flag.description) + "]" +
             (flag.value == Value::none ? "'" : ":value:" + zsh_value(flag.value, flag.words) + "'");
    }
  }
  return out;
}

std::string zsh(const Parser& app) {
  std::string list, cases;
  for (const VerbWords& verb : verbs_of(app)) {
    for (const std::string& name : verb.names) list += "    '" + name + ":" + zsh_quoted(verb.description) + "'\n";
    std::string rest = "'*:value:" + zsh_value(verb.others, {}) + "'";
    if (verb.first.value != Value::none)
      rest = "'1:value:" + zsh_value(verb.first.value, verb.first.words) + "' " + rest;
    cases += "    " + joined(verb.names, "|") + ")\n      _arguments" + zsh_flags(verb.flags) + " \\\n        " + rest +
             " ;;\n";
  }
  return "#compdef bumblebee\n"
         "# zsh completion of bumblebee: put it as _bumblebee into a directory of $fpath\n"
         "_bumblebee_models() {\n"
         "  local -a models\n"
         "  models=(${(f)\"$(_call_program models bumblebee cache ls --names --json=false 2>/dev/null)\"})\n"
         "  compadd -a models\n"
         "  _files\n"
         "}\n"
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

std::string fish_value(Value value, const std::vector<std::string>& words) {
  if (value == Value::words) return " -f -a '" + joined(words, " ") + "'";
  if (value == Value::models) return " -F -a '(bumblebee cache ls --names --json=false 2>/dev/null)'";
  return value == Value::folders ? " -f -a '(__fish_complete_directories)'" : value == Value::files ? " -F" : "";
}

std::string fish_flag(const FlagWords& flag, const std::string& condition) {
  std::string out = "complete -c bumblebee" + condition;
  for (const std::string& name : flag.names) {
    out += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
  }
  if (flag.value != Value::none) out += " -r" + fish_value(flag.value, flag.words);
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
    if (verb.first.value == Value::words || verb.first.value == Value::models)
      out += "complete -c bumblebee" + condition + fish_value(verb.first.value, verb.first.words) + "\n";
    if (verb.others == Value::models) out += "complete -c bumblebee" + condition + fish_value(verb.others, {}) + "\n";
  }
  return out;
}

int run(const CompletionFlags& flags) {
  std::string script = flags.shell == "bash"  ? bash(*flags.app)
                       : flags.shell == "zsh" ? zsh(*flags.app)
                                              : fish(*flags.app);
  if (flags.common.json && flags.json_option->typed()) {  // a variable says nothing of what a shell reads
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
  flags->json_option = verb->get_option("--json");
}

}  // namespace bumblebee::cli
