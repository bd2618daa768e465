// `logits`: the predictions for every position of a list of ids, into a safetensors file. Needs no tokenizer.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <limits>

#include "commands/commands.h"
#include "commands/output_directory.h"
#include "io/safetensors.h"
#include "options/adapter_flags.h"
#include "options/model_flags.h"
#include "options/validators.h"
#include "ui/exit_codes.h"
#include "ui/interrupt.h"
#include "ui/json_out.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

namespace {

struct LogitsFlags {
  CommonFlags common;
  ModelFlags model;
  AdapterFlags adapters;
  std::string tokens, tokens_file, output;
  const Option *tokens_option = nullptr, *file_option = nullptr;
};

/// Whether the file is one of ours, which another run may replace.
bool holds_logits(const std::string& path) {
  try {
    const auto file = SafetensorsFile::open(path);
    return file->tensors().size() == 1 && file->tensors().front().name == "logits";
  } catch (const Error&) {
    return false;
  }
}

void check_output(const LogitsFlags& flags) {
  if (flags.output.empty()) throw UsageError("no output given: use -o FILE");
  const std::filesystem::path inputs[] = {source(flags.model.model, flags.common).directory(),
                                          flags.tokens_file == "-" ? "" : flags.tokens_file};
  check_apart(flags.output, inputs);
  if (std::filesystem::is_regular_file(flags.output) && !holds_logits(flags.output))
    throw UsageError("'" + flags.output + "' exists already and holds no logits; choose another name");
}

int run(const LogitsFlags& flags) {
  const Option* chosen = exclusive({flags.tokens_option, flags.file_option});
  if (!chosen) throw UsageError("no tokens given: use --tokens 1,2,3 or --tokens-file FILE");
  std::vector<int32_t> tokens = chosen == flags.tokens_option
                                    ? parse_token_list(flags.tokens, "--tokens")
                                    : parse_token_list(read_input(flags.tokens_file), "--tokens-file");
  check_output(flags);
  const std::vector<WeightedAdapter> adapters = load_adapters(flags.adapters, flags.common);
  LoadedModel loaded = load(flags.model, flags.common);
  const ModelInfo& info = loaded.model.info();
  loaded.model.prepare_adapters(adapters);  // before a file is begun
  // Row by row: the matrix of a long text would not fit in memory. The file appears when it is complete.
  SafetensorsWriter file(flags.output, {{"logits", DType::f32, {tokens.size(), uint64_t(info.vocab)}}});
  ProgressBar bar("logits", ProgressBar::Unit::items, flags.common.progress());
  size_t broken = 0;
  int first_broken = 0;
  loaded.model.logits(
      tokens,
      [&](int row, std::span<const float> logits) {
        // As generate, which refuses them: -infinity is a token that may not come.
        const bool whole = std::all_of(logits.begin(), logits.end(),
                                       [](float x) { return x < std::numeric_limits<float>::infinity(); });
        if (!whole && broken++ == 0) first_broken = row;
        if (interrupt::requested()) throw Error(ErrorCode::cancelled, "logits", "cancelled");
        file.append(std::as_bytes(logits));
        bar.update(uint64_t(row) + 1, tokens.size());
      },
      adapters);
  file.finish();
  bar.clear();
  if (broken > 0)
    note("the model produced logits that are not finite numbers: in " + std::to_string(broken) + " of " +
         std::to_string(tokens.size()) + " rows, row " + std::to_string(first_broken) + " is the first");
  if (flags.common.json) {
    print_json(
        {{"output", flags.output}, {"tokens", tokens.size()}, {"vocab", info.vocab}, {"rows_not_finite", broken}});
  } else if (flags.common.remarks()) {
    std::fprintf(stderr, "[%s: logits, f32 [%zu, %d]]\n", flags.output.c_str(), tokens.size(), info.vocab);
  }
  return int(ExitCode::ok);
}

}  // namespace

void add_logits(Parser& app, Session& session) {
  auto flags = std::make_shared<LogitsFlags>();
  Parser* verb = add_verb(app, {"logits", "Write the predictions for every position of some tokens"});
  add_model_flags(*verb, flags->model);
  add_adapter_flags(*verb, flags->adapters);
  flags->tokens_option =
      verb->add_option("--tokens", flags->tokens, "Token ids, such as 1,2,3")->option_text("IDS")->group("Tokens");
  flags->file_option =
      verb->add_option("-f,--tokens-file", flags->tokens_file, "Read the ids from a file ('-': standard input)")
          ->option_text("FILE")
          ->group("Tokens");
  verb->add_option("-o,--output", flags->output, "The safetensors file to write: logits, f32 [tokens, vocab]")
      ->option_text("FILE")
      ->group("Output");
  verb->footer(
      "Row i predicts token i + 1. No tokenizer is needed.\n\n"
      "Example:\n  bumblebee logits -m DIR --tokens 1,2,3 -o logits.safetensors");
  on_chosen(*verb, session, flags, run);
}

}  // namespace bumblebee::cli
