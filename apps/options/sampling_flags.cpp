// Parses the flags of generation over the model's own defaults.
#include "options/sampling_flags.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <random>

#include "options/validators.h"
#include "ui/exit_codes.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

namespace {

constexpr int64_t kMaxInt = std::numeric_limits<int32_t>::max();

void add_choice_flags(Parser& verb, SamplingFlags& flags) {
  auto number = [&verb](const std::string& names, std::optional<double>& to, double low, double high,
                        const std::string& what) {
    return verb.add_option(names, to, what)->option_text("X")->check(number_between(low, high))->group("Sampling");
  };
  Option* temperature =
      number("--temp,--temperature", flags.temperature, 0, 100, "Temperature; 0 always takes the likeliest token");
  Option* top_k = verb.add_option("--top-k", flags.top_k, "Draw from the N likeliest tokens only (0 or -1: off)")
                      ->option_text("N")
                      ->check(integer_between(-1, kMaxInt))
                      ->group("Sampling");
  Option* top_p =
      number("--top-p", flags.top_p, 0, 1, "Draw from the likeliest tokens that together have probability X (1: off)");
  Option* min_p = number("--min-p", flags.min_p, 0, 1, "Drop tokens less likely than X times the likeliest (0: off)");
  verb.add_option("--seed", flags.seed, "Seed; the same seed gives the same text (default, and -1: a fresh one)")
      ->option_text("N")
      ->check(integer_between(-1, std::numeric_limits<int64_t>::max()))
      ->group("Sampling");
  Option* contrastive = number("--contrastive-alpha", flags.contrastive_alpha, 0, 1,
                               "Contrastive search with this alpha over --top-k candidates");
  contrastive->excludes(top_p)->excludes(min_p);
  const auto is_zero = [](const std::string&, const std::string& theirs) {
    return std::strtod(theirs.c_str(), nullptr) == 0;
  };
  verb.add_flag("--greedy", flags.greedy, "Always take the likeliest token")
      ->excludes(temperature, is_zero)
      ->excludes(top_k)
      ->excludes(top_p)
      ->excludes(min_p)
      ->excludes(contrastive)
      ->group("Sampling");
  number("--repeat-penalty,--repetition-penalty", flags.repeat_penalty, 1e-6, 1e6,
         "Divide the scores of tokens of the prompt and the answer by X (1: off)");
  number("--presence-penalty", flags.presence_penalty, -1e6, 1e6,
         "Subtract X from the score of each token already generated");
  number("--frequency-penalty", flags.frequency_penalty, -1e6, 1e6,
         "Subtract X per occurrence of a token already generated");
  verb.add_option("--no-repeat-ngram", flags.no_repeat_ngram, "Never repeat a sequence of N tokens (0: off)")
      ->option_text("N")
      ->check(integer_between(0, kMaxInt))
      ->group("Sampling");
  verb.add_option("--logit-bias", flags.logit_bias,
                  "Add BIAS to the score of token ID; repeatable, or a comma-separated list")
      ->option_text("ID=BIAS")
      ->allow_extra_args(false)
      ->group("Sampling");
}

void parse_bias(const std::string& text, std::map<int32_t, double>& biases) {
  auto fail = [&text] { return UsageError("--logit-bias: expected ID=BIAS such as 42=-1.5, got '" + text + "'"); };
  std::string_view rest = text;
  while (!rest.empty()) {
    std::string_view item = rest.substr(0, rest.find(','));
    rest = item.size() < rest.size() ? rest.substr(item.size() + 1) : std::string_view{};
    size_t equals = item.find('=');
    if (equals == std::string_view::npos) throw fail();
    std::string_view id_text = item.substr(0, equals), bias_text = item.substr(equals + 1);
    if (bias_text.starts_with('+')) bias_text.remove_prefix(1);
    int32_t id = 0;
    double bias = 0;
    auto id_end = std::from_chars(id_text.data(), id_text.data() + id_text.size(), id);
    auto bias_end = std::from_chars(bias_text.data(), bias_text.data() + bias_text.size(), bias);
    bool whole = id_end.ec == std::errc{} && id_end.ptr == id_text.data() + id_text.size() &&
                 bias_end.ec == std::errc{} && bias_end.ptr == bias_text.data() + bias_text.size();
    if (!whole || id < 0 || std::isnan(bias)) throw fail();
    biases[id] = bias;
  }
}

void apply_strategy(const SamplingFlags& flags, GenerationConfig& config) {
  bool filters = flags.top_p || flags.min_p || (flags.top_k && !flags.contrastive_alpha);
  if (flags.contrastive_alpha) {
    ContrastiveSearch search;
    search.alpha = *flags.contrastive_alpha;
    if (flags.top_k) search.top_k = *flags.top_k;
    config.strategy = search;
    if (flags.temperature) config.temperature = *flags.temperature;
    return;
  }
  if (flags.greedy) {
    config.strategy = GreedySearch{};
    return;
  }
  if (flags.temperature == 0.0 && filters)
    note("--top-k, --top-p and --min-p have no effect at temperature 0, which takes the likeliest token");
  bumblebee::apply({.temperature = flags.temperature, .top_k = flags.top_k, .top_p = flags.top_p, .min_p = flags.min_p},
                   config);
}

/// What of "think,hashtags,emoji" is named; "none" is nothing.
Strip parse_strip(std::string_view rest) {
  Strip strip;
  while (!rest.empty()) {
    const std::string_view word = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), word.size() + 1));
    if (word == "think") {
      strip.think = true;
    } else if (word == "hashtags") {
      strip.hashtags = true;
    } else if (word == "emoji") {
      strip.emoji = true;
    } else if (word != "none") {
      throw UsageError("--strip: expected a list of think, hashtags and emoji, got '" + std::string(word) + "'");
    }
  }
  return strip;
}

