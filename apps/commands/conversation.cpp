// Turns, and the commands that look at them or change them.
#include "commands/conversation.h"

#include <fmt/core.h>

#include <cstdio>
#include <filesystem>

#include "base/atomic_file.h"
#include "ui/exit_codes.h"
#include "ui/interrupt.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

namespace {

/// The beginning of a text, on one line.
std::string beginning(const std::string& text) {
  constexpr size_t kMost = 40;
  if (text.size() <= kMost) return one_line(text);
  size_t end = kMost;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;  // whole characters
  return one_line(text.substr(0, end)) + "...";
}

std::string settings_of(const GenerationConfig& config) {
  std::string out;
  if (const auto* draw = std::get_if<MultinomialSampling>(&config.strategy)) {
    out = fmt::format("temp {:g}, top-k {}, top-p {:g}, min-p {:g}, ", config.temperature, draw->top_k, draw->top_p,
                      draw->min_p);
  } else if (const auto* search = std::get_if<ContrastiveSearch>(&config.strategy)) {
    out = fmt::format("contrastive-alpha {:g}, top-k {}, ", search->alpha, search->top_k);
  } else {
    out = "greedy, ";
  }
  if (config.repetition_penalty != 1) out += fmt::format("repeat-penalty {:g}, ", config.repetition_penalty);
  if (config.presence_penalty != 0) out += fmt::format("presence-penalty {:g}, ", config.presence_penalty);
  if (config.frequency_penalty != 0) out += fmt::format("frequency-penalty {:g}, ", config.frequency_penalty);
  if (config.no_repeat_ngram_length > 0) out += fmt::format("no-repeat-ngram {}, ", config.no_repeat_ngram_length);
  if (config.min_new_tokens) out += fmt::format("min-tokens {}, ", *config.min_new_tokens);
  if (config.min_chars) out += fmt::format("min-chars {}, ", *config.min_chars);
  if (config.max_chars) out += fmt::format("max-chars {}, ", *config.max_chars);
  for (const std::string& stop : config.stop_strings) out += "stop '" + one_line(stop) + "', ";
  for (const auto& [name, on] : {std::pair("think", config.strip.think), std::pair("hashtags", config.strip.hashtags),
                                 std::pair("emoji", config.strip.emoji)}) {
    if (on) out += std::string("strip ") + name + ", ";
  }
  const int most = config.max_new_tokens.value_or(kNoLimit);
  return out + (most == kNoLimit ? "max-tokens -1" : fmt::format("max-tokens {}", most)) +
         fmt::format(", seed {}", *config.seed);
}

/// Whether the template takes a thought at the beginning of an answer for something that was said: others take it out.
bool keeps_thoughts(const Tokenizer& tokenizer, const ChatOptions& options) {
  constexpr std::string_view kThought = "bumblebees of old";
  const std::vector<Message> messages = {
      {"user", "a", {}}, {"assistant", "<think>\n" + std::string(kThought) + "\n</think>\n\nb", {}}, {"user", "c", {}}};
  try {
    return tokenizer.apply_chat_template(messages, options).text.find(kThought) != std::string::npos;
  } catch (const Error&) {
    return false;  // what it refuses is said when it is asked
  }
}

}  // namespace

Conversation::Conversation(const CommonFlags& common, const SamplingFlags& sampling, const ChatFlags& chat,
                           ReadyModel ready)
    : common_(common),
      sampling_(sampling),
      ready_(std::move(ready)),
      chat_(chat.options()),
      system_(chat.system_prompt),
      keeps_thoughts_(keeps_thoughts(ready_.tokenizer, chat_)) {
  check_template(ready_.tokenizer, chat, chat_);
  reset();
}

void Conversation::note(const std::string& text) {
  std::fprintf(stderr, "%s%s%s\n", style(stderr, Style::dim), text.c_str(), style(stderr, Style::reset));
}

void Conversation::reset() {
  messages_.clear();
  last_ = {};
  if (!system_.empty()) messages_.push_back({"system", system_, {}});
}

void Conversation::set_system(std::string text) {
  system_ = std::move(text);
  reset();
}

void Conversation::ask(std::string question) {
  std::vector<Message> messages = messages_;
  messages.push_back({"user", std::move(question), {}});
  answer(std::move(messages));
}

void Conversation::retry() {
  std::vector<Message> messages = messages_;
  if (!messages.empty() && messages.back().role == "assistant") messages.pop_back();
  if (messages.empty() || messages.back().role != "user") throw UsageError("/retry: nothing was asked yet");
  answer(std::move(messages));
  if (!cancelled() && std::holds_alternative<GreedySearch>(ready_.config.strategy))
    note("[greedy, so the answer is the same: /set temp 0.8 draws another]");
}

void Conversation::undo() {
  size_t keep = messages_.size();
  while (keep > 0 && messages_[keep - 1].role != "user") --keep;
  if (keep == 0) throw UsageError("/undo: nothing was asked yet");
  note("[taken back: " + beginning(messages_[keep - 1].content) + "]");
  messages_.resize(keep - 1);
  last_ = {};
}

