// What a parser makes of an answer, as one line that a test can read: [content], {reasoning}, <0 name: arguments>, and
// <0 withdrawn>; and answers that are cut at random.
#pragma once

#include <nlohmann/json.hpp>

#include <algorithm>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "base/mark_byte.h"
#include "serve/chat/answer_parser.h"

namespace bumblebee::serve::testing {

/// Pieces of one kind in a row become one.
inline std::vector<AnswerEvent> joined(const std::vector<AnswerEvent>& events) {
  using Kind = AnswerEvent::Kind;
  std::vector<AnswerEvent> out;
  for (const AnswerEvent& event : events) {
    const bool text = event.kind != Kind::tool_call && event.kind != Kind::withdrawn;
    if (text && !out.empty() && out.back().kind == event.kind && out.back().tool == event.tool) {
      out.back().text += event.text;
    } else {
      out.push_back(event);
    }
  }
  return out;
}

struct TakenApart {
  std::vector<AnswerEvent> events;  // joined
  int calls = 0;
  bool enough = false;
};

/// In pieces of lengths that `length` gives.
template <class Length>
TakenApart take_apart(const AnswerFormat& format, std::string_view text, Length length) {
  const auto parser = make_answer_parser(format);
  std::vector<AnswerEvent> events;
  for (size_t at = 0; at < text.size();) {
    const size_t piece = length();
    parser->push(text.substr(at, piece), events);
    at += piece;
  }
  parser->finish(events);
  return {joined(events), parser->calls(), parser->enough()};
}
inline TakenApart take_apart(const AnswerFormat& format, std::string_view text) {
  return take_apart(format, text, [&text] { return text.size(); });
}

inline std::string line(const std::vector<AnswerEvent>& events) {
  std::string out;
  bool open = false;
  for (const AnswerEvent& event : events) {
    if (open && event.kind != AnswerEvent::Kind::arguments) out += '>', open = false;
    switch (event.kind) {
      case AnswerEvent::Kind::content: out += '[' + event.text + ']'; break;
      case AnswerEvent::Kind::reasoning: out += '{' + event.text + '}'; break;
      case AnswerEvent::Kind::tool_call: out += '<' + std::to_string(event.tool) + ' ' + event.name, open = true; break;
      case AnswerEvent::Kind::arguments: out += ": " + event.text; break;
      case AnswerEvent::Kind::withdrawn: out += '<' + std::to_string(event.tool) + " withdrawn>"; break;
    }
  }
  return open ? out + '>' : out;
}

/// What a client has that collects all events: calls that were withdrawn are gone.
struct Collected {
  std::string content, reasoning;
  struct Call {
    std::string id, name, arguments;
  };
  std::vector<Call> calls;
};
inline Collected collected(const std::vector<AnswerEvent>& events) {
  Collected all;
  for (const AnswerEvent& event : events) {
    switch (event.kind) {
      case AnswerEvent::Kind::content: all.content += event.text; break;
      case AnswerEvent::Kind::reasoning: all.reasoning += event.text; break;
      case AnswerEvent::Kind::tool_call: all.calls.push_back({event.id, event.name, ""}); break;
      case AnswerEvent::Kind::arguments: all.calls.back().arguments += event.text; break;
      case AnswerEvent::Kind::withdrawn: all.calls.pop_back(); break;
    }
  }
  return all;
}

inline AnswerFormat format_of(ToolFormat tools, bool reasoning = false) {
  AnswerFormat format{.reasoning = reasoning};
  format.tools = tools;
  format.tool_names = {"f", "get_weather", "search-web"};
  format.id_seed = 7;
  return format;
}

/// The whole of it, byte by byte, as one line.
inline std::string line(const AnswerFormat& format, std::string_view text) {
  const std::string whole = line(take_apart(format, text).events);
  const std::string bytes = line(take_apart(format, text, [] { return size_t{1}; }).events);
  return whole == bytes ? whole : "whole: " + whole + "\nbytes: " + bytes;
}

/// The same of a model whose marks are control tokens; ^ stands for kMarkByte.
inline std::string certain_line(AnswerFormat format, std::string text) {
  format.certain_marks = true;
  std::replace(text.begin(), text.end(), '^', kMarkByte);
  return line(format, text);
}

}  // namespace bumblebee::serve::testing
