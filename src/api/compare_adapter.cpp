// Drawn texts, since the most likely one alone hides what was learned by heart.
#include "api/compare_adapter.h"

#include <algorithm>

#include "api/model_state.h"
#include "api/tokenizer_state.h"
#include "api/unloading.h"
#include "base/error.h"
#include "bumblebee/generation.h"
#include "dataset/data_reader.h"
#include "train/copied_run.h"

namespace bumblebee::api {
namespace {

constexpr double kTemperature = 0.8;
constexpr int kMostTokens = 256;
/// Rows of the validation that tell how much is shared anyhow.
constexpr size_t kHeldOut = 20;
/// Of a row without a prompt: so many words are continued.
constexpr int kFirstWords = 4;

struct Opening {
  std::string shown;
  text::Input input;
};

Opening asked(const std::string& prompt, const std::vector<std::pair<std::string, std::string>>& turns, bool chat) {
  Opening out{.shown = prompt, .input = {}};
  if (!chat) {
    out.input.text = prompt;
    return out;
  }
  for (const auto& [role, content] : turns)
    out.input.messages.push_back({.role = role, .content = content, .json = {}});
  return out;
}

std::string first_words(const std::string& text) {
  size_t end = 0;
  for (int i = 0; i < kFirstWords && end != std::string::npos; ++i) end = text.find_first_of(" \n", end + 1);
  return text.substr(0, end);
}

class Comparison {
 public:
  Comparison(const Model& model, const Tokenizer& tokenizer, const TrainData& data, const TrainOptions& options)
      : model_(model), tokenizer_(tokenizer), data_(data), options_(options) {
    if (tokenizer.has_chat_template()) chat_ = tokenizer.state()->chat_template();
    encoder_.emplace(data_, tokenizer.state()->tokenizer, chat_ ? &*chat_ : nullptr);
  }

  void run(const Adapter& trained, TrainResult& result) {
    find_openings();
    if (openings_.empty()) return;
    std::vector<TrainComparison> pairs = write(trained);
    std::vector<std::string> texts = held_out_;
    for (const TrainComparison& one : pairs) texts.insert(texts.end(), {one.without, one.with});
    const std::vector<CopiedText> copied = copied_of(texts);
    for (size_t i = 0; i < held_out_.size(); ++i)
      if (copied[i].words > result.held_out.words) result.held_out = copied[i];
    for (size_t i = 0; i < pairs.size(); ++i) {
      pairs[i].copied_without = copied[held_out_.size() + 2 * i];
      pairs[i].copied_with = copied[held_out_.size() + 2 * i + 1];
    }
    result.comparisons = std::move(pairs);  // not before: without the figures they would say that nothing was copied
  }

 private:
  void find_openings() {
    for (const std::string& prompt : options_.sample_prompts)
      openings_.push_back(asked(prompt, {{"user", prompt}}, chat_.has_value()));
    const bool given = !openings_.empty();
    const auto wanted = size_t(options_.report_samples);
    const auto take = [&](dataset::LearnedText row, bool held_out) {
      if (held_out && held_out_.size() < kHeldOut) {
        held_out_.push_back(row.text);
        longest_ = std::max(longest_, int(tokenizer_.state()->tokenizer.encode(row.text).size()));
      }
      if (given || openings_.size() >= wanted) return held_out && held_out_.size() < kHeldOut;
      const bool continued = row.before.empty();
      const std::string shown = continued ? first_words(row.text) : row.before.back().second;
      const bool new_one =
          std::none_of(openings_.begin(), openings_.end(), [&](const Opening& one) { return one.shown == shown; });
      if (new_one && !shown.empty()) openings_.push_back(asked(shown, row.before, !continued && chat_.has_value()));
      return true;
    };
    dataset::for_learned_texts(data_, "valid", *encoder_,
                               [&](dataset::LearnedText row, int64_t) { return take(std::move(row), true); });
    if (openings_.empty()) {
      dataset::for_learned_texts(data_, "train", *encoder_,
                                 [&](dataset::LearnedText row, int64_t) { return take(std::move(row), false); });
    }
  }

  /// What is refused (a conversation that the context does not hold) is left out; when nothing else is there, thrown.
  std::vector<TrainComparison> write(const Adapter& trained) {
    GenerationConfig config = load_generation_config(local(model_.state()->directory), tokenizer_);
    config.strategy = MultinomialSampling{};
    config.temperature = kTemperature;
    config.max_length.reset();
    config.min_length.reset();
    config.max_new_tokens = std::clamp(longest_, options_.sample_tokens, std::max(options_.sample_tokens, kMostTokens));
    const text::Generation serving = text::generation(model_, tokenizer_, config);
    const Unloading unloading(model_, trained);
    const int64_t total = 2 * int64_t(options_.report_samples);
    std::vector<TrainComparison> out;
    std::optional<Error> refused;
    for (int i = 0; i < options_.report_samples; ++i) {
      const Opening& opening = openings_[size_t(i) % openings_.size()];
      text::Input input = opening.input;
      input.seed = options_.seed + uint64_t(i);
      input.adapters = options_.on_top_of;
      TrainComparison one{.prompt = opening.shown};
      try {
        one.without = serving.run(input).text;
      } catch (const Error& error) {
        if (error.code() != ErrorCode::bad_request && error.code() != ErrorCode::too_long) throw;
        refused = error;
        if (!told(2 * i + 2, total)) break;
        continue;
      }
      if (!told(2 * i + 1, total)) break;
      input.adapters.emplace_back(trained);
      one.with = serving.run(input).text;
      out.push_back(std::move(one));
      if (!told(2 * i + 2, total)) break;
    }
    if (out.empty() && refused) throw *refused;
    return out;
  }

  bool told(int64_t done, int64_t total) const {
    return !options_.callbacks.comparing || options_.callbacks.comparing(done, total);
  }

  std::vector<CopiedText> copied_of(const std::vector<std::string>& texts) const {
    train::CopiedRuns runs(texts);
    std::vector<int64_t> lines;
    dataset::for_learned_texts(data_, "train", *encoder_, [&](const dataset::LearnedText& row, int64_t line) {
      runs.add(row.text);
      lines.push_back(line);
      return true;
    });
    std::vector<CopiedText> out;
    for (train::CopiedRun& run : runs.runs()) {
      CopiedText one{.text = std::move(run.text),
                     .words = run.words,
                     .tokens = 0,
                     .characters = run.characters,
                     .of_words = run.of_words,
                     .where = {}};
      if (run.source >= 0) {
        one.tokens = int(tokenizer_.state()->tokenizer.encode(one.text, {.add_special_tokens = false}).size());
        one.where = cat(data_.train.empty() ? "train.jsonl:" : "train:", lines[size_t(run.source)]);
      }
      out.push_back(std::move(one));
    }
    return out;
  }

  const Model& model_;
  const Tokenizer& tokenizer_;
  const TrainData& data_;
  const TrainOptions& options_;
  std::optional<txt::ChatTemplate> chat_;
  std::optional<dataset::RowEncoder> encoder_;
  std::vector<Opening> openings_;
  std::vector<std::string> held_out_;
  int longest_ = 0;
};

}  // namespace

void compare_adapter(const Model& model, const Tokenizer& tokenizer, const TrainData& data, const TrainOptions& options,
                     const Adapter& trained, TrainResult& result) {
  Comparison(model, tokenizer, data, options).run(trained, result);
}

}  // namespace bumblebee::api
