// The one file that knows CLI11: the layout of its help, the rule by which a value is taken from the command line or a
// variable, and its errors in our words.
#include "options/parser.h"

#include <unistd.h>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <deque>
#include <filesystem>
#include <set>

#include "options/nearest.h"
#include "options/variables.h"
#include "options/wording.h"
#include "options/words.h"
#include "ui/exit_codes.h"

namespace bumblebee::cli {

namespace {

/// CLI11's layout without what only costs width here: the environment variables follow one rule, which the footer
/// states.
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

/// Whether `text` has `word` with nothing around it that could be more of a flag's name.
bool mentions(const std::string& text, const std::string& word) {
  const auto part = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_'; };
  for (size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) {
    const size_t end = at + word.size();
    if ((at == 0 || !part(text[at - 1])) && (end == text.size() || !part(text[end]))) return true;
  }
  return false;
}

/// CLI11's message as a sentence of ours.
std::string reworded(const std::string& message) {
  constexpr std::string_view kConvert = "Could not convert: ";
  if (message.starts_with(kConvert)) {
    const size_t equals = message.find(" = ");
    const std::string name = message.substr(kConvert.size(), equals - kConvert.size());
    return name + ": expected a number, got '" + (equals == std::string::npos ? "" : message.substr(equals + 3)) + "'";
  }
  if (message.ends_with(" missing") && message.find(" required ") != std::string::npos)
    return message.substr(0, message.find(':')) + ": expected a value after it";
  return message;
}

}  // namespace

Option* Option::option_text(const std::string& text) { return option_->option_text(text), this; }
Option* Option::group(const std::string& heading) { return option_->group(heading), this; }
Option* Option::check(Check check) {
  words_ = check.words();
  option_->check(CLI::Validator([check = std::move(check)](std::string& text) { return check(text); }, ""));
  return this;
}
Option* Option::excludes(const Option* other, std::function<bool(const std::string&, const std::string&)> agrees) {
  exclusions_.push_back({other, std::move(agrees)});
  return this;
}
Option* Option::needs(std::vector<const Option*> others) { return needs_ = std::move(others), this; }
Option* Option::suggests(std::vector<std::string> words) { return words_ = std::move(words), this; }
Option* Option::shared() { return shared_ = true, this; }
Option* Option::required() { return option_->required(), this; }
Option* Option::allow_extra_args(bool value) { return option_->allow_extra_args(value), this; }

size_t Option::count() const { return option_->count(); }
std::string Option::value() const { return option_->as<std::string>(); }
std::string Option::name() const { return option_->get_name(); }
std::string Option::positional_name() const { return option_->get_positional() ? option_->get_name(true, false) : ""; }
std::vector<std::string> Option::short_names() const { return option_->get_snames(); }
std::vector<std::string> Option::long_names() const { return option_->get_lnames(); }
std::string Option::environment() const { return variables_.empty() ? "" : variables_.front(); }
std::string Option::origin() const { return read_from_.empty() ? name() : read_from_; }
std::string Option::value_name() const { return option_->get_option_text(); }
std::string Option::heading() const { return option_->get_group(); }
bool Option::sets(const std::string& value) const { return !is_flag() || is_yes(value); }
std::string Option::description() const { return option_->get_description(); }
bool Option::takes_value() const { return option_->get_items_expected_max() > 0; }

struct Parser::Body {
  std::unique_ptr<CLI::App> own;  // the program's; verbs lie inside it
  CLI::App* app = nullptr;
  std::string version;
  std::deque<Option> options;
  std::vector<std::unique_ptr<Parser>> verbs;
  bool own_variables = false;
  const Parser* chosen = nullptr;
  std::vector<std::string> notes;
};

Parser::Parser(std::unique_ptr<Body> body) : body_(std::move(body)) {}
Parser::~Parser() = default;

Parser::Parser(const std::string& description, const std::string& name, const char* version)
    : body_(std::make_unique<Body>()) {
  body_->own = std::make_unique<CLI::App>(description, name);
  body_->app = body_->own.get();
  body_->version = version;
  body_->app->formatter(std::make_shared<Layout>());
  body_->app->set_help_flag("-h,--help", "Print this help and exit");
  body_->app->set_version_flag("-v,--version", version, "Print the version and exit");
  body_->app->require_subcommand(0, 1);
  body_->app->get_formatter()->label("Subcommands", "Verbs");
}

Parser* Parser::add_verb(const std::string& name, const std::string& description) {
  auto body = std::make_unique<Body>();
  body->app = body_->app->add_subcommand(name, description);
  body->app->group("Verbs");
  body_->verbs.emplace_back(new Parser(std::move(body)));
  return body_->verbs.back().get();
}

void Parser::alias(const std::string& name) { body_->app->alias(name); }
void Parser::own_variables() { body_->own_variables = true; }
void Parser::footer(const std::string& text) { body_->app->footer(text); }

Option* Parser::known(CLI::Option* option) const {
  for (Option& one : body_->options) {
    if (one.option_ == option) return &one;
  }
  return &body_->options.emplace_back(*option);
}

template <class T>
Option* Parser::add(const std::string& names, T& to, const std::string& description) {
  return known(body_->app->add_option(names, to, description));
}

Option* Parser::add_option(const std::string& names, std::string& to, const std::string& description) {
  return add(names, to, description);
}
Option* Parser::add_option(const std::string& names, int& to, const std::string& description) {
  return add(names, to, description);
}
Option* Parser::add_option(const std::string& names, int64_t& to, const std::string& description) {
  return add(names, to, description);
}
Option* Parser::add_option(const std::string& names, uint64_t& to, const std::string& description) {
  return add(names, to, description);
}
Option* Parser::add_option(const std::string& names, float& to, const std::string& description) {
  return add(names, to, description);
}
Option* Parser::add_option(const std::string& names, double& to, const std::string& description) {
  return add(names, to, description);
}
Option* Parser::add_option(const std::string& names, std::vector<std::string>& to, const std::string& description) {
  return add(names, to, description);
}
Option* Parser::add_option(const std::string& names, std::optional<int>& to, const std::string& description) {
  return add(names, to, description);
}
Option* Parser::add_option(const std::string& names, std::optional<int64_t>& to, const std::string& description) {
  return add(names, to, description);
}
Option* Parser::add_option(const std::string& names, std::optional<double>& to, const std::string& description) {
  return add(names, to, description);
}
Option* Parser::add_option_function(const std::string& names, std::function<void(const std::string&)> set,
                                    const std::string& description) {
  return known(body_->app->add_option_function<std::string>(names, std::move(set), description));
}
Option* Parser::add_flag(const std::string& names, bool& to, const std::string& description) {
  return known(body_->app->add_flag(names, to, description));
}
Option* Parser::get_option(const std::string& name) { return known(body_->app->get_option(name)); }
void Parser::parse_complete_callback(std::function<void()> callback) {
  body_->app->parse_complete_callback(std::move(callback));
}

std::string Parser::name() const { return body_->app->get_name(); }
std::string Parser::description() const { return body_->app->get_description(); }
std::string Parser::footer() const { return body_->app->get_footer(); }
std::vector<std::string> Parser::aliases() const { return body_->app->get_aliases(); }
bool Parser::check_name(const std::string& name) const { return body_->app->check_name(name); }

std::vector<const Option*> Parser::options() const {
  std::vector<const Option*> out;
  for (CLI::Option* option : body_->app->get_options()) out.push_back(known(option));
  return out;
}

std::vector<const Parser*> Parser::verbs() const {
  std::vector<const Parser*> out;
  for (const auto& verb : body_->verbs) out.push_back(verb.get());
  return out;
}

std::string Parser::help() const {
  if (!body_->own) return body_->app->help("bumblebee");
  // help() of the program would delegate to the chosen verb, which may be `help`.
  return body_->app->get_formatter()->make_help(body_->app, "bumblebee", CLI::AppFormatMode::Normal);
}

void Parser::finish() {
  for (const auto& verb : body_->verbs) {
    CLI::App& app = *verb->body_->app;
    const std::string own = std::string(kVariablePrefix) + capitals(verb->name()) + "_";
    for (CLI::Option* option : app.get_options()) {
      Option& one = *verb->known(option);
      for (const std::string& name : one.long_names()) {
        if (name == "help") continue;
        one.variables_.push_back((verb->body_->own_variables && !one.shared_ ? own : std::string(kVariablePrefix)) +
                                 capitals(name));
      }
      // The last one given counts, so that a script can add to a line it was handed; lists collect instead.
      if (option->get_items_expected_max() <= 1) option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    }
    app.footer(app.get_footer() + "\n\n" + "Exit codes and environment variables of the flags: bumblebee --help");
  }
}

const Parser* Parser::verb_of(const std::vector<std::string>& arguments) const {
  for (const auto& verb : body_->verbs) {
    if (!arguments.empty() && verb->check_name(arguments.front())) return verb.get();
  }
  return nullptr;
}

Option* Parser::flag(const std::string& name) const {
  CLI::Option* option = name.starts_with('-') ? body_->app->get_option_no_throw(name) : nullptr;
  return option == nullptr ? nullptr : known(option);
}

/// What other programs call a flag becomes ours; what is none here is refused with the reason.
std::vector<std::string> Parser::in_our_words(std::vector<std::string> arguments) const {
  for (size_t at = 1; at < arguments.size() && arguments[at] != "--"; ++at) {
    std::string& argument = arguments[at];
    if (argument.size() < 2 || argument.front() != '-') continue;
    const std::string name = argument.substr(0, argument.find('='));
    const bool bare = name.size() == argument.size();  // its value is the next argument, and may look like anything
    if (const Option* ours = flag(name)) {
      if (!ours->takes_value()) continue;
      if (bare) ++at;
      if (!bare && name.size() == 2) argument.erase(2, 1);  // -n=5, whose value would be "=5"
      continue;
    }
    if (name[1] != '-' && name.size() > 2 && flag("-" + name))
      refuse("'" + name + "' is read as '" + name.substr(0, 2) + "' with the value '" + name.substr(2) +
                 "': a flag of several letters has two dashes, -" + name,
             this);
    const PeerWord* word = peer_flag(name);
    if (word == nullptr) continue;
    if (word->ours.empty()) refuse("there is no " + name + ": " + std::string(word->remark), this);
    const Option* ours = flag(std::string(word->ours));
    if (ours == nullptr) continue;
    argument = std::string(word->ours) + argument.substr(name.size());
    if (ours->takes_value() && bare) ++at;
  }
  return arguments;
}

void Parser::read(const std::vector<std::string>& arguments) {
  body_->app->parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));  // the order that CLI11 wants
}

