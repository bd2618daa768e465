// Reads the environment.
#include "options/variables.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>

namespace bumblebee::cli {

namespace {

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return char(std::tolower(c)); });
  return text;
}

}  // namespace

std::string capitals(std::string name) {
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return c == '-' ? '_' : char(std::toupper(c)); });
  return name;
}

std::string variable(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  return value == nullptr ? "" : value;
}

bool is_yes(std::string word) {
  word = lower(std::move(word));
  return word == "1" || word == "true" || word == "yes" || word == "on";
}

bool is_no(std::string word) {
  word = lower(std::move(word));
  return word == "0" || word == "false" || word == "no" || word == "off";
}

}  // namespace bumblebee::cli
