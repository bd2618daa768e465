// The one file that knows CLI11: the layout of its help, the environment variables of its flags, and its errors in our
// words.
#include "options/parser.h"

#include <CLI/CLI.hpp>

#include <cstdlib>
#include <deque>

#include "options/common.h"
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

}  // namespace

Option* Option::option_text(const std::string& text) { return option_->option_text(text), this; }
Option* Option::group(const std::string& heading) { return option_->group(heading), this; }
Option* Option::check(Check check) {
  option_->check(CLI::Validator([check = std::move(check)](std::string& text) { return check(text); }, ""));
  return this;
}
Option* Option::excludes(const Option* other) { return option_->excludes(other->option_), this; }
Option* Option::required() { return option_->required(), this; }
Option* Option::allow_extra_args(bool value) { return option_->allow_extra_args(value), this; }
Option* Option::one_each() {
  option_->expected(1)->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  return this;
}

size_t Option::count() const { return option_->count(); }
std::string Option::value() const { return option_->as<std::string>(); }
std::string Option::name() const { return option_->get_name(); }
std::string Option::positional_name() const { return option_->get_positional() ? option_->get_name(true, false) : ""; }
std::vector<std::string> Option::short_names() const { return option_->get_snames(); }
std::vector<std::string> Option::long_names() const { return option_->get_lnames(); }
std::string Option::environment() const { return option_->get_envname(); }
std::string Option::description() const { return option_->get_description(); }
bool Option::takes_value() const { return option_->get_items_expected_max() > 0; }

struct Parser::Body {
  std::unique_ptr<CLI::App> own;  // the program's; verbs lie inside it
  CLI::App* app = nullptr;
  std::string version;
  std::deque<Option> options;
  std::vector<std::unique_ptr<Parser>> verbs;
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
  body_->app->set_version_flag("--version", version, "Print the version and exit");
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
Option* Parser::add_option(const std::string& names, std::optional<uint64_t>& to, const std::string& description) {
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
    for (CLI::Option* option : app.get_options()) {
      option->envname(environment_twin(*known(option)));
      // The last one given counts, so that a script can add to a line it was handed; lists collect instead.
      if (option->get_items_expected_max() <= 1) option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    }
    app.footer(app.get_footer() + "\n\n" + "Exit codes and environment variables of the flags: bumblebee --help");
  }
}

std::optional<std::string> Parser::parse(const std::vector<std::string>& arguments) {
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());  // the order that CLI11 wants
  try {
    body_->app->parse(reversed);
    return {};
  } catch (const CLI::CallForHelp&) {
    for (const auto& verb : body_->verbs) {
      if (verb->body_->app->parsed()) return verb->help();
    }
    return help();
  } catch (const CLI::CallForVersion&) {
    return "bumblebee " + body_->version + "\n";
  } catch (const CLI::ParseError& failure) {
    // CLI11's message as one sentence of ours.
    std::string message = failure.what();
    const Parser* verb = nullptr;
    for (const auto& one : body_->verbs) {
      if (!arguments.empty() && one->check_name(arguments.front())) verb = one.get();
    }
    if (!verb && !arguments.empty() && !arguments.front().starts_with('-'))
      throw UsageError("no verb '" + arguments.front() + "'; 'bumblebee --help' lists them");
    for (const Option* option : verb ? verb->options() : std::vector<const Option*>{}) {
      const bool named = message.starts_with(option->name() + ":");
      if (named && !typed(*option, arguments) && std::getenv(option->environment().c_str()))
        message += " (from " + option->environment() + ")";
    }
    throw UsageError(message + "; see 'bumblebee " + (verb ? verb->name() + " --help'" : "--help'"));
  }
}

}  // namespace bumblebee::cli
