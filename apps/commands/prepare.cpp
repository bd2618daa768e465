// `prepare`: texts become train.jsonl, valid.jsonl and test.jsonl, with a report of what was kept and how long it is.
#include "bumblebee/prepare.h"

#include <fmt/core.h>

#include <cstdio>

#include "commands/commands.h"
#include "options/model_flags.h"
#include "options/validators.h"
#include "ui/exit_codes.h"
#include "ui/json_out.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

namespace {

struct PrepareFlags {
  CommonFlags common;
  std::string model, output, format = "auto";
  std::vector<std::string> posts;
  PrepareOptions options;
};

PostFormat format_from(const std::string& name) {
  for (const PostFormat format :
       {PostFormat::lines, PostFormat::paragraphs, PostFormat::json, PostFormat::jsonl, PostFormat::csv}) {
    if (name == to_string(format)) return format;
  }
  return PostFormat::automatic;
}

OutJson json_of(const LengthStatistics& lengths) {
  if (lengths.count == 0) return nullptr;
  return {{"total", lengths.total},
          {"mean", lengths.mean},
          {"shortest", lengths.shortest},
          {"median", lengths.median},
          {"percentile95", lengths.percentile95},
          {"longest", lengths.longest}};
}

std::string line_of(const char* name, const LengthStatistics& lengths) {
  return fmt::format("{:11}{} in all; shortest {}, median {}, mean {:.1f}, 95% up to {}, longest {}\n", name,
                     lengths.total, lengths.shortest, lengths.median, lengths.mean, lengths.percentile95,
                     lengths.longest);
}

void print(const PrepareFlags& flags, const PrepareResult& result) {
  if (flags.common.json) {
    OutJson sources = OutJson::array();
    for (const PreparedSource& one : result.sources)
      sources.push_back({{"path", one.path}, {"format", to_string(one.format)}, {"texts", one.texts}});
    print_json({{"output", flags.output},
                {"sources", sources},
                {"texts", result.texts},
                {"too_short", result.too_short},
                {"too_long", result.too_long},
                {"duplicates", result.duplicates},
                {"train", result.train},
                {"valid", result.valid},
                {"test", result.test},
                {"characters", json_of(result.characters)},
                {"tokens", json_of(result.tokens)}});
    return;
  }
  for (const PreparedSource& one : result.sources) {
    write_out("read       " + one_line(one.path) + ": " + std::to_string(one.texts) + " texts (" +
              to_string(one.format) + ")\n");
  }
  write_out("left out   " + std::to_string(result.too_short) + " too short, " + std::to_string(result.too_long) +
            " too long, " + std::to_string(result.duplicates) + " there already\n");
  write_out(line_of("characters", result.characters));
  if (result.tokens.count > 0) write_out(line_of("tokens", result.tokens));
  write_out("wrote      " + one_line(flags.output) + ": " + std::to_string(result.train) + " to train, " +
            std::to_string(result.valid) + " to validate, " + std::to_string(result.test) + " to test\n");
}

int run(const PrepareFlags& flags) {
  if (flags.posts.empty()) throw UsageError("no texts given: bumblebee prepare posts.txt -o data");
  if (flags.output.empty()) throw UsageError("no output given: -o DIR");
  PrepareOptions options = flags.options;
  options.format = format_from(flags.format);
  std::optional<Tokenizer> tokenizer;
  if (!flags.model.empty()) tokenizer = load_tokenizer(source(flags.model, flags.common));
  const std::vector<std::filesystem::path> posts(flags.posts.begin(), flags.posts.end());
  print(flags, prepare_data(posts, flags.output, options, tokenizer ? &*tokenizer : nullptr));
  return int(ExitCode::ok);
}

}  // namespace

void add_prepare(Parser& app, Session& session) {
  auto flags = std::make_shared<PrepareFlags>();
  PrepareOptions& options = flags->options;
  Parser* verb =
      add_verb(app, {"prepare", "Make training data of texts: one file to learn from, one to validate with"});
  verb->own_variables();
  verb->add_option("posts", flags->posts, "Files of texts: .txt, .json, .jsonl, .csv");
  verb->add_option("-o,--output-dir", flags->output, "Where train.jsonl, valid.jsonl and test.jsonl go")
      ->option_text("DIR");
  add_model_flag(*verb, flags->model)->group("Texts");
  verb->add_option("--format", flags->format,
                   "lines, paragraphs, json, jsonl, csv, or auto (default): by name, and by empty lines in a text file")
      ->option_text("FORMAT")
      ->check(one_of({"auto", "lines", "paragraphs", "json", "jsonl", "csv"}))
      ->group("Texts");
  verb->add_option("--column", options.column, "Column of CSV, key of JSON (default text, or the only column)")
      ->option_text("NAME")
      ->group("Texts");
  verb->add_option("--separator", options.separator, "The line between paragraphs, such as % (default: an empty line)")
      ->option_text("LINE")
      ->group("Texts");
  verb->add_option("--min-length", options.min_length, "Characters; shorter texts are left out (default 1)")
      ->option_text("N")
      ->check(integer_between(0, int64_t{1} << 40))
      ->group("Texts");
  verb->add_option("--max-length", options.max_length, "Characters; longer texts are left out (default 0: none are)")
      ->option_text("N")
      ->check(integer_between(0, int64_t{1} << 40))
      ->group("Texts");
  verb->add_option("--prompt", options.prompt, "The user's turn of every row (default 'Write a post.')")
      ->option_text("TEXT")
      ->group("Rows");
  verb->add_option("--system-prompt", options.system_prompt, "A system turn before it")
      ->option_text("TEXT")
      ->group("Rows");
  verb->add_option("--split-ratio", options.split_ratio, "Share of the texts to train on (default 0.9)")
      ->option_text("X")
      ->check(number_between(0, 1))
      ->group("Rows");
  verb->add_option("--test-ratio", options.test_ratio, "Share for test.jsonl; the rest validates (default 0)")
      ->option_text("X")
      ->check(number_between(0, 1))
      ->group("Rows");
  verb->add_option("--seed", options.seed, "Of the shuffle before the split (default 0)")
      ->option_text("N")
      ->group("Rows");
  verb->add_flag("--force", options.overwrite, "Replace the files of an earlier run");
  verb->footer(
      "With -m, the lengths of the rows in tokens are printed too, the model's chat template included; choose\n"
      "--max-seq-length of 'train' by them.\n\n"
      "Example:\n  bumblebee prepare posts.txt -o data --prompt \"Write a post.\" -m DIR");
  on_chosen(*verb, session, flags, run);
}

}  // namespace bumblebee::cli
