// History and rules to plain numbers; the numbers to a token in backend/sample.h.
#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "base/error.h"

namespace bumblebee::engine {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

}  // namespace

void require_ids(const GenerationConfig& config, int vocab) {
  const auto require_id = [vocab](int32_t id, const char* field) {
    if (id < 0 || id >= vocab) {
      throw Error(ErrorCode::bad_request, "generation config",
                  cat(field, ": expected ids below the vocabulary of ", vocab, ", got ", id));
    }
  };
  for (int32_t id : config.suppressed_token_ids) require_id(id, "suppressed_token_ids");
  for (const auto& [id, bias] : config.logit_bias) require_id(id, "logit_bias");
  for (const auto& [index, id] : config.forced_token_ids) require_id(id, "forced_token_ids");
}

bool is_greedy(const GenerationConfig& config) {
  if (float(config.temperature) == 0 || std::holds_alternative<GreedySearch>(config.strategy)) return true;
  if (const auto* sampling = std::get_if<MultinomialSampling>(&config.strategy)) return sampling->top_k == 1;
  // Of one candidate there is nothing to choose.
  const auto* contrastive = std::get_if<ContrastiveSearch>(&config.strategy);
  return contrastive != nullptr && contrastive->top_k == 1;
}

void require_chosen(int32_t id) {
  if (id == kNotFinite)
    throw Error(ErrorCode::device, "sampler",
                "the model produced a logit that is not a number: expected finite logits");
  if (id == kAllMasked) {
    throw Error(ErrorCode::bad_request, "sampler",
                "no token is left to choose: no-repeat n-grams, minimum length and suppressed tokens mask the whole "
                "vocabulary");
  }
}

Sampler::Sampler(const GenerationConfig& config, std::span<const int32_t> prompt, int vocab, uint64_t seed)
    : config_(config), prompt_size_(int(prompt.size())), vocab_(vocab), seed_(seed) {
  require_ids(config, vocab);
  std::vector<int32_t> touched = config.suppressed_token_ids;
  for (const auto& [id, bias] : config.logit_bias) touched.push_back(id);
  if (config.repetition_penalty != 1.0) touched.insert(touched.end(), prompt.begin(), prompt.end());
  std::sort(touched.begin(), touched.end());
  touched.erase(std::unique(touched.begin(), touched.end()), touched.end());
  for (int32_t id : touched) changes_.push_back({.token = id});
  for (const auto& [id, bias] : config.logit_bias) change_of(id).add = float(bias);
  if (config.repetition_penalty != 1.0) {
    for (int32_t id : prompt) change_of(id).penalty = float(config.repetition_penalty);
  }
  for (int32_t id : config.suppressed_token_ids) change_of(id).add = kMasked;
}

/// Inserted in its place when it is new.
LogitChange& Sampler::change_of(int32_t token) {
  const auto before = [](const LogitChange& change, int32_t id) { return change.token < id; };
  const auto at = std::lower_bound(changes_.begin(), changes_.end(), token, before);
  return at != changes_.end() && at->token == token ? *at : *changes_.insert(at, {.token = token});
}

void Sampler::accept(int32_t token) {
  if (config_.presence_penalty != 0 || config_.frequency_penalty != 0) {
    const int count = ++output_counts_[token];
    change_of(token).subtract = float(config_.presence_penalty + config_.frequency_penalty * count);
  }
  if (config_.repetition_penalty != 1.0) change_of(token).penalty = float(config_.repetition_penalty);
}

bool Sampler::is_eos(int32_t token) const {
  return std::find(config_.eos_token_ids.begin(), config_.eos_token_ids.end(), token) != config_.eos_token_ids.end();
}

bool Sampler::foresees() const {
  return config_.presence_penalty == 0 && config_.frequency_penalty == 0 && config_.repetition_penalty == 1.0 &&
         config_.no_repeat_ngram_length == 0 && !end_banned_ &&
         !std::holds_alternative<ContrastiveSearch>(config_.strategy);
}

