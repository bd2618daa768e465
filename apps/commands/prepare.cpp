// `prepare`: texts become train.jsonl, valid.jsonl and test.jsonl, with a report of what was kept and how long it is.
#include "bumblebee/prepare.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <fstream>

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
  std::string model, output, format = "auto", prompts_file;
  std::vector<std::string> posts, prompts;
  bool no_replies = false;
  PrepareOptions options;
};

PostFormat format_from(const std::string& name) {
  for (const PostFormat format : {PostFormat::lines, PostFormat::paragraphs, PostFormat::json, PostFormat::jsonl,
                                  PostFormat::csv, PostFormat::twitter, PostFormat::bluesky}) {
    if (name == to_string(format)) return format;
  }
  return PostFormat::automatic;
}

/// FILE, or FILE=WEIGHT where there is no file of that whole name.
PostSource source_from(const std::string& text) {
  const size_t at = text.rfind('=');
  if (at == std::string::npos || at == 0 || std::filesystem::exists(text)) return {text};
  const std::string number = text.substr(at + 1);
  double weight = 0;
  const auto [end, failure] = std::from_chars(number.data(), number.data() + number.size(), weight);
  if (failure != std::errc() || end != number.data() + number.size() || !(weight > 0) || weight > 1000)
    throw UsageError("'" + text + "': expected FILE or FILE=WEIGHT with a weight above 0 and up to 1000");
  return {text.substr(0, at), weight};
}

/// A prompt on each line.
std::vector<std::string> prompts_from(const std::string& path) {
  std::ifstream file(path);
  std::vector<std::string> prompts;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("\xEF\xBB\xBF")) line.erase(0, 3);  // a mark that editors put before the text
    if (line.ends_with('\r')) line.pop_back();
    if (line.find_first_not_of(" \t") != std::string::npos) prompts.push_back(line);
  }
  if (prompts.empty()) throw UsageError("--prompts: expected a file with a prompt on each line, got '" + path + "'");
  return prompts;
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

void print(const PrepareFlags& flags, const PrepareOptions& options, const PrepareResult& result) {
  for (const std::string& note : result.notes) std::fprintf(stderr, "note: %s\n", one_line(note).c_str());
  if (flags.common.json) {
    OutJson sources = OutJson::array();
    for (const PreparedSource& one : result.sources)
      sources.push_back(
          {{"path", one.path}, {"format", to_string(one.format)}, {"texts", one.texts}, {"weight", one.weight}});
    print_json({{"output", flags.output},
                {"sources", sources},
                {"texts", result.texts},
                {"prompts", options.prompts.size()},
                {"reposts", result.reposts},
                {"replies", result.replies},
                {"too_short", result.too_short},
                {"too_long", result.too_long},
                {"duplicates", result.duplicates},
                {"train", result.train},
                {"train_texts", result.train_texts},
                {"valid", result.valid},
                {"test", result.test},
                {"characters", json_of(result.characters)},
                {"tokens", json_of(result.tokens)}});
    return;
  }
  for (const PreparedSource& one : result.sources) {
    write_out("read       " + one_line(one.path) + ": " + std::to_string(one.texts) + " texts (" +
              to_string(one.format) + ")" + (one.weight == 1 ? "" : fmt::format(", weight {:g}", one.weight)) + "\n");
  }
  std::string left_out;
  if (result.reposts > 0) left_out += std::to_string(result.reposts) + " reposts, ";
  if (result.replies > 0) left_out += std::to_string(result.replies) + " replies, ";
  write_out("left out   " + left_out + std::to_string(result.too_short) + " too short, " +
            std::to_string(result.too_long) + " too long, " + std::to_string(result.duplicates) + " twice or more\n");
  const std::string asked = options.prompts.size() == 1
                                ? one_line(options.prompts.front())
                                : std::to_string(options.prompts.size()) + ", one drawn for each";
  write_out("prompt     " + asked + (flags.prompts.empty() && flags.prompts_file.empty() ? " (--prompt sets it)" : "") +
            "\n");
  write_out(line_of("characters", result.characters));
  if (result.tokens.count > 0) write_out(line_of("tokens", result.tokens));
  const bool weights = std::any_of(result.sources.begin(), result.sources.end(),
                                   [](const PreparedSource& one) { return one.weight != 1; });
  write_out("wrote      " + one_line(flags.output) + ": " + std::to_string(result.train) + " to train" +
            (weights ? " (" + std::to_string(result.train_texts) + " texts)" : "") + ", " +
            std::to_string(result.valid) + " to validate, " + std::to_string(result.test) + " to test\n");
}