void Conversation::answer(std::vector<Message> messages) {
  text::Input input;
  input.tokens = ready_.tokenizer.apply_chat_template(messages, chat_).tokens;
  if (const int room = ready_.serving.limits().sequence_length; int(input.tokens.size()) >= room) {
    const bool first = messages.size() < 2 + size_t(!system_.empty());
    throw Error(ErrorCode::bad_request, "chat",
                fmt::format("the context of {} tokens is full: with this message the conversation has {}. {}", room,
                            input.tokens.size(),
                            first ? "Shorten it, or start with a larger -c"
                                  : "/undo takes the last turn back, /reset forgets all, a larger -c holds more"));
  }
  input.seed = *ready_.config.seed + turns_;  // otherwise every turn would draw the same numbers
  input.config = ready_.config;
  {
    interrupt::Scope scope(input.cancel);
    last_ = common_.json ? ready_.serving.run(input) : std::move(stream_answers(ready_.serving, {input}, common_)[0]);
  }
  ++turns_;
  const bool anew = messages.size() < messages_.size();  // /retry, with an answer that there is
  const bool asked = messages.size() > messages_.size();
  const bool said = !cancelled() || (!last_.text.empty() && !anew);
  if (said) {  // else Ctrl-C came before the answer began, and there is no turn; or the answer of before stays
    messages_ = std::move(messages);
    const std::string content = keeps_thoughts_ ? last_.without_thoughts() : last_.text;
    messages_.push_back({"assistant", content, {}});
  }
  if (common_.json) print_json(to_json(last_, ready_));
  if (common_.verbose) note(speed_line(last_));
  if (common_.json) return;
  remark_on_end(anew             ? "[stopped; the answer of before stays]"
                : said || !asked ? "[stopped]"
                                 : "[stopped; the question is not part of the conversation]");
}

/// An answer that did not end by itself says so, and what lets it go on; `stopped` where Ctrl-C ended it.
void Conversation::remark_on_end(const char* stopped) const {
  const int room = ready_.serving.limits().sequence_length;
  switch (cut_by(last_, ready_.config, room)) {
    case Cut::nothing: break;
    case Cut::stopped: return note(stopped);
    case Cut::tokens:  // -n asked for it: a person is told what to do, a script knows
      if (!common_.remarks()) return;
      return note(fmt::format("[cut at {} tokens: /set max-tokens N allows more, -1 has no limit]",
                              last_.token_summary.output));
    case Cut::characters: break;
    case Cut::context:
      return note(
          fmt::format("[cut: the context of {} tokens is full. /undo takes this turn back, /reset forgets all, a "
                      "larger -c holds more]",
                      room));
  }
}

void Conversation::set(const std::string& setting) {
  if (setting.empty()) return note("[" + settings_of(ready_.config) + "]");
  const size_t space = setting.find(' ');
  std::vector<std::string> words = {"/set", "--" + setting.substr(0, space)};
  if (space != std::string::npos) words.push_back(setting.substr(setting.find_first_not_of(' ', space)));
  SamplingFlags changed = sampling_;
  // The same parser and the same checks as of the command line.
  Parser app("", "chat", "");
  add_sampling_flags(*app.add_verb("/set", ""), changed, Uncapped::yes);
  if (words[1] == "--n") words[1] = "-n";
  // What excludes each other on the command line, takes turns here.
  for (const char* draws : {"--temp", "--temperature", "--top-k", "--top-p", "--min-p", "--contrastive-alpha"}) {
    if (words[1] == draws) changed.greedy = false;
  }
  for (const char* draws : {"--temp", "--temperature", "--top-p", "--min-p"}) {
    if (words[1] == draws) changed.contrastive_alpha = {};
  }
  if (words[1] == "--contrastive-alpha") changed.top_p = changed.min_p = {};
  if (words[1] == "--greedy") {
    changed.temperature = changed.top_p = changed.min_p = changed.contrastive_alpha = {};
    changed.top_k = {};
  }
  try {
    app.parse(words);
  } catch (const UsageError& error) {
    std::string what = error.what();
    for (const char* page : {"; see 'bumblebee", " See 'bumblebee"}) what = what.substr(0, what.find(page));
    throw UsageError("/set: " + what);
  }
  GenerationConfig config = ready_.own_config;
  apply(changed, config, Uncapped::yes);
  if (!changed.seed) config.seed = ready_.config.seed;
  validate(config);
  sampling_ = changed;
  ready_.config = config;
  note("[" + settings_of(config) + "]");
}

void Conversation::stats() const {
  if (last_.token_summary.input == 0) return note("nothing was asked yet");
  const int limit = ready_.serving.limits().sequence_length;
  const int used = last_.token_summary.input + last_.token_summary.output;
  note(speed_line(last_));
  note("[" + std::to_string(used) + " of " + std::to_string(limit) + " tokens of context, " +
       human_bytes(double(ready_.model.info().kv_bytes(used, ready_.model.options().kv_type) +
                          ready_.model.info().state_bytes)) +
       " of keys and values]");
}

void Conversation::save(const std::string& path) {
  if (!files_.contains(path) && std::filesystem::exists(path))
    throw Error(ErrorCode::bad_file, path, "exists already, and is not of this chat; choose another name");
  OutJson list = OutJson::array();
  for (const Message& message : messages_) list.push_back({{"role", message.role}, {"content", message.content}});
  write_text_file(path, OutJson{{"messages", list}}.dump(2) + "\n");
  files_.insert(path);
  note("[saved to " + path + "]");
}

void Conversation::load(const std::string& path) {
  std::vector<Message> messages = read_conversation(path);
  ready_.tokenizer.apply_chat_template(messages, chat_);  // what the template refuses is refused now
  messages_ = std::move(messages);
  system_ = messages_.front().role == "system" ? messages_.front().content : "";
  last_ = {};
  files_.insert(path);
  note(fmt::format("[{} messages; the last one: {}: {}]", messages_.size(), messages_.back().role,
                   beginning(messages_.back().content)));
}

}  // namespace bumblebee::cli
