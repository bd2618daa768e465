// Harmony: <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...<|return|>, and
// <|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>, the recipient before the channel
// or after it. Gemma 4: <|channel>thought\n...<channel|>, then the answer.
#include "text/channels.h"

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "base/mark_byte.h"

namespace bumblebee::txt {
namespace {

using Kind = Channels::Part::Kind;
using Words = std::initializer_list<std::string_view>;

constexpr size_t kLongestHeader = 512;
constexpr std::string_view kChannel = "<|channel|>", kMessage = "<|message|>", kTo = "to=";
/// In a header: where the token stands, and not its characters.
constexpr std::string_view kChannelToken = "\xFF<|channel|>";
constexpr std::string_view kThink = "<think>", kThinkEnd = "</think>";

/// The word of `header` after `name`, up to a blank or a mark; empty where there is none.
std::string_view word_after(std::string_view header, std::string_view name) {
  const size_t at = header.find(name);
  if (at == std::string_view::npos) return {};
  const std::string_view rest = header.substr(at + name.size());
  return rest.substr(0, rest.find_first_of(" \n<\xFF"));
}

/// What may still become " to=NAME", which a call may begin with.
bool may_be_recipient(std::string_view text) {
  constexpr std::string_view begins = " to=";
  return text.size() < kLongestHeader && text.substr(0, begins.size()) == begins.substr(0, text.size()) &&
         text.find('\n') == std::string_view::npos;
}

std::string_view without_blanks(std::string_view text) {
  const size_t at = text.find_first_not_of(" \n");
  return at == std::string_view::npos ? std::string_view() : text.substr(at);
}

bool begins_one(Words words, std::string_view text) {
  for (const std::string_view word : words) {
    if (word.starts_with(text)) return true;
  }
  return false;
}

/// What `part` of a header has beyond one of the names, a recipient and a type, or the beginning of any of them.
std::string_view beyond(std::string_view part, Words names) {
  std::string_view rest = without_blanks(part);
  if (begins_one(names, rest)) return {};
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  bool named = rest.starts_with(kTo);
  for (const std::string_view name : names) {
    if (named || !rest.starts_with(name) || letter(rest[name.size()])) continue;
    rest = without_blanks(rest.substr(name.size()));
    named = true;
  }
  if (!named) return part;
  if (rest.starts_with(kTo)) rest = without_blanks(rest.substr(std::min(rest.find_first_of(" \n"), rest.size())));
  return begins_one({kTo, "json", "code"}, rest) ? std::string_view() : rest;
}

/// What a header of harmony that never ended has beyond what headers have: text, by a model that forgot <|message|>.
std::string beyond_header(std::string_view header) {
  std::string out;
  const size_t channel = header.find(kChannelToken);
  out += beyond(header.substr(0, channel), {"assistant", "user", "system", "developer", "tool"});
  if (channel == std::string_view::npos) return out;
  out += beyond(header.substr(channel + kChannelToken.size()), {"analysis", "commentary", "final"});
  std::erase(out, kMarkByte);
  return out;
}

}  // namespace

std::optional<Channels> Channels::of(const Tokenizer& tokenizer) {
  Channels channels;
  const auto add = [&](const char* token, Mark mark) {
    const std::optional<int32_t> id = tokenizer.id_of(token);
    if (!id || !tokenizer.is_special(*id)) return false;
    channels.marks_[*id] = {mark, token};
    return true;
  };
  if (add("<|start|>", Mark::start) && add("<|channel|>", Mark::channel) && add("<|message|>", Mark::message)) {
    add("<|constrain|>", Mark::constrain);
    add("<|end|>", Mark::end);
    add("<|return|>", Mark::end);
    add("<|call|>", Mark::call);
    return channels;
  }
  channels.marks_.clear();
  if (add("<|channel>", Mark::channel) && add("<channel|>", Mark::thought_end)) {
    channels.gemma_ = true;
    for (const char* token : {"<|tool_call>", "<tool_call|>", "<|\"|>"}) add(token, Mark::as_it_is);
    return channels;
  }
  return std::nullopt;
}

Channels::Parts Channels::mark(int32_t token) {
  const auto& [mark, spelled] = marks_.at(token);
  const bool begins = state_ == State::header || state_ == State::before;
  Parts out;
  switch (mark) {
    case Mark::start:
      end_body(out);
      give(Kind::token, {}, out);
      state_ = State::header;
      break;
    case Mark::channel:
      begins && !gemma_ ? report_header(out) : end_body(out);
      give(Kind::token, {}, out);
      if (!gemma_) header_ += kChannelToken;
      reported_ = header_.size();
      state_ = State::header;
      break;
    case Mark::constrain:
      if (state_ == State::header) report_header(out);
      give(Kind::token, {}, out);
      if (state_ == State::header) header_ += ' ';
      reported_ = header_.size();
      break;
    case Mark::message:
      if (begins) report_header(out);
      give(Kind::token, {}, out);
      begin_body(out);
      break;
    case Mark::thought_end:
    case Mark::end:
      end_body(out);
      give(Kind::token, {}, out);
      break;
    case Mark::call:
      if (state_ != State::call) end_body(out);
      give(Kind::token, {}, out);
      if (state_ == State::call) give(Kind::mark, spelled, out);
      state_ = State::said;
      break;
    case Mark::as_it_is:
      if (begins) end_body(out);
      give(Kind::token, {}, out);
      body(spelled, out, Kind::mark);
      break;
  }
  return out;
}

Channels::Parts Channels::text(std::string_view piece) {
  Parts out;
  if (piece.empty()) return out;
  if (state_ == State::header) {
    header(piece, out);
  } else if (state_ == State::before) {
    header_ += piece;
    if (!gemma_ && may_be_recipient(header_)) return out;
    end_body(out);
  } else {
    body(piece, out);
  }
  return out;
}

/// Of a thought, of what is said or of a call.
void Channels::body(std::string_view piece, Parts& out, Kind kind) {
  if (state_ == State::thought) {
    if (thought_ == Thought::begun) {
      if (said_) give(Kind::made, "\n", out);
      give(Kind::mark, kThink, out);
    }
    if (thought_ != Thought::written) give(Kind::made, "\n", out);
    thought_ = Thought::written;
  } else if (state_ == State::said) {
    said_ = true;
    close_thought("\n\n", out);
  }
  give(kind, piece, out);
}

/// Gemma's ends with its line; harmony's with <|message|>. What is too long is none.
void Channels::header(std::string_view piece, Parts& out) {
  header_ += piece;
  const size_t line = gemma_ ? header_.find('\n') : std::string::npos;
  if (line == std::string::npos && header_.size() < kLongestHeader) return;
  std::string whole = take_header();
  if (gemma_ && whole.substr(0, line) == "thought") {
    give(Kind::header, whole.substr(0, line + 1), out);
    state_ = State::thought;
    if (thought_ == Thought::none) thought_ = Thought::begun;
    whole.erase(0, line + 1);
  } else {
    state_ = State::said;
    std::erase(whole, kMarkByte);
  }
  if (!whole.empty()) body(whole, out);
}

/// What was not yet, before a token within it.
void Channels::report_header(Parts& out) {
  give(Kind::header, std::string_view(header_).substr(reported_), out);
  reported_ = header_.size();
}

void Channels::begin_body(Parts& out) {
  const std::string whole = take_header();
  const std::string_view to = word_after(whole, kTo), channel = word_after(whole, kChannelToken);
  if (!to.empty()) {
    state_ = State::call;
    close_thought("\n\n", out);
    give(Kind::mark, kChannel, out);
    give(Kind::made, std::string(channel.empty() ? "commentary" : channel) + " " + std::string(kTo) + std::string(to),
         out);
    give(Kind::mark, kMessage, out);
  } else if (channel == "analysis") {
    state_ = State::thought;
    if (thought_ == Thought::none) thought_ = Thought::begun;
  } else {
    state_ = State::said;
    if (said_ && thought_ == Thought::none) give(Kind::made, "\n", out);
  }
}

/// Of a thought that was written and is over.
void Channels::close_thought(std::string_view blanks, Parts& out) {
  const bool close = thought_ == Thought::over || thought_ == Thought::written;
  thought_ = Thought::none;
  if (!close) return;
  if (last_ != '\n') give(Kind::made, "\n", out);
  give(Kind::mark, kThinkEnd, out);
  give(Kind::made, blanks, out);
}

/// A thought of nothing is none, and what no header has is said.
void Channels::end_body(Parts& out) {
  if (state_ == State::thought && thought_ != Thought::over)
    thought_ = thought_ == Thought::written ? Thought::over : Thought::none;
  const State was = std::exchange(state_, State::said);
  std::string rest = take_header();
  if (was == State::header && gemma_ && begins_one({"thought"}, rest)) return;
  if (was == State::header && !gemma_) rest = beyond_header(rest);
  if (!rest.empty()) body(rest, out);
}

Channels::Parts Channels::flush() {
  Parts out;
  if (state_ == State::before || state_ == State::header) end_body(out);
  if (thought_ == Thought::over) close_thought({}, out);
  return out;
}

void Channels::give(Kind kind, std::string_view text, Parts& out) {
  if (text.empty() && kind != Kind::token) return;
  if (!text.empty() && kind != Kind::header) last_ = text.back();
  out.push_back({kind, std::string(text)});
}

std::string Channels::take_header() {
  reported_ = 0;
  return std::exchange(header_, {});
}

}  // namespace bumblebee::txt