int run(const PrepareFlags& flags) {
  if (flags.posts.empty()) throw UsageError("no texts given: bumblebee prepare posts.txt -o data");
  if (flags.output.empty()) throw UsageError("no output given: -o DIR");
  PrepareOptions options = flags.options;
  options.format = format_from(flags.format);
  options.replies = !flags.no_replies;
  std::optional<Tokenizer> tokenizer;
  if (!flags.model.empty()) tokenizer = load_tokenizer(source(flags.model, flags.common));
  std::vector<PostSource> posts;
  for (const std::string& text : flags.posts) posts.push_back(source_from(text));
  if (!flags.prompts.empty() && !flags.prompts_file.empty())
    throw UsageError("--prompt and --prompts exclude each other: put all prompts into the file");
  if (!flags.prompts.empty()) options.prompts = flags.prompts;
  if (!flags.prompts_file.empty()) options.prompts = prompts_from(flags.prompts_file);
  print(flags, options, prepare_data(posts, flags.output, options, tokenizer ? &*tokenizer : nullptr));
  return int(ExitCode::ok);
}

}  // namespace

void add_prepare(Parser& app, Session& session) {
  auto flags = std::make_shared<PrepareFlags>();
  PrepareOptions& options = flags->options;
  Parser* verb =
      add_verb(app, {"prepare", "Make training data of texts: one file to learn from, one to validate with"});
  verb->own_variables();
  verb->add_option("posts", flags->posts,
                   "Files of texts: .txt, .json, .jsonl, .csv, tweets.js of Twitter's archive, a Bluesky repository\n"
                   "(.car) or its JSON; FILE=3 is learned three times as often");
  verb->add_option("-o,--output-dir", flags->output, "Where train.jsonl, valid.jsonl and test.jsonl go")
      ->option_text("DIR");
  add_model_flag(*verb, flags->model)->group("Texts");
  verb->add_option(
          "--format", flags->format,
          "lines, paragraphs, json, jsonl, csv, twitter, bluesky, or auto (default): by name, by what archives\n"
          "begin with, and by empty lines in a text file")
      ->option_text("FORMAT")
      ->check(one_of({"auto", "lines", "paragraphs", "json", "jsonl", "csv", "twitter", "bluesky"}))
      ->group("Texts");
  verb->add_option("--column", options.column, "Column of CSV, key of JSON (default text, or the only column)")
      ->option_text("NAME")
      ->group("Texts");
  verb->add_option("--separator", options.separator, "The line between paragraphs, such as % (default: an empty line)")
      ->option_text("LINE")
      ->group("Texts");
  verb->add_flag("--no-replies", flags->no_replies, "Leave out answers to others (of archives); reposts always are")
      ->group("Texts");
  verb->add_option("--min-length", options.min_length, "Characters; shorter texts are left out (default 1)")
      ->option_text("N")
      ->check(integer_between(0, int64_t{1} << 40))
      ->group("Texts");
  verb->add_option("--max-length", options.max_length, "Characters; longer texts are left out (default 0: none are)")
      ->option_text("N")
      ->check(integer_between(0, int64_t{1} << 40))
      ->group("Texts");
  verb->add_option("--prompt", flags->prompts,
                   "The user's turn (default 'Write a post.'); repeatable: each row gets one of them")
      ->option_text("TEXT")
      ->allow_extra_args(false)
      ->group("Rows");
  verb->add_option("--prompts", flags->prompts_file, "The same from a file, a prompt on each line")
      ->option_text("FILE")
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
      "Example:\n  bumblebee prepare posts.txt -o data --prompt \"Write a post.\" -m DIR\n"
      "  bumblebee prepare bluesky.car=3 twitter/data/tweets.js --min-length 160 --prompts prompts.txt -o data");
  on_chosen(*verb, session, flags, run);
}

}  // namespace bumblebee::cli
