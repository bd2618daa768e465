// Pieces of one kind in a row become one event. Ids: nine letters and digits for Mistral, whose templates refuse
// others, "call_" and 24 of them elsewhere, as OpenAI's.
#include "serve/chat/answer_output.h"

#include <algorithm>
#include <random>
#include <utility>

#include "base/mark_byte.h"
#include "serve/chat/json_scanner.h"

namespace bumblebee::serve {
namespace {

constexpr std::string_view kAlphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
constexpr size_t kMistralId = 9, kId = 24;

uint64_t random_seed() {
  std::random_device device;
  return (uint64_t{device()} << 32) ^ device();
}

/// splitmix64.
uint64_t next_random(uint64_t& state) {
  uint64_t z = state += 0x9E3779B97F4A7C15;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

}  // namespace

AnswerOutput::AnswerOutput(const AnswerFormat& format)
    : format_(format), random_(format.id_seed ? *format.id_seed : random_seed()) {}

void AnswerOutput::append(AnswerEvent::Kind kind, std::string_view text) {
  if (text.empty()) return;
  if (events_->empty() || events_->back().kind != kind) {
    events_->push_back({.kind = kind, .tool = kind == AnswerEvent::Kind::arguments ? begun_calls_ - 1 : 0});
  }
  std::string& to = events_->back().text;
  for (const char c : text) {
    if (c != kMarkByte || !format_.certain_marks) to += c;
  }
}

void AnswerOutput::content(char c) {
  if (format_.certain_marks && c == kMarkByte) return;
  if (format_.tools != ToolFormat::none && is_json_blank(c) && blanks_.size() < kLongestBlank) {
    blanks_ += c;
    return;
  }
  give_blanks();
  append(AnswerEvent::Kind::content, {&c, 1});
}

void AnswerOutput::content(std::string_view text) {
  for (const char c : text) content(c);
}

void AnswerOutput::give_blanks() {
  if (begun_ || calls_ == 0) append(AnswerEvent::Kind::content, blanks_);
  blanks_.clear();
  begun_ = true;
  call_last_ = false;
}

void AnswerOutput::finish() {
  if (!call_last_) give_blanks();
}

bool AnswerOutput::knows(std::string_view tool) const {
  return std::find(format_.tool_names.begin(), format_.tool_names.end(), tool) != format_.tool_names.end();
}

bool AnswerOutput::is_text(std::string_view tool, std::string_view parameter, std::string_view value) const {
  const auto parameters = format_.text_parameters.find(tool);
  if (parameters == format_.text_parameters.end()) return false;
  const auto found = parameters->second.find(parameter);
  if (found == parameters->second.end()) return false;
  return !found->second || (value != "null" && value != "None");
}

void AnswerOutput::begin_call(std::string_view name, std::string_view id) {
  std::string chosen(id);
  const bool fit = id.size() == kMistralId && id.find_first_not_of(kAlphabet) == std::string_view::npos;
  if (!fit || ids_.contains(chosen)) chosen = make_id();
  ids_.insert(chosen);
  events_->push_back({.kind = AnswerEvent::Kind::tool_call,
                      .tool = begun_calls_++,
                      .id = std::move(chosen),
                      .name = std::string(name)});
  open_ = true;
}

void AnswerOutput::end_call() {
  open_ = false;
  ++calls_;
  call_last_ = true;
}

void AnswerOutput::withdraw_call() {
  if (open_) events_->push_back({.kind = AnswerEvent::Kind::withdrawn, .tool = begun_calls_ - 1});
  open_ = false;
}

std::string AnswerOutput::make_id() {
  const bool mistral = format_.tools == ToolFormat::mistral;
  std::string id = mistral ? "" : "call_";
  for (size_t i = 0; i < (mistral ? kMistralId : kId); ++i) {
    id += kAlphabet[size_t(next_random(random_) % kAlphabet.size())];
  }
  return id;
}

}  // namespace bumblebee::serve