/// After a first reading without variables: refuses what was typed together and excludes each other or has no effect,
/// and names to CLI11 the variables that count.
void Parser::settle_variables(const Parser& verb) {
  std::deque<Option>& options = verb.body_->options;
  std::vector<Option*> given, chosen;
  const auto value_of = [&](const Option* option) {
    return option->typed_ ? option->value() : variable(option->read_from_);
  };
  const auto exclude = [&](const Option* one, const Option* other) {
    const auto named = [&](const Option* a, const Option* b) {
      return std::any_of(a->exclusions_.begin(), a->exclusions_.end(), [&](const Option::Exclusion& exclusion) {
        return exclusion.other == b && !(exclusion.agrees && exclusion.agrees(value_of(a), value_of(b)));
      });
    };
    return named(one, other) || named(other, one);
  };
  for (Option& option : options) {
    option.typed_ = option.count() > 0;
    const bool off = option.typed_ && option.is_flag() && !option.option_->as<bool>();  // --flag=false
    if (option.typed_ && !off) given.push_back(&option);
  }
  for (Option& option : options) {
    if (option.typed_) continue;
    for (const std::string& name : option.variables_) {
      const std::string value = variable(name);
      if (value.empty()) continue;
      if (!option.read_from_.empty() && variable(option.read_from_) != value)
        refuse(option.read_from_ + " and " + name + " are one flag, " + option.name() + ", and differ", &verb);
      if (option.read_from_.empty()) option.read_from_ = name;
    }
    if (option.read_from_.empty()) continue;
    const std::string value = variable(option.read_from_);
    if (option.is_flag() && !is_yes(value) && !is_no(value))
      refuse(option.read_from_ + ": expected 1 or 0, got '" + value + "'", &verb);
    const bool yields = option.sets(value) && std::any_of(given.begin(), given.end(),
                                                          [&](const Option* typed) { return exclude(&option, typed); });
    if (yields) {
      option.read_from_.clear();
    } else {
      chosen.push_back(&option);
    }
  }
  std::vector<Option*> setting = given;
  for (Option* option : chosen) {
    if (option->sets(variable(option->read_from_))) setting.push_back(option);
  }
  for (const Option* one : setting) {
    for (const Option* other : setting) {
      if (one < other && exclude(one, other))
        refuse(one->origin() + " and " + other->origin() + " exclude each other", &verb);
    }
  }
  for (Option* option : setting) {
    const std::vector<const Option*>& needs = option->needs_;
    const auto there = [&](const Option* other) {
      return std::find(setting.begin(), setting.end(), other) != setting.end();
    };
    if (needs.empty() || std::any_of(needs.begin(), needs.end(), there)) continue;
    std::string names;
    for (const Option* other : needs) names += (names.empty() ? "" : " or ") + other->name();
    if (option->typed_) refuse(option->name() + " has no effect without " + names, &verb);
    option->read_from_.clear();
    std::erase(chosen, option);
  }
  for (Option* option : chosen) option->option_->envname(option->read_from_);
}

