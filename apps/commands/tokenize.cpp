// `tokenize` and `detokenize`: text to ids and back. Neither reads weights.
#include <unistd.h>

#include "commands/commands.h"
#include "options/model_flags.h"
#include "options/validators.h"
#include "ui/exit_codes.h"
#include "ui/json_out.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

namespace {

struct TokenizeFlags {
  CommonFlags common;
  std::string model, text, file;
  bool parse_control_tokens = false;
  bool no_special_tokens = false;
  bool pieces = false;
  bool lines = false;
  const Option *text_option = nullptr, *file_option = nullptr;
};

struct DetokenizeFlags {
  CommonFlags common;
  std::string model, ids, file;
  bool skip_special_tokens = false;
  const Option *ids_option = nullptr, *file_option = nullptr;
};

std::string joined(const std::vector<int32_t>& ids) {
  std::string out;
  for (int32_t id : ids) out += (out.empty() ? "" : " ") + std::to_string(id);
  return out;
}

void print_ids(const TokenizeFlags& flags, const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  if (!flags.pieces) {
    if (flags.common.json) return print_json(ids);
    return write_out(joined(ids) + "\n");
  }
  OutJson list = OutJson::array();
  std::string table;
  for (int32_t id : ids) {
    std::string piece = tokenizer.token_of(id);
    if (flags.common.json) list.push_back({{"id", id}, {"piece", piece}});
    table += std::to_string(id) + "\t" + one_line(piece) + "\n";
  }
  if (flags.common.json) return print_json(list);
  write_out(table);
}

std::vector<std::string> split_lines(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t start = 0; start < text.size();) {
    size_t end = std::min(text.find('\n', start), text.size());
    lines.push_back(text.substr(start, end - start));
    start = end + 1;
  }
  return lines;
}

std::string text_from(const Option* argument, const Option* file, const std::string& what) {
  const Option* chosen = exclusive({argument, file});
  if (!chosen && ::isatty(STDIN_FILENO) == 1)
    throw UsageError("no " + what + " given: pass it as an argument, or use -f FILE");
  if (!chosen) return read_input("-");
  std::string value = chosen->value();
  return chosen == file || value == "-" ? read_input(value) : value;
}

int run_tokenize(const TokenizeFlags& flags) {
  std::string text = text_from(flags.text_option, flags.file_option, "text");
  Tokenizer tokenizer = load_tokenizer(source(flags.model, flags.common));
  EncodeOptions options;
  options.parse_control_tokens = flags.parse_control_tokens;
  options.add_special_tokens = !flags.no_special_tokens;
  if (!flags.lines) {
    print_ids(flags, tokenizer, tokenizer.encode(text, options));
    return int(ExitCode::ok);
  }
  std::vector<std::string> lines = split_lines(text);
  for (const std::vector<int32_t>& ids : tokenizer.encode_batch(lines, options)) print_ids(flags, tokenizer, ids);
  return int(ExitCode::ok);
}

int run_detokenize(const DetokenizeFlags& flags) {
  std::string text = text_from(flags.ids_option, flags.file_option, "token ids");
  std::vector<int32_t> ids = parse_token_list(text, "ids");
  Tokenizer tokenizer = load_tokenizer(source(flags.model, flags.common));
  std::string decoded = tokenizer.decode(ids, flags.skip_special_tokens);
  if (flags.common.json) {
    print_json({{"text", decoded}});
  } else {
    write_out(decoded + "\n");
  }
  return int(ExitCode::ok);
}

}  // namespace

void add_tokenize(Parser& app, Session& session) {
  auto flags = std::make_shared<TokenizeFlags>();
  Parser* verb = add_verb(app, {"tokenize", "Turn text into token ids"});
  flags->text_option = verb->add_option("text", flags->text, "The text; '-' reads standard input");
  add_model_flag(*verb, flags->model);
  flags->file_option =
      verb->add_option("-f,--file", flags->file, "Read the text from a file")->option_text("FILE")->group("Text");
  verb->add_flag("--lines", flags->lines, "Each line of the text by itself, one result per line")->group("Text");
  verb->add_flag("--parse-control-tokens", flags->parse_control_tokens, "Text such as <|im_start|> becomes that token")
      ->group("Text");
  verb->add_flag("--no-special-tokens", flags->no_special_tokens,
                 "Leave out what the tokenizer adds, for instance a BOS")
      ->group("Text");
  verb->add_flag("--pieces", flags->pieces, "Show how the vocabulary spells each token")->group("Output");
  verb->footer(
      "With --json: one array of ids. With --json --pieces: an array of {\"id\", \"piece\"}.\n\n"
      "Example:\n  bumblebee tokenize -m DIR \"Hello, world\"");
  on_chosen(*verb, session, flags, run_tokenize);
}

void add_detokenize(Parser& app, Session& session) {
  auto flags = std::make_shared<DetokenizeFlags>();
  Parser* verb = add_verb(app, {"detokenize", "Turn token ids into text"});
  flags->ids_option = verb->add_option("ids", flags->ids, "Ids such as 1,2,3; '-' reads standard input");
  add_model_flag(*verb, flags->model);
  flags->file_option =
      verb->add_option("-f,--file", flags->file, "Read the ids from a file")->option_text("FILE")->group("Text");
  verb->add_flag("--skip-special-tokens", flags->skip_special_tokens, "Leave out control tokens")->group("Text");
  verb->footer("Example:\n  bumblebee detokenize -m DIR 19556,28,905");
  on_chosen(*verb, session, flags, run_detokenize);
}

}  // namespace bumblebee::cli
