// The command line as the verbs see it: verbs, flags and checks, without the library that parses them. parser.cpp alone
// includes that library: its headers cost every file some seconds of compilation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace CLI {
class Option;
}

namespace bumblebee::cli {

/// Looks at one value: empty when it is good, else what was expected.
using Check = std::function<std::string(const std::string&)>;

/// One flag, or a value that stands by its place. Lives as long as its parser.
class Option {
 public:
  explicit Option(CLI::Option& option) : option_(&option) {}

  Option* option_text(const std::string& text);  // what --help shows for the value
  Option* group(const std::string& heading);
  Option* check(Check check);
  Option* excludes(const Option* other);
  Option* required();
  /// A flag that may be repeated takes one value each time when false.
  Option* allow_extra_args(bool value);
  /// Takes exactly one value each time, and may be repeated.
  Option* one_each();

  size_t count() const;                          // values given; 0: keeps its default
  std::string value() const;                     // the value, as text
  std::string name() const;                      // "--max-tokens", or the name of a value without a flag
  std::string positional_name() const;           // empty for flags
  std::vector<std::string> short_names() const;  // without dashes
  std::vector<std::string> long_names() const;
  std::string environment() const;  // its environment variable; empty when there is none
  std::string description() const;
  bool takes_value() const;

 private:
  friend class Parser;
  CLI::Option* option_;
};

/// The program or one of its verbs.
class Parser {
 public:
  Parser(const std::string& description, const std::string& name, const char* version);
  ~Parser();
  Parser(const Parser&) = delete;
  Parser& operator=(const Parser&) = delete;

  Parser* add_verb(const std::string& name, const std::string& description);
  void alias(const std::string& name);
  void footer(const std::string& text);

  /// `names` as in "-n,--max-tokens"; without dashes it is a value that stands by its place.
  Option* add_option(const std::string& names, std::string& to, const std::string& description);
  Option* add_option(const std::string& names, int& to, const std::string& description);
  Option* add_option(const std::string& names, int64_t& to, const std::string& description);
  Option* add_option(const std::string& names, uint64_t& to, const std::string& description);
  Option* add_option(const std::string& names, float& to, const std::string& description);
  Option* add_option(const std::string& names, double& to, const std::string& description);
  Option* add_option(const std::string& names, std::vector<std::string>& to, const std::string& description);
  Option* add_option(const std::string& names, std::optional<int>& to, const std::string& description);
  Option* add_option(const std::string& names, std::optional<uint64_t>& to, const std::string& description);
  Option* add_option(const std::string& names, std::optional<double>& to, const std::string& description);
  Option* add_option_function(const std::string& names, std::function<void(const std::string&)> set,
                              const std::string& description);
  Option* add_flag(const std::string& names, bool& to, const std::string& description);
  /// The option of that name, which must exist.
  Option* get_option(const std::string& name);
  /// What is done when this verb was chosen and its flags are read.
  void parse_complete_callback(std::function<void()> callback);

  std::string name() const;
  std::string description() const;
  std::vector<std::string> aliases() const;
  bool check_name(const std::string& name) const;  // also an alias
  std::vector<const Option*> options() const;      // in the order of --help's source, with --help itself
  std::vector<const Parser*> verbs() const;
  std::string help() const;

  /// For the program, after the last verb: environment variables of all flags, and which of repeated values counts.
  void finish();
  /// Reads a command line. Returns the text to print where help or the version was asked for. Throws UsageError in our
  /// words, which name the environment variable where the bad value came from there.
  std::optional<std::string> parse(const std::vector<std::string>& arguments);

 private:
  struct Body;
  explicit Parser(std::unique_ptr<Body> body);
  Option* known(CLI::Option* option) const;
  template <class T>
  Option* add(const std::string& names, T& to, const std::string& description);
  std::unique_ptr<Body> body_;
};

}  // namespace bumblebee::cli