/// -1 is no limit, as in llama.cpp, Ollama and mlx-lm.
std::string check_max_tokens(const std::string& text) {
  if (text == "-1" || integer_between(1, kMaxInt)(text).empty()) return {};
  return "expected an integer from 1, or -1 for no limit but the context, got '" + text + "'";
}

}  // namespace

void add_sampling_flags(Parser& verb, SamplingFlags& flags, Uncapped uncapped) {
  verb.add_option(
          "-n,--max-tokens", flags.max_tokens,
          "Tokens to generate at most; -1: until the context is full (default: " +
              (uncapped == Uncapped::yes ? std::string("-1")
                                         : "generation_config.json, else " + std::to_string(kDefaultMaxTokens)) +
              ")")
      ->option_text("N")
      ->check(check_max_tokens)
      ->group("Length");
  verb.add_option("--min-tokens", flags.min_tokens, "Tokens to generate at least")
      ->option_text("N")
      ->check(integer_between(0, kMaxInt))
      ->group("Length");
  verb.add_option("--min-chars", flags.min_chars, "Characters of text before the answer may end")
      ->option_text("N")
      ->check(integer_between(0, kMaxInt))
      ->group("Length");
  verb.add_option("--max-chars", flags.max_chars, "Characters of text at most; it ends with a sentence")
      ->option_text("N")
      ->check(integer_between(1, kMaxInt))
      ->group("Length");
  verb.add_option("-r,--stop", flags.stop, "End before this text; repeatable")
      ->option_text("TEXT")
      ->allow_extra_args(false)
      ->group("Length");
  add_choice_flags(verb, flags);
  verb.add_option("--strip", flags.strip, "Leave out of the text: a list of think, hashtags and emoji")
      ->option_text("WHAT")
      ->group("Output");
}

void apply(const SamplingFlags& flags, GenerationConfig& config, Uncapped uncapped) {
  if (flags.max_tokens || uncapped == Uncapped::yes) {
    config.max_new_tokens = flags.max_tokens.value_or(-1) < 0 ? kNoLimit : *flags.max_tokens;
    config.max_length.reset();
  } else if (!config.max_new_tokens && !config.max_length) {
    config.max_new_tokens = kDefaultMaxTokens;
  }
  if (flags.min_tokens) {
    config.min_new_tokens = flags.min_tokens;
    config.min_length.reset();
  }
  if (flags.min_chars) config.min_chars = flags.min_chars;
  if (flags.max_chars) config.max_chars = flags.max_chars;
  if (!flags.strip.empty()) config.strip = parse_strip(flags.strip);
  apply_strategy(flags, config);
  bumblebee::apply({.repetition_penalty = flags.repeat_penalty,
                    .presence_penalty = flags.presence_penalty,
                    .frequency_penalty = flags.frequency_penalty},
                   config);
  if (flags.no_repeat_ngram) config.no_repeat_ngram_length = *flags.no_repeat_ngram;
  for (const std::string& bias : flags.logit_bias) parse_bias(bias, config.logit_bias);
  for (const std::string& text : flags.stop) {
    if (text.empty()) throw UsageError("--stop: expected some text, got nothing");
    config.stop_strings.push_back(text);
  }
  if (flags.logprobs) {
    config.logprobs = true;
    config.top_logprobs = *flags.logprobs;
  }
  if (flags.seed.value_or(-1) >= 0) {
    config.seed = uint64_t(*flags.seed);
  } else {
    std::random_device fresh;
    config.seed = fresh();
  }
}

}  // namespace bumblebee::cli