void Parser::note_unread_variables(const Parser& verb) {
  std::set<std::string> known = {"BUMBLEBEE_HUB_BACKOFF"};  // the library reads it
  for (const auto& one : body_->verbs) {
    for (const Option& option : one->body_->options) known.insert(option.variables_.begin(), option.variables_.end());
  }
  const std::string own = std::string(kVariablePrefix) + capitals(verb.name()) + "_";
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const size_t equals = text.find('=');
    if (!text.starts_with(kVariablePrefix) || equals == std::string_view::npos || equals + 1 == text.size()) continue;
    const std::string name(text.substr(0, equals));
    const std::string rest = name.substr(kVariablePrefix.size());
    const auto is_own = [&](const Option& option) {
      return std::find(option.variables_.begin(), option.variables_.end(), own + rest) != option.variables_.end();
    };
    const auto& options = verb.body_->options;
    const auto twin = std::find_if(options.begin(), options.end(), is_own);
    if (twin != options.end() && !twin->typed_ && twin->read_from_.empty()) {
      body_->notes.push_back(name + " does not reach '" + verb.name() + "', whose variable is " + own + rest);
    } else if (twin == options.end() && !known.contains(name)) {
      const auto ends = [&](const std::string& one) { return one.ends_with("_" + rest); };
      const auto longer = std::find_if(known.begin(), known.end(), ends);
      std::vector<std::string> rests;  // what all begin with says nothing of how near they are
      for (const std::string& one : known) rests.push_back(one.substr(kVariablePrefix.size()));
      const std::string like = nearest(rest, rests);
      const std::string near = longer != known.end() ? *longer
                               : like.empty()        ? ""
                                                     : std::string(kVariablePrefix) + like;
      body_->notes.push_back("nothing reads the variable " + name +
                             (near.empty() ? "" : "; did you mean " + near + "?"));
    }
  }
}

