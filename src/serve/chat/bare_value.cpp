// Reads what a model wrote without quotes: JSON, Python's words for it, or text.
#include "serve/chat/bare_value.h"

#include "base/ascii.h"
#include "serve/chat/json_scanner.h"
#include "serve/chat/json_text.h"

namespace bumblebee::serve {
namespace {

bool is_value(std::string_view text) {
  JsonScanner scanner;
  for (size_t i = 0; i < text.size(); ++i) {
    const JsonScanner::Step step = scanner.push(text[i]);
    if (step == JsonScanner::Step::ends) return i + 1 == text.size();
    if (step != JsonScanner::Step::more) return false;
  }
  return !text.empty() && scanner.push(' ') == JsonScanner::Step::has_ended;  // a number
}

}  // namespace

std::string bare_value(std::string_view text) {
  const std::string_view value = trimmed(text, kJsonBlanks);
  if (value == "True") return "true";
  if (value == "False") return "false";
  if (value == "None") return "null";
  return is_value(value) ? std::string(value) : json_text(text);
}

}  // namespace bumblebee::serve
