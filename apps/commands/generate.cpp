// `generate`: one prompt, one answer or several, streamed as they are made.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <set>
#include <string_view>

#include "commands/commands.h"
#include "commands/generation.h"
#include "options/chat_flags.h"
#include "options/hub_source.h"
#include "options/validators.h"
#include "ui/exit_codes.h"
#include "ui/interrupt.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

namespace {

struct GenerateFlags {
  CommonFlags common;
  ModelFlags model;
  SamplingFlags sampling;
  AdapterFlags adapters;
  ChatFlags chat;
  std::string prompt, file, tokens;
  std::vector<std::string> words;  // as typed without a flag: the prompt, or the model and the prompt
  bool raw = false, escapes = false;
  bool parse_control_tokens = false;
  int count = 1;
  int ctx_size = 0;
  std::string kv_memory;
  const Option *prompt_option = nullptr, *file_option = nullptr, *tokens_option = nullptr, *positional_option = nullptr,
               *model_option = nullptr;
};

/// `generate MODEL PROMPT`, as Ollama has it: where no flag names the model and the first word can be one, it is. Where
/// the variable names one, that takes a model's directory: the prompt may begin with any/word.
void take_model(GenerateFlags& flags) {
  if (flags.words.empty() || flags.model_option->typed()) return;
  const std::string& first = flags.words.front();
  std::error_code ignored;
  const bool model = flags.model.model.empty()
                         ? looks_like_repository(first) || std::filesystem::exists(first, ignored)
                         : std::filesystem::exists(std::filesystem::path(first) / "config.json", ignored);
  if (!model) return;
  flags.model.model = first;
  flags.words.erase(flags.words.begin());
}

/// \n, \t and \\ as a line end, a tab and a backslash, where --escapes asks for it; else a note, since that was meant.
std::string with_escapes(const GenerateFlags& flags, const std::string& text, const std::string& flag) {
  if (!flags.escapes) {
    if (text.find("\\n") != std::string::npos)
      note("'\\n' in " + flag + " is a backslash and an n; --escapes (-e) makes it a line end");
    return text;
  }
  std::string out;
  for (size_t at = 0; at < text.size(); ++at) {
    const char next = text[at] == '\\' && at + 1 < text.size() ? text[at + 1] : '\0';
    const size_t which = std::string_view("nt\\").find(next);
    const bool escape = next != '\0' && which != std::string_view::npos;
    out += escape ? "\n\t\\"[which] : text[at];
    at += escape ? 1 : 0;
  }
  return out;
}

/// A file ends with a line end, which is not a part of the message; --raw takes all of it.
std::string message_of(std::string text, bool raw) {
  if (!raw && text.ends_with('\n')) text.pop_back();
  if (!raw && text.ends_with('\r')) text.pop_back();
  return text;
}

std::string prompt_text(const GenerateFlags& flags, const Option* chosen) {
  if (chosen == flags.file_option && chosen) return message_of(read_input(flags.file), flags.raw);
  if (!chosen) {
    if (::isatty(STDIN_FILENO) == 1)
      throw UsageError(
          "no prompt given: use -p TEXT, -f FILE, or '-p -' for standard input; 'bumblebee chat' holds a conversation");
    return message_of(read_input("-"), flags.raw);
  }
  std::string text = flags.prompt;
  if (chosen == flags.positional_option) {
    text.clear();
    for (const std::string& word : flags.words) text += (text.empty() ? "" : " ") + word;
  }
  if (text == "-") return message_of(read_input("-"), flags.raw);
  return with_escapes(flags, text, chosen == flags.prompt_option ? "-p" : "the prompt");
}

text::Input make_input(const GenerateFlags& flags) {
  std::vector<const Option*> sources = {flags.prompt_option, flags.file_option, flags.tokens_option};
  if (!flags.words.empty()) sources.push_back(flags.positional_option);
  const Option* chosen = exclusive(sources);
  text::Input input;
  if (chosen && chosen == flags.tokens_option) {
    input.tokens = parse_token_list(flags.tokens, "--tokens");
    return input;
  }

  std::string prompt = prompt_text(flags, chosen);
  if (flags.raw) {
    input.text = std::move(prompt);
    input.parse_control_tokens = flags.parse_control_tokens;
    return input;
  }
  if (!flags.chat.system_prompt.empty()) {
    input.messages.push_back({"system", with_escapes(flags, flags.chat.system_prompt, "--system-prompt"), {}});
  }
  input.messages.push_back({"user", std::move(prompt), {}});
  input.chat = flags.chat.options();
  return input;
}

void remark(const std::string& text) {
  std::fprintf(stderr, "%s%s%s\n", style(stderr, Style::dim), text.c_str(), style(stderr, Style::reset));
}

int run(const GenerateFlags& given) {
  constexpr int kAtOnce = 16;  // answers; more would take turns anyway, and each needs room for keys and values
  GenerateFlags flags = given;
  take_model(flags);
  for (std::string& text : flags.sampling.stop) text = with_escapes(flags, text, "--stop");
  text::Input input = make_input(flags);
  ReadyModel ready = load_serving({.model = flags.model,
                                   .sampling = flags.sampling,
                                   .adapters = flags.adapters,
                                   .ctx_size = flags.ctx_size,
                                   .kv_memory = flags.kv_memory,
                                   .batch_size = std::min(flags.count, kAtOnce)},
                                  flags.common);
  bool templated = !input.messages.empty();
  if (templated && input.chat.chat_template.empty() && !ready.tokenizer.has_chat_template()) {
    throw Error(
        ErrorCode::unsupported, flags.model.model,
        "expected a chat template, found none: use --raw to continue the text as it is, or --chat-template-file FILE");
  }
  if (templated) check_template(ready.tokenizer, flags.chat, input.chat);
  if (templated) check_effects(ready.tokenizer, input.messages, input.chat);
  if (flags.common.verbose) {
    std::fprintf(stderr, "[loaded in %.2f s, device %s, seed %llu]\n", ready.load_s,
                 ready.model.options().device.c_str(), static_cast<unsigned long long>(*ready.config.seed));
  }

  std::vector<text::Input> inputs(size_t(flags.count), input);  // which share the handle that cancels
  for (size_t i = 0; i < inputs.size(); ++i) inputs[i].seed = *ready.config.seed + i;
  if (flags.count > 1 && std::holds_alternative<GreedySearch>(ready.config.strategy))
    note("all answers will be the same: the likeliest token is taken; --temp 0.8 draws different ones");
  interrupt::Scope scope(input.cancel);
  const std::vector<text::Result> results =
      flags.common.json ? ready.serving.run(inputs) : stream_answers(ready.serving, inputs, flags.common);
  bool cancelled = false;
  for (size_t i = 0; i < results.size(); ++i) {
    cancelled = cancelled || results[i].finish_reason == text::FinishReason::cancelled;
    if (flags.common.json) print_json(to_json(results[i], ready));
    if (!flags.common.json && flags.common.remarks()) remark(speed_line(results[i]));
  }
  if (!flags.common.json) {
    std::set<std::string> cuts;  // each said once
    for (const text::Result& result : results) cuts.insert(cut_note(result, ready, flags.sampling));
    for (const std::string& cut : cuts) {
      if (!cut.empty()) note(cut);
    }
  }
  return int(cancelled ? ExitCode::cancelled : ExitCode::ok);
}

}  // namespace

