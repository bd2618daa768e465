// The command line as the verbs see it: verbs, flags and checks, without the library that parses them. parser.cpp alone
// includes that library: its headers cost every file some seconds of compilation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace CLI {
class Option;
}

namespace bumblebee::cli {

/// Looks at one value: empty when it is good, else what was expected. `words` are all values that are good, where they
/// can be listed: shells complete them.
class Check {
 public:
  template <class Look>
    requires(!std::is_same_v<std::remove_cvref_t<Look>, Check>)
  Check(Look look, std::vector<std::string> words = {}) : look_(std::move(look)), words_(std::move(words)) {}
  std::string operator()(const std::string& text) const { return look_(text); }
  const std::vector<std::string>& words() const { return words_; }

 private:
  std::function<std::string(const std::string&)> look_;
  std::vector<std::string> words_;
};

/// One flag, or a value that stands by its place. Lives as long as its parser.
///
/// Where a value comes from: what was typed counts, then the flag's environment variable; whoever reads a file puts it
/// under both. parse() enforces the rule: a variable yields to a typed flag that excludes its own, and counts only
/// where its flag would have an effect.
class Option {
 public:
  explicit Option(CLI::Option& option) : option_(&option) {}

  Option* option_text(const std::string& text);  // what --help shows for the value
  Option* group(const std::string& heading);
  Option* check(Check check);
  /// Refused together; `agrees` looks at both values and allows those that mean the same.
  Option* excludes(const Option* other, std::function<bool(const std::string&, const std::string&)> agrees = {});
  /// Has an effect only beside one of these: refused without them where it was typed.
  Option* needs(std::vector<const Option*> others);
  /// In a verb with variables of its own: this flag's variable is that of every verb all the same.
  Option* shared();
  Option* required();
  /// Values that shells complete, where others are taken too.
  Option* suggests(std::vector<std::string> words);
  /// A flag that may be repeated takes one value each time when false.
  Option* allow_extra_args(bool value);

  size_t count() const;                          // values given; 0: keeps its default
  bool typed() const { return typed_; }          // on the command line, as opposed to in its variable
  std::string value() const;                     // the value, as text
  std::string name() const;                      // "--max-tokens", or the name of a value without a flag
  std::string positional_name() const;           // empty for flags
  std::vector<std::string> short_names() const;  // without dashes
  std::vector<std::string> long_names() const;
  std::string environment() const;  // its environment variable; empty when there is none
  std::string origin() const;       // how an error names it: "--temp", or the variable that the value came from
  std::string description() const;
  std::string value_name() const;                                   // what --help shows for the value
  std::string heading() const;                                      // the group it is in
  const std::vector<std::string>& words() const { return words_; }  // its values, as far as they can be listed
  bool takes_value() const;

 private:
  friend class Parser;
  struct Exclusion {
    const Option* other;
    std::function<bool(const std::string&, const std::string&)> agrees;
  };
  bool is_flag() const { return !takes_value(); }
  /// Whether the value means that the flag is set: BUMBLEBEE_GREEDY=0 excludes nothing.
  bool sets(const std::string& value) const;

  CLI::Option* option_;
  std::vector<std::string> variables_, words_;  // a variable for each long name; the first is the one we name
  std::vector<Exclusion> exclusions_;
  std::vector<const Option*> needs_;
  std::string read_from_;  // the variable that was read
  bool typed_ = false, shared_ = false;
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
  /// For a verb that writes or deletes: its flags' variables carry its name (BUMBLEBEE_TRAIN_ITERS), so that what is
  /// set for another verb changes no data and no training. Those of shared() flags do not.
  void own_variables();
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
  Option* add_option(const std::string& names, std::optional<int64_t>& to, const std::string& description);
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
  std::string footer() const;
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
  /// What parse() noticed and did not refuse: variables that nothing reads.
  const std::vector<std::string>& notes() const;
  /// An error's message in flags of the chosen verb instead of fields, with the variables that its values came from.
  std::string in_flags(const std::string& message) const;

 private:
  struct Body;
  explicit Parser(std::unique_ptr<Body> body);
  Option* known(CLI::Option* option) const;
  template <class T>
  Option* add(const std::string& names, T& to, const std::string& description);
  Option* flag(const std::string& name) const;  // "--model" or "-m"; null when there is none
  const Parser* verb_of(const std::vector<std::string>& arguments) const;
  std::vector<std::string> in_our_words(std::vector<std::string> arguments) const;
  void read(const std::vector<std::string>& arguments);
  void settle_variables(const Parser& verb);
  void note_unread_variables(const Parser& verb);
  [[noreturn]] void refuse(const std::string& message, const Parser* verb) const;
  [[noreturn]] void refuse_extra(const Parser* verb, const std::vector<std::string>& arguments) const;
  std::unique_ptr<Body> body_;
};

}  // namespace bumblebee::cli
