// Runs the real program as a user's shell would: arguments, environment, standard input; catches what it prints and how
// it ends.
#pragma once

#include <nlohmann/json.hpp>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace bumblebee::apps_test {

/// A path below tests/data/goldens.
inline std::string golden(const std::string& name) { return BB_TEST_DATA "/goldens/" + name; }

struct Outcome {
  int status = -1;  // exit status, or 128 + signal
  std::string out, err;

  /// Standard output as one JSON value; fails the test when it is something else.
  nlohmann::json json() const;
};

struct Call {
  std::vector<std::string> arguments;
  std::map<std::string, std::string> environment;  // beside a minimal one; nothing leaks in from the tester's shell
  std::string input;
  int interrupt_after_ms = 0;      // > 0: sends SIGINT after so long
  std::string interrupt_when_out;  // not empty: sends SIGINT once standard output contains this
};

Outcome run(const Call& call);
Outcome run(const std::vector<std::string>& arguments);

/// A directory that is empty at the start of the test and gone at its end.
class Scratch {
 public:
  Scratch();
  ~Scratch();
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

std::string tiny_model();                           // complete: weights, tokenizer, template
std::string golden_model(const std::string& name);  // no tokenizer
std::string tiny_gguf();

void write_file(const std::filesystem::path& path, const std::string& text);
std::string read_file(const std::filesystem::path& path);

/// A copy of the tiny model that a test may break.
void copy_tiny_model(const std::filesystem::path& to);

}  // namespace bumblebee::apps_test
