// Harmony: <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...<|return|>, and
// <|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>, the recipient before the channel
// or after it. Gemma 4: <|channel>thought\n...<channel|>, then the answer.
#include "text/channels.h"

#include <utility>

namespace bumblebee::txt {
namespace {

constexpr size_t kLongestHeader = 512;
constexpr std::string_view kChannel = "<|channel|>", kTo = "to=";

/// The word of `header` after `name`, up to a blank or a mark; empty where there is none.
std::string_view word_after(std::string_view header, std::string_view name) {
  const size_t at = header.find(name);
  if (at == std::string_view::npos) return {};
  const std::string_view rest = header.substr(at + name.size());
  return rest.substr(0, rest.find_first_of(" \n<"));
}

/// What may still become " to=NAME", which a call may begin with.
bool may_be_recipient(std::string_view text) {
  constexpr std::string_view begins = " to=";
  return text.size() < kLongestHeader && text.substr(0, begins.size()) == begins.substr(0, text.size()) &&
         text.find('\n') == std::string_view::npos;
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

std::string Channels::mark(int32_t token) {
  const auto& [mark, spelled] = marks_.at(token);
  switch (mark) {
    case Mark::start:
      end_body();
      state_ = State::header;
      return {};
    case Mark::channel:
      if (state_ != State::header && state_ != State::before) end_body();
      if (!gemma_) header_ += kChannel;
      state_ = State::header;
      return {};
    case Mark::constrain:
      if (state_ == State::header) header_ += ' ';
      return {};
    case Mark::message: return begin_body();
    case Mark::thought_end:
    case Mark::end: end_body(); return {};
    case Mark::call: {
      std::string out = state_ == State::call ? give(spelled) : "";
      end_body();
      return out;
    }
    case Mark::as_it_is:
      if (state_ == State::before) state_ = State::said;
      return text(spelled);
  }
  return {};
}

std::string Channels::text(std::string_view piece) {
  if (piece.empty()) return {};
  switch (state_) {
    case State::before:
      header_ += piece;
      if (!gemma_ && may_be_recipient(header_)) return {};
      state_ = State::said;
      return give(std::exchange(header_, {}));
    case State::header: return header(piece);
    case State::thought: {
      std::string out;
      if (thought_ == Thought::begun) {
        out = give(said_ ? "\n<think>\n" : "<think>\n");
        thought_ = Thought::written;
      } else if (thought_ == Thought::over) {
        out = give("\n");
        thought_ = Thought::written;
      }
      return out + give(piece);
    }
    case State::said: {
      said_ = true;
      std::string out = close_thought();
      return out += give(piece);
    }
    case State::call: return give(piece);
  }
  return {};
}

/// Gemma's ends with its line; harmony's with <|message|>. What is too long is none.
std::string Channels::header(std::string_view piece) {
  header_ += piece;
  const size_t line = gemma_ ? header_.find('\n') : std::string::npos;
  if (line == std::string::npos && header_.size() < kLongestHeader) return {};
  const std::string whole = std::exchange(header_, {});
  if (gemma_ && whole.substr(0, line) == "thought") {
    state_ = State::thought;
    thought_ = Thought::begun;
    return text(std::string_view(whole).substr(line + 1));
  }
  state_ = State::said;
  return text(whole);
}

std::string Channels::begin_body() {
  const std::string whole = std::exchange(header_, {});
  const std::string_view to = word_after(whole, kTo), channel = word_after(whole, kChannel);
  if (!to.empty()) {
    state_ = State::call;
    std::string out = close_thought();
    out += give(std::string(kChannel) + std::string(channel.empty() ? "commentary" : channel) + " " + std::string(kTo) +
                std::string(to) + "<|message|>");
    return out;
  }
  if (channel == "analysis") {
    state_ = State::thought;
    if (thought_ == Thought::none) thought_ = Thought::begun;
    return {};
  }
  state_ = State::said;
  return said_ && thought_ == Thought::none ? give("\n") : "";
}

/// Of a thought that was written and is over.
std::string Channels::close_thought() {
  const bool close = thought_ == Thought::over || thought_ == Thought::written;
  thought_ = Thought::none;
  if (!close) return {};
  return give(last_ == '\n' ? "</think>\n\n" : "\n</think>\n\n");
}

void Channels::end_body() {
  if (state_ == State::thought) thought_ = thought_ == Thought::written ? Thought::over : Thought::none;
  state_ = State::said;
  header_.clear();
}

std::string Channels::flush() {
  if (state_ == State::before) return give(std::exchange(header_, {}));
  if (thought_ != Thought::over) return {};
  thought_ = Thought::none;
  return give(last_ == '\n' ? "</think>" : "\n</think>");
}

std::string Channels::give(std::string_view piece) {
  if (!piece.empty()) last_ = piece.back();
  return std::string(piece);
}

}  // namespace bumblebee::txt