void add_generate(Parser& app, Session& session) {
  auto flags = std::make_shared<GenerateFlags>();
  Parser* verb = add_verb(app, {"generate", "Answer one prompt"});
  verb->alias("run");
  flags->positional_option =
      verb->add_option("prompt", flags->words, "The prompt, as -p; before it, the model in place of -m")
          ->option_text("[MODEL] PROMPT");
  add_model_flags(*verb, flags->model);
  flags->model_option = verb->get_option("--model");
  add_adapter_flags(*verb, flags->adapters);
  add_ctx_flag(*verb, flags->ctx_size);
  add_kv_memory_flag(*verb, flags->kv_memory);
  flags->prompt_option = verb->add_option("-p,--prompt", flags->prompt, "The prompt; '-' reads standard input")
                             ->option_text("TEXT")
                             ->group("Prompt");
  flags->file_option =
      verb->add_option("-f,--file", flags->file, "Read the prompt from a file")->option_text("FILE")->group("Prompt");
  Option* tokens = verb->add_option("--tokens", flags->tokens, "The prompt as token ids, such as 1,2,3; implies --raw")
                       ->option_text("IDS")
                       ->group("Prompt");
  flags->tokens_option = tokens;
  Option* raw =
      verb->add_flag("--raw", flags->raw, "Continue the text as it is, without the chat template")->group("Prompt");
  verb->add_flag("-e,--escapes", flags->escapes,
                 "In -p, --system-prompt and --stop, \\n, \\t and \\\\ are a line end, a tab and a backslash")
      ->group("Prompt");
  verb->add_flag("--parse-control-tokens", flags->parse_control_tokens,
                 "With --raw: text such as <|im_start|> becomes that token (in a conversation: --trust-content)")
      ->needs({raw})
      ->group("Prompt");
  for (const Option* of_a_conversation : add_chat_flags(*verb, flags->chat)) {
    raw->excludes(of_a_conversation);
    tokens->excludes(of_a_conversation);
  }
  add_sampling_flags(*verb, flags->sampling);
  verb->add_option("--count", flags->count, "Answers to make, each with the next seed")
      ->option_text("N")
      ->check(integer_between(1, 1000))
      ->group("Output");
  Option* logprobs = verb->add_option("--logprobs", flags->sampling.logprobs,
                                      "With --json: log probabilities of the tokens and of the N likeliest")
                         ->option_text("N")
                         ->check(integer_between(0, 20))
                         ->group("Output");
  verb->footer(
      "Examples:\n  bumblebee generate -m DIR -p \"Why is the sky blue?\" -n 100\n"
      "  bumblebee run DIR \"Why is the sky blue?\"");
  on_chosen(*verb, session, flags, run);
  logprobs->needs({verb->get_option("--json")});
}

}  // namespace bumblebee::cli
