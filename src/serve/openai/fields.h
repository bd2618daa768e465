// The fields of every endpoint: what the parsers accept, ignore and refuse, and the tables of docs/serving.md. Both are
// made from the same lists.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace bumblebee::serve {

enum class Endpoint : uint8_t { chat, completions, tokenize, detokenize, apply_template, load_adapter, unload_adapter };

enum class FieldUse : uint8_t {
  accepted,
  ignored,  // changes no answer here
  refused,  // would change the answer, and does not exist here
  later,    // the same, and is planned
};

struct Field {
  std::string_view name;
  FieldUse use;
  std::string_view about;  // accepted: range and meaning; refused: what to do instead
};

std::vector<Field> fields_of(Endpoint endpoint);
std::string_view path_of(Endpoint endpoint);  // "/v1/chat/completions"
/// The table as docs/serving.md has it.
std::string field_table(Endpoint endpoint);

}  // namespace bumblebee::serve