const std::vector<std::string>& Parser::notes() const { return body_->notes; }

std::string Parser::in_flags(const std::string& message) const {
  if (body_->chosen == nullptr) return message;
  const std::string text = cli::in_flags(message, *body_->chosen);
  std::string origins;
  for (const Option& option : body_->chosen->body_->options) {
    if (option.read_from_.empty() || mentions(text, option.read_from_)) continue;
    const std::string value = variable(option.read_from_);
    bool meant = value.size() > 2 && mentions(text, value);
    for (const std::string& name : option.long_names()) meant = meant || mentions(text, "--" + name);
    if (meant) origins += (origins.empty() ? "" : ", ") + option.name() + " is from " + option.read_from_;
  }
  return origins.empty() ? text : text + " (" + origins + ")";
}

void Parser::refuse(const std::string& message, const Parser* verb) const {
  const std::string see = message.ends_with('?') ? " See 'bumblebee " : "; see 'bumblebee ";
  throw UsageError(message + see + (verb ? verb->name() + " --help'" : "--help'"));
}

void Parser::refuse_extra(const Parser* verb, const std::vector<std::string>& arguments) const {
  if (verb == nullptr) {
    const std::string& first = arguments.front();
    const auto is_verb = [&](const std::string& word) { return verb_of({word}) != nullptr; };
    const auto later = std::find_if(arguments.begin(), arguments.end(), is_verb);
    if (first.starts_with('-'))
      refuse("no verb before '" + first + "'" +
                 (later != arguments.end() ? "; flags follow the verb: bumblebee " + *later + " " + first + " ..."
                                           : "; 'bumblebee generate' answers a prompt, 'bumblebee chat' converses"),
             nullptr);
    std::error_code ignored;
    if (first.find('/') != std::string::npos || std::filesystem::exists(first, ignored))
      refuse("no verb before '" + first + "'; 'bumblebee chat -m " + first + "' talks with a model", nullptr);
    if (const PeerWord* word = peer_verb(first)) {
      if (word->ours.empty()) refuse("no verb '" + first + "': " + std::string(word->remark), nullptr);
      refuse("no verb '" + first + "'; here it is 'bumblebee " + std::string(word->ours) + "'", nullptr);
    }
    std::vector<std::string> verbs;
    for (const auto& one : body_->verbs) {
      verbs.push_back(one->name());
      for (const std::string& alias : one->aliases()) verbs.push_back(alias);
    }
    const std::string near = nearest(first, verbs);
    refuse("no verb '" + first + "'" + (near.empty() ? "" : "; did you mean '" + near + "'?"), nullptr);
  }
  const std::vector<std::string> extra = verb->body_->app->remaining();
  const auto is_flag = [](const std::string& word) { return word.size() > 1 && word.front() == '-'; };
  const auto unknown = std::find_if(extra.begin(), extra.end(), is_flag);
  if (unknown == extra.end())
    refuse("did not expect '" + (extra.empty() ? "" : extra.front()) + "'; a text of several words needs quotes", verb);
  const std::string name = unknown->substr(0, unknown->find('='));
  std::vector<std::string> flags;
  for (const Option* option : verb->options()) {
    for (const std::string& one : option->long_names()) flags.push_back("--" + one);
  }
  std::string elsewhere;
  for (const auto& other : body_->verbs) {
    if (other->flag(name)) elsewhere += (elsewhere.empty() ? "" : ", ") + other->name();
  }
  const std::string near = nearest(name, flags);
  const std::string of_others =
      elsewhere.empty() ? "" : "; " + elsewhere + (elsewhere.find(',') == std::string::npos ? " has" : " have") + " it";
  refuse("unknown flag " + name + (near.empty() ? of_others : "; did you mean " + near + "?"), verb);
}

std::optional<std::string> Parser::parse(const std::vector<std::string>& typed) {
  const Parser* verb = body_->chosen = verb_of(typed);
  const std::vector<std::string> arguments = verb ? verb->in_our_words(typed) : typed;
  const auto chosen = [&](const std::string& message) -> const Option* {
    for (const Option* option : verb ? verb->options() : std::vector<const Option*>{}) {
      if (!option->read_from_.empty() && message.starts_with(option->name() + ":")) return option;
    }
    return nullptr;
  };
  try {
    read(arguments);
    if (verb) {
      settle_variables(*verb);
      note_unread_variables(*verb);
      read(arguments);
    }
    return {};
  } catch (const CLI::CallForHelp&) {
    return verb ? verb->help() : help();
  } catch (const CLI::CallForVersion&) {
    return "bumblebee " + body_->version + "\n";
  } catch (const CLI::ExtrasError&) {
    refuse_extra(verb, arguments);
  } catch (const CLI::ParseError& failure) {
    std::string message = reworded(failure.what());
    if (const Option* option = chosen(message)) message = option->read_from_ + message.substr(option->name().size());
    refuse(message, verb);
  }
}

}  // namespace bumblebee::cli
