// A model's answer, which anybody may steer, through the parsers of thoughts and calls. The first byte of the input
// says which form, the second how the text is cut: the same must come out whole and cut, every call must be one of
// those that were given and hold a JSON object, and what holds no call must come back as it was written.
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "base/mark_byte.h"
#include "serve/chat/answer_parser.h"

namespace {

using namespace bumblebee::serve;
using Kind = AnswerEvent::Kind;

void check(bool good) {
  if (!good) std::abort();
}

/// Pieces of one kind in a row become one.
std::vector<AnswerEvent> joined(const std::vector<AnswerEvent>& events) {
  std::vector<AnswerEvent> out;
  for (const AnswerEvent& event : events) {
    const bool text = event.kind != Kind::tool_call && event.kind != Kind::withdrawn;
    if (text && !out.empty() && out.back().kind == event.kind) {
      out.back().text += event.text;
    } else {
      out.push_back(event);
    }
  }
  return out;
}

/// Whether a number in it may be larger than a double: JSON has no such limit, nlohmann has.
bool may_overflow(std::string_view json) {
  int digits = 0, exponent = -1;
  for (const char c : json) {
    const bool digit = c >= '0' && c <= '9';
    digits = digit ? digits + 1 : 0;
    exponent = c == 'e' || c == 'E' ? 0 : exponent < 0 || (!digit && c != '+') ? -1 : exponent + (digit ? 1 : 0);
    if (digits >= 300 || exponent >= 2) return true;
  }
  return false;
}

/// `cut` 0: in one piece.
std::vector<AnswerEvent> take_apart(const AnswerFormat& format, std::string_view text, uint32_t cut, int& calls) {
  const auto parser = make_answer_parser(format);
  std::vector<AnswerEvent> events;
  uint32_t state = cut;
  while (!text.empty()) {
    state = state * 1664525 + 1013904223;
    const size_t piece = std::min(text.size(), cut == 0 ? text.size() : size_t(1 + (state >> 24) % (1 + cut % 16)));
    parser->push(text.substr(0, piece), events);
    text.remove_prefix(piece);
  }
  parser->finish(events);
  calls = parser->calls();
  check(parser->enough() == (!format.parallel_tool_calls && calls > 0));
  return joined(events);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  AnswerFormat format;
  format.tools = ToolFormat(((data[0] & 3) + ((data[0] & 32) != 0 ? 4 : 0) + (data[1] & 128) / 16) % 12);
  format.reasoning = (data[0] & 4) != 0;
  format.in_thought = (data[0] & 8) != 0;
  format.parallel_tool_calls = (data[0] & 16) == 0;
  format.certain_marks = (data[0] & 64) != 0;
  format.tool_names = {"f", "get_weather"};
  format.text_parameters = {{"f", {{"a", false}, {"b", true}}}};
  format.id_seed = 1;
  const std::string_view text(reinterpret_cast<const char*>(data + 2), size - 2);

  int calls = 0, cut_calls = 0;
  const std::vector<AnswerEvent> events = take_apart(format, text, 0, calls);
  check(take_apart(format, text, 1 + data[1], cut_calls) == events && cut_calls == calls);

  std::string content;
  std::vector<std::string> arguments;
  int begun = 0;
  for (const AnswerEvent& event : events) {
    switch (event.kind) {
      case Kind::content: content += event.text; break;
      case Kind::reasoning: check(format.reasoning); break;
      case Kind::tool_call:
        check(event.tool == begun++ && !event.id.empty() && (event.name == "f" || event.name == "get_weather"));
        arguments.emplace_back();
        break;
      case Kind::arguments:
        check(!arguments.empty() && event.tool == begun - 1);
        arguments.back() += event.text;
        break;
      case Kind::withdrawn:
        check(!arguments.empty() && event.tool == begun - 1);
        arguments.pop_back();
        break;
    }
  }
  check(int(arguments.size()) == calls);
  for (const std::string& json : arguments) {
    // Bytes that are no UTF-8 never come from a model's text; the parser hands them on, nlohmann does not take them.
    const bool ascii = std::all_of(json.begin(), json.end(), [](char c) { return uint8_t(c) < 0x80; });
    const bool half = json.find("\\u") != std::string::npos;  // halves of characters, which nlohmann does not take
    check(json.find('{') != std::string::npos &&
          (!ascii || half || may_overflow(json) || nlohmann::json::accept(json)));
  }
  std::string shown(text);
  if (format.certain_marks) std::erase(shown, bumblebee::kMarkByte);
  if (calls == 0 && !format.reasoning) check(content == shown);
  return 0;
}
