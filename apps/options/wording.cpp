// A table of the fields whose flags have other names; the others differ by dashes alone.
#include "options/wording.h"

#include <algorithm>
#include <cctype>
#include <string_view>
#include <vector>

#include "options/parser.h"

namespace bumblebee::cli {

namespace {

struct FieldFlag {
  std::string_view field, flag;
};

constexpr FieldFlag kFieldFlags[] = {
    {"sequence_length", "ctx-size"},  {"max_new_tokens", "max-tokens"},
    {"min_new_tokens", "min-tokens"}, {"no_repeat_ngram_length", "no-repeat-ngram"},
    {"alpha", "contrastive-alpha"},   {"without_adapters", "adapter"},
    {"top_logprobs", "logprobs"},     {"kv_bytes", "kv-memory"},
    {"overwrite", "force"},           {"tls_certificate", "tls-cert"},
};

/// Sentences of the library, and what they are for whoever has the flag.
struct Phrase {
  std::string_view theirs, ours, flag;
};

constexpr Phrase kPhrases[] = {
    {"the sequence length, allow more bytes, or store keys and values as int8",
     "--ctx-size, raise --kv-memory, or store them with --kv-type int8", "kv-memory"},
    {"the sequence length", "--ctx-size", "ctx-size"},
    {"resume it, overwrite it, or choose another adapter_path",
     "--resume goes on with it, --overwrite replaces it; or choose another --adapter-path", "resume"},
    {"overwrite it, or choose another adapter_path", "--overwrite replaces it; or choose another --adapter-path",
     "resume"},
    {"exists already, and overwriting was not asked for", "exists already; --force replaces it", "force"},
    {"give the base", "--base names it", "base"},
    {"no column '", "no such --column: '", "column"},
    {"could not be allocated", "could not be allocated; a smaller --ctx-size or --kv-type int8 needs less",
     "kv-memory"},
    {"could not be allocated",
     "could not be allocated; --grad-checkpoint, a smaller --batch-size or --max-seq-length needs less",
     "grad-checkpoint"},
};

const Option* flag_named(std::string_view name, const Parser& verb) {
  for (const Option* option : verb.options()) {
    const std::vector<std::string> names = option->long_names();
    if (std::find(names.begin(), names.end(), name) != names.end()) return option;
  }
  return nullptr;
}

const Option* flag_of(const std::string& field, const Parser& verb) {
  std::string name = field;
  std::replace(name.begin(), name.end(), '_', '-');
  for (const FieldFlag& one : kFieldFlags) {
    if (one.field == field) name = one.flag;
  }
  return flag_named(name, verb);
}

/// A prompt comes by one of several ways; null: by none that has a flag.
const Option* prompt_flag(const Parser& verb) {
  for (const char* name : {"prompt", "file", "tokens", "tokens-file"}) {
    const Option* option = flag_named(name, verb);
    if (option != nullptr && option->count() > 0) return option;
  }
  return nullptr;
}

std::string with_phrases(std::string text, const Parser& verb) {
  for (const Phrase& phrase : kPhrases) {
    size_t at = text.find(phrase.theirs);
    if (at == std::string::npos || flag_named(phrase.flag, verb) == nullptr) continue;
    for (; at != std::string::npos; at = text.find(phrase.theirs, at + phrase.ours.size()))
      text.replace(at, phrase.theirs.size(), phrase.ours);
    break;
  }
  return text;
}

bool in_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; }

/// Only what the library says of its own options: the text of a file, its keys and names, stays as it is.
bool speaks_of_options(const std::string& message) {
  for (const char* where : {"[generation] ", "[generation config] ", "[train] ", "[prepare] ", "[text] ", "[serve] "}) {
    if (message.starts_with(where)) return true;
  }
  return false;
}

}  // namespace

std::string in_flags(const std::string& message, const Parser& verb) {
  const std::string text = with_phrases(message, verb);
  if (!speaks_of_options(text)) return text;
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
    const Option* option = !field ? nullptr : word == "prompt" ? prompt_flag(verb) : flag_of(word, verb);
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
