// Reads what a model wrote without quotes: JSON, Python's words for it, or text.
#include "serve/chat/bare_value.h"

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
  std::string_view trimmed = text;
  while (!trimmed.empty() && is_json_blank(trimmed.front())) trimmed.remove_prefix(1);
  while (!trimmed.empty() && is_json_blank(trimmed.back())) trimmed.remove_suffix(1);
  if (trimmed == "True") return "true";
  if (trimmed == "False") return "false";
  if (trimmed == "None") return "null";
  return is_value(trimmed) ? std::string(trimmed) : json_text(text);
}

}  // namespace bumblebee::serve
