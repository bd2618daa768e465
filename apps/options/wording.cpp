// A table of the fields whose flags have other names; the others differ by dashes alone.
#include "options/wording.h"

#include <algorithm>
#include <cctype>
#include <string_view>
#include <utility>
#include <vector>

#include "options/parser.h"

namespace bumblebee::cli {

namespace {

struct FieldFlag {
  std::string_view field, flag;
};

constexpr FieldFlag kFieldFlags[] = {
    {"sequence_length", "ctx-size"},
    {"max_new_tokens", "max-tokens"},
    {"min_new_tokens", "min-tokens"},
    {"no_repeat_ngram_length", "no-repeat-ngram"},
    {"alpha", "contrastive-alpha"},
    {"without_adapters", "adapter"},
    {"top_logprobs", "logprobs"},
    {"kv_bytes", "kv-memory"},
    {"overwrite", "force"},
};

/// Phrases of the library that mean a field.
constexpr std::pair<std::string_view, std::string_view> kPhrases[] = {
    {"the sequence length", "sequence_length"},
};

const Option* flag_of(const std::string& field, const Parser& verb) {
  std::string name = field;
  std::replace(name.begin(), name.end(), '_', '-');
  for (const FieldFlag& one : kFieldFlags) {
    if (one.field == field) name = one.flag;
  }
  for (const Option* option : verb.options()) {
    const std::vector<std::string> names = option->long_names();
    if (std::find(names.begin(), names.end(), name) != names.end()) return option;
  }
  return nullptr;
}

bool in_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; }

/// Only what the library says of its own options: the text of a file, its keys and names, stays as it is.
bool speaks_of_options(const std::string& message) {
  for (const char* where : {"[generation] ", "[generation config] ", "[train] ", "[prepare] ", "[text] "}) {
    if (message.starts_with(where)) return true;
  }
  return false;
}

}  // namespace

std::string in_flags(const std::string& message, const Parser& verb) {
  if (!speaks_of_options(message)) return message;
  std::string text = message;
  for (const auto& [phrase, field] : kPhrases) {
    for (size_t at = text.find(phrase); at != std::string::npos; at = text.find(phrase, at))
      text.replace(at, phrase.size(), field);
  }
  const size_t start = text.find(']') + 1;
  std::string out = text.substr(0, start), from_files;
  bool quoted = false;
  for (size_t at = start; at < text.size();) {
    size_t end = at;
    while (end < text.size() && in_word(text[end])) ++end;
    if (end == at) {
      quoted = text[at] == '\'' ? !quoted : quoted;
      out += text[at++];
      continue;
    }
    const std::string word = text.substr(at, end - at);
    // A word without '_' is a field only where a message begins with it: "iters: expected ...".
    const bool field = !quoted && (word.find('_') != std::string::npos || (at == start + 1 && text[end] == ':'));
    const Option* option = field ? flag_of(word, verb) : nullptr;
    const bool of_a_file = text.starts_with("[generation config]") || text.starts_with("[train]");
    const bool given = option != nullptr && (option->count() > 0 || !of_a_file);
    if (option != nullptr && !given && text.starts_with("[generation config]"))
      from_files += (from_files.empty() ? "" : ", ") + option->name() + " sets " + word;
    out += given ? option->name() : word;
    at = end;
  }
  // What begins with a flag needs no other place.
  if (out.starts_with(text.substr(0, start) + " --")) out.erase(0, start + 1);
  return from_files.empty() ? out : out + " (of the model's generation_config.json; " + from_files + ")";
}

}  // namespace bumblebee::cli