/// Tokens that may not come next, after `length` of which `tokens` are known, but may come later, ascending: what would
/// repeat an n-gram, and the end of an answer that is too short.
std::vector<int32_t> Sampler::masked_now(std::span<const int32_t> tokens, int length) const {
  std::vector<int32_t> masked;
  const size_t n = size_t(config_.no_repeat_ngram_length);
  if (n > 0 && tokens.size() + 1 >= n) {
    const size_t context = n - 1;
    const auto tail = tokens.end() - ptrdiff_t(context);
    for (size_t i = 0; i + context < tokens.size(); ++i) {
      if (std::equal(tail, tokens.end(), tokens.begin() + ptrdiff_t(i))) masked.push_back(tokens[i + context]);
    }
  }
  if (end_banned_ || length - prompt_size_ < config_.min_new_tokens.value_or(0) ||
      length < config_.min_length.value_or(0)) {
    for (int32_t id : config_.eos_token_ids) {
      if (id < vocab_) masked.push_back(id);
    }
  }
  std::sort(masked.begin(), masked.end());
  masked.erase(std::unique(masked.begin(), masked.end()), masked.end());
  return masked;
}

SampleRow Sampler::describe(std::span<const int32_t> tokens, std::vector<LogitChange>& changes, int unknown) const {
  BB_CHECK(unknown == 0 || foresees(), "unknown ", unknown);
  const int length = int(tokens.size()) + unknown, outputs = length - prompt_size_;
  const bool greedy = is_greedy(config_);
  SampleRow row{.mode = greedy ? SampleRow::Mode::greedy : SampleRow::Mode::draw,
                .logprob = config_.logprobs || config_.top_logprobs > 0,
                .top_logprobs = config_.top_logprobs,
                .temperature = float(config_.temperature) > 0 ? config_.temperature : 1,
                .seed = seed_,
                .draw = uint64_t(outputs),
                .first_change = int(changes.size())};
  if (const auto* sampling = std::get_if<MultinomialSampling>(&config_.strategy); sampling != nullptr && !greedy) {
    row.top_k = sampling->top_k;
    row.top_p = sampling->top_p;
    row.min_p = sampling->min_p;
  }
  if (std::holds_alternative<ContrastiveSearch>(config_.strategy) && !greedy) row.mode = SampleRow::Mode::none;
  if (const auto forced = config_.forced_token_ids.find(outputs); forced != config_.forced_token_ids.end()) {
    row.forced = forced->second;
    return row;
  }
  auto change = changes_.begin();
  for (int32_t id : masked_now(tokens, length)) {
    while (change != changes_.end() && change->token < id) changes.push_back(*change++);
    if (change != changes_.end() && change->token == id) ++change;
    changes.push_back({.token = id, .add = kMasked});
  }
  changes.insert(changes.end(), change, changes_.end());
  row.changes = int(changes.size()) - row.first_change;
  return row;
}

std::vector<std::pair<int32_t, double>> Sampler::candidates(std::span<const int32_t> tokens,
                                                            std::span<const float> logits, int count) const {
  std::vector<LogitChange> changes;
  SampleScratch scratch;
  const SampleRow row = describe(tokens, changes);
  require_chosen(process(logits, row, changes, scratch));
  collect_unmasked(scratch);
  std::vector<int32_t>& order = scratch.order;
  const size_t wanted = std::min(order.size(), size_t(count));
  std::partial_sort(order.begin(), order.begin() + ptrdiff_t(wanted), order.end(), Likelier{scratch.scores});
  const double max = double(scratch.scores[size_t(order.front())]), sum = partition(scratch.scores, max);
  std::vector<std::pair<int32_t, double>> result;
  for (size_t i = 0; i < wanted; ++i)
    result.emplace_back(order[i], std::exp(double(scratch.scores[size_t(order[i])]) - max) / sum);
  return result;
}

std::optional<text::TokenLogprob> Sampler::logprob(std::span<const float> logits, int32_t token) const {
  if (!config_.logprobs && config_.top_logprobs == 0) return std::nullopt;
  Logprobs found = logprobs_of(logits, token, config_.top_logprobs);
  return text::TokenLogprob{.token = token, .logprob = found.logprob, .top = std::move(found.top)};
}

}  // namespace bumblebee::engine
