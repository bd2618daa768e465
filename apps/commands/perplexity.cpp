// `perplexity`: how well a model predicts a text. The exact definition is in the help text and in docs/inspect.md; both
// must follow the code.
#include <fmt/core.h>

#include <chrono>
#include <cmath>
#include <cstdio>

#include "commands/commands.h"
#include "options/adapter_flags.h"
#include "options/model_flags.h"
#include "options/validators.h"
#include "ui/exit_codes.h"
#include "ui/interrupt.h"
#include "ui/json_out.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

namespace {

struct PerplexityFlags {
  CommonFlags common;
  ModelFlags model;
  AdapterFlags adapters;
  std::string file;
  int ctx_size = 512;
};

/// Sums of the negative log-likelihood over scored tokens, in double: a text of millions of tokens must not drown in
/// rounding.
struct Score {
  double sum = 0, sum_of_squares = 0;
  uint64_t tokens = 0;

  void add(double nll) {
    sum += nll;
    sum_of_squares += nll * nll;
    ++tokens;
  }
  double mean() const { return sum / double(tokens); }
  double perplexity() const { return std::exp(mean()); }
  /// Standard error of the perplexity, to first order, taking tokens as independent.
  double standard_error() const {
    if (tokens < 2) return 0;
    double variance = (sum_of_squares / double(tokens) - mean() * mean()) * double(tokens) / double(tokens - 1);
    return perplexity() * std::sqrt(std::max(0.0, variance) / double(tokens));
  }
};

double negative_log_likelihood(std::span<const float> logits, int32_t token) {
  double largest = -INFINITY;
  for (float value : logits) largest = std::max(largest, double(value));
  double sum = 0;
  for (float value : logits) sum += std::exp(double(value) - largest);
  return largest + std::log(sum) - double(logits[size_t(token)]);
}

int run(const PerplexityFlags& flags) {
  if (flags.file.empty()) throw UsageError("no text given: use -f FILE ('-': standard input)");
  Tokenizer tokenizer = load_tokenizer(source(flags.model.model, flags.common));
  std::vector<int32_t> tokens = tokenizer.encode(read_input(flags.file));
  if (tokens.size() < 2)
    throw Error(ErrorCode::bad_request, flags.file,
                "expected a text of at least two tokens, got " + std::to_string(tokens.size()));
  const std::vector<WeightedAdapter> adapters = load_adapters(flags.adapters, flags.common);
  LoadedModel loaded = load(flags.model, flags.common);
  if (flags.ctx_size > loaded.model.info().context) {
    throw Error(ErrorCode::bad_request, "--ctx-size",
                "expected at most the model's context of " + std::to_string(loaded.model.info().context) +
                    " tokens, got " + std::to_string(flags.ctx_size));
  }

  auto start = std::chrono::steady_clock::now();
  ProgressBar bar("perplexity", ProgressBar::Unit::items, flags.common.progress());
  Score score;
  uint64_t windows = 0;
  auto window_size = size_t(flags.ctx_size);
  for (size_t first = 0; first + 1 < tokens.size(); first += window_size, ++windows) {
    auto window = std::span<const int32_t>(tokens).subspan(first, std::min(window_size, tokens.size() - first));
    loaded.model.logits(
        window,
        [&](int row, std::span<const float> logits) {
          if (interrupt::requested()) throw Error(ErrorCode::cancelled, "perplexity", "cancelled");
          auto next = size_t(row) + 1;
          if (next < window.size()) {
            const double nll = negative_log_likelihood(logits, window[next]);
            if (std::isnan(nll))
              throw Error(
                  ErrorCode::device, "perplexity",
                  "expected finite logits, got one that is not a number at token " + std::to_string(first + next));
            score.add(nll);
          }
          bar.update(first + next, tokens.size());
        },
        adapters);
  }
  bar.clear();
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

  if (flags.common.json) {
    print_json({{"perplexity", score.perplexity()},
                {"standard_error", score.standard_error()},
                {"nll", score.mean()},
                {"tokens_scored", score.tokens},
                {"tokens", tokens.size()},
                {"windows", windows},
                {"ctx_size", flags.ctx_size},
                {"tokens_per_s", double(tokens.size()) / seconds}});
    return int(ExitCode::ok);
  }
  write_out(fmt::format("perplexity {:.4f} +- {:.4f} ({} tokens scored in {} windows of {})\n", score.perplexity(),
                        score.standard_error(), score.tokens, windows, flags.ctx_size));
  if (flags.common.remarks()) std::fprintf(stderr, "[%.1f tokens/s]\n", double(tokens.size()) / seconds);
  return int(ExitCode::ok);
}

}  // namespace

void add_perplexity(Parser& app, Session& session) {
  auto flags = std::make_shared<PerplexityFlags>();
  Parser* verb = add_verb(app, {"perplexity", "Measure how well a model predicts a text"});
  add_model_flags(*verb, flags->model);
  add_adapter_flags(*verb, flags->adapters);
  verb->add_option("-f,--file", flags->file, "The text ('-': standard input)")->option_text("FILE")->group("Text");
  verb->add_option("-c,--ctx-size", flags->ctx_size, "Tokens per window (default 512)")
      ->option_text("N")
      ->check(integer_between(2, 1 << 30))
      ->group("Text");
  verb->footer(
      "Definition: the whole text is tokenized once, with the special tokens that the tokenizer adds. The ids are cut\n"
      "into windows of c, one after the other, without overlap; the last may be shorter and counts when it has two "
      "ids.\n"
      "Each window is computed alone, from an empty context. With positions counted from 0, the positions 1 to c-1 of "
      "a\n"
      "window are scored: -ln p(id at i | ids 0..i-1 of this window), natural logarithm, summed in double precision.\n"
      "perplexity = exp(sum / number of scored positions).\n\n"
      "Example:\n  bumblebee perplexity -m DIR -f text.txt -c 512");
  on_chosen(*verb, session, flags, run);
}

}  // namespace bumblebee::cli
