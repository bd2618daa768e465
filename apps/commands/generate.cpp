// `generate`: one prompt, one answer, streamed as it is made.
#include <unistd.h>

#include <cstdio>

#include "commands/commands.h"
#include "commands/generation.h"
#include "options/chat_flags.h"
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
  std::string prompt, file, tokens, positional;
  bool raw = false;
  bool parse_control_tokens = false;
  int ctx_size = 0;
  std::string kv_memory;
  const Session* session = nullptr;
  const Option *prompt_option = nullptr, *file_option = nullptr, *tokens_option = nullptr, *positional_option = nullptr;
};

std::string prompt_text(const GenerateFlags& flags, const Option* chosen) {
  if (chosen == flags.file_option && chosen) return read_input(flags.file);
  if (!chosen) {
    if (::isatty(STDIN_FILENO) == 1)
      throw UsageError("no prompt given: use -p TEXT, -f FILE, or '-p -' for standard input");
    return read_input("-");
  }
  const std::string& text = chosen == flags.prompt_option ? flags.prompt : flags.positional;
  return text == "-" ? read_input("-") : text;
}

text::Input make_input(const GenerateFlags& flags) {
  const Option* chosen =
      exclusive(*flags.session, {flags.prompt_option, flags.file_option, flags.tokens_option, flags.positional_option});
  text::Input input;
  bool as_is = flags.raw || chosen == flags.tokens_option;
  if (chosen && chosen == flags.tokens_option) {
    input.tokens = parse_token_list(flags.tokens, "--tokens");
    as_is = true;
  } else {
    as_is = flags.raw;
  }
  if (as_is && flags.chat.any())
    throw UsageError("flags of a conversation (--system-prompt, --tools, ...) exclude --raw and --tokens");
  if (!as_is && flags.parse_control_tokens)
    throw UsageError("--parse-control-tokens needs --raw; for a conversation use --trust-content");
  if (!input.tokens.empty()) return input;

  std::string prompt = prompt_text(flags, chosen);
  if (flags.raw) {
    input.text = std::move(prompt);
    input.parse_control_tokens = flags.parse_control_tokens;
    return input;
  }
  if (!flags.chat.system_prompt.empty()) input.messages.push_back({"system", flags.chat.system_prompt, {}});
  input.messages.push_back({"user", std::move(prompt), {}});
  input.chat = flags.chat.options();
  return input;
}

int run(const GenerateFlags& flags) {
  text::Input input = make_input(flags);
  ReadyModel ready =
      load_serving({flags.model, flags.sampling, flags.adapters, flags.ctx_size, flags.kv_memory}, flags.common);
  bool templated = !input.messages.empty();
  if (templated && input.chat.chat_template.empty() && !ready.tokenizer.has_chat_template()) {
    throw Error(
        ErrorCode::unsupported, flags.model.model,
        "expected a chat template, found none: use --raw to continue the text as it is, or --chat-template-file FILE");
  }
  if (flags.common.verbose) {
    std::fprintf(stderr, "[loaded in %.2f s, device %s, seed %llu]\n", ready.load_s, flags.model.device.c_str(),
                 static_cast<unsigned long long>(ready.config.seed));
  }

  interrupt::Scope scope(input.cancel);
  text::Result result;
  if (flags.common.json) {
    result = ready.serving.run(input);
    print_json(to_json(result, ready));
  } else {
    // The callback runs on the engine's thread: what goes wrong there is carried over here.
    std::exception_ptr failure;
    result = ready.serving.stream(input, [&failure](std::string_view piece) {
      try {
        write_out(piece);
        return true;
      } catch (...) {
        failure = std::current_exception();
        return false;
      }
    });
    if (failure) std::rethrow_exception(failure);
    write_out("\n");
    if (flags.common.remarks()) {
      std::fprintf(stderr, "%s%s%s\n", style(stderr, Style::dim), speed_line(result).c_str(),
                   style(stderr, Style::reset));
    }
  }
  return int(result.finish_reason == text::FinishReason::cancelled ? ExitCode::cancelled : ExitCode::ok);
}

}  // namespace

void add_generate(Parser& app, Session& session) {
  auto flags = std::make_shared<GenerateFlags>();
  flags->session = &session;
  Parser* verb = add_verb(app, {"generate", "Answer one prompt"});
  verb->alias("run");
  flags->positional_option = verb->add_option("prompt", flags->positional, "The prompt, as -p");
  add_model_flags(*verb, flags->model);
  add_adapter_flags(*verb, flags->adapters);
  add_ctx_flag(*verb, flags->ctx_size);
  add_kv_memory_flag(*verb, flags->kv_memory);
  flags->prompt_option = verb->add_option("-p,--prompt", flags->prompt, "The prompt; '-' reads standard input")
                             ->option_text("TEXT")
                             ->group("Prompt");
  flags->file_option =
      verb->add_option("-f,--file", flags->file, "Read the prompt from a file")->option_text("FILE")->group("Prompt");
  flags->tokens_option =
      verb->add_option("--tokens", flags->tokens, "The prompt as token ids, such as 1,2,3; implies --raw")
          ->option_text("IDS")
          ->group("Prompt");
  verb->add_flag("--raw", flags->raw, "Continue the text as it is, without the chat template")->group("Prompt");
  verb->add_flag("--parse-control-tokens", flags->parse_control_tokens,
                 "With --raw: text such as <|im_start|> becomes that token")
      ->group("Prompt");
  add_chat_flags(*verb, flags->chat);
  add_sampling_flags(*verb, flags->sampling);
  verb->add_option("--logprobs", flags->sampling.logprobs,
                   "With --json: log probabilities of the tokens and of the N likeliest")
      ->option_text("N")
      ->check(integer_between(0, 20))
      ->group("Output");
  verb->footer("Example:\n  bumblebee generate -m DIR -p \"Why is the sky blue?\" -n 100");
  on_chosen(*verb, session, flags, run);
}

}  // namespace bumblebee::cli
