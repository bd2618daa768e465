// How tokens are chosen and when generation ends. Field names and defaults follow GenerationConfig of Elixir's
// Bumblebee; what that lacks (penalties, min-p, logit bias, stop strings, logprobs) follows transformers and the OpenAI
// API.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "bumblebee/repository.h"

namespace bumblebee {

class Tokenizer;

/// Always the most likely token.
struct GreedySearch {};

/// Draws from the distribution after the filters, in this order: temperature, top-k, top-p, min-p.
struct MultinomialSampling {
  int top_k = 0;       // 0: off
  double top_p = 1.0;  // 1: off
  double min_p = 0.0;  // 0: off
};

/// Contrastive search (Su et al., 2022): of the top_k candidates v, the one with the largest (1 - alpha)·p(v) -
/// alpha·max cosine of v's hidden state with those before it.
struct ContrastiveSearch {
  int top_k = 4;
  double alpha = 0.6;
};

/// What is left out of an answer's text; its tokens stay. Blanks around what goes become one, or none at an edge.
struct Strip {
  bool think = false;     // <think>...</think>, <thinking>, [THINK], also unclosed, or opened by the prompt
  bool hashtags = false;  // #word, where it is no number and stands by itself
  bool emoji = false;     // also sequences and flags; digits and © stay

  bool any() const { return think || hashtags || emoji; }
};

/// For max_new_tokens: until the sequence is full.
inline constexpr int kNoLimit = std::numeric_limits<int>::max();

using Strategy = std::variant<GreedySearch, MultinomialSampling, ContrastiveSearch>;

struct GenerationConfig {
  std::optional<int> max_new_tokens;  // at most one of this and max_length; neither: 20, as Elixir's Bumblebee has it
  std::optional<int> max_length;      // prompt included
  std::optional<int> min_new_tokens;  // at most one of this and min_length
  std::optional<int> min_length;
  /// Of the text, in characters (code points), after `strip`. No token that ends the answer is chosen before it has
  /// min_chars.
  std::optional<int> min_chars;
  /// The text ends with the last sentence that ends within max_chars (and not before min_chars), as soon as one goes
  /// beyond; where there is none, with a word. Streamed text comes a sentence at a time.
  std::optional<int> max_chars;
  Strip strip;

  Strategy strategy = GreedySearch{};
  double temperature = 1.0;         // divides the logits; 0 means greedy
  double repetition_penalty = 1.0;  // over prompt and output (Keskar et al., 2019)
  double presence_penalty = 0.0;    // once per token already generated
  double frequency_penalty = 0.0;   // per occurrence already generated
  int no_repeat_ngram_length = 0;   // 0: off
  std::map<int32_t, double> logit_bias;
  std::vector<int32_t> suppressed_token_ids;
  std::map<int, int32_t> forced_token_ids;  // index in the output (0 is the first new token) to the token it must be

  std::vector<int32_t> eos_token_ids;  // any of them ends generation; not part of the text
  std::optional<int32_t> bos_token_id, pad_token_id;
  // The text ends before the first of them. Control tokens, which are not part of the text, are found when spelled
  // here.
  std::vector<std::string> stop_strings;

  bool logprobs = false;
  int top_logprobs = 0;          // at most 20; implies logprobs
  std::optional<uint64_t> seed;  // of draws; none: every request has one of its own, which Result::seed tells
};

/// Reads `generation_config.json`, or what `config.json` says when there is none. `eos_token_ids` are those of both
/// files (a nested `text_config` too) and the tokenizer's. Throws Error(unsupported) for a setting that changes the
/// result and is not implemented (beam search for instance), Error(bad_config) for values out of range. Without a
/// tokenizer the directory's own is loaded for it, where it has one.
GenerationConfig load_generation_config(const Repository& repository);
GenerationConfig load_generation_config(const Repository& repository, const Tokenizer& tokenizer);

/// What a request says of choosing tokens, over what the model's author says.
struct SamplingOverrides {
  std::optional<double> temperature = {};        // 0: greedy
  std::optional<int> top_k = {};                 // 0 or -1: off
  std::optional<double> top_p = {}, min_p = {};  // top_p 0: greedy
  std::optional<double> repetition_penalty = {}, presence_penalty = {}, frequency_penalty = {};
  std::optional<uint64_t> seed = {};
};
/// Lays them over `config`: asking for a temperature or a filter means asking for a draw, a filter that is off does
/// not; filters that are not named stay. Nothing is checked: validate() does.
void apply(const SamplingOverrides& overrides, GenerationConfig& config);

/// Throws Error(bad_request) naming the field when a value is out of range or two settings exclude each other.
void validate(const GenerationConfig& config);

}  // namespace bumblebee
