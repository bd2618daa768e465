// The public functions of training: joins a loaded model and tokenizer, which are the engine's, with the trainer. The
// only place that knows both.
#include "bumblebee/train.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <thread>
#include <utility>

#include "api/adapter_state.h"
#include "api/compare_adapter.h"
#include "api/model_state.h"
#include "api/tokenizer_state.h"
#include "api/unloading.h"
#include "base/error.h"
#include "bumblebee/generation.h"
#include "bumblebee/version.h"
#include "dataset/data_reader.h"
#include "lora/bind_to_base.h"
#include "train/estimate.h"
#include "train/parameter.h"
#include "train/run_date.h"
#include "train/select_modules.h"
#include "train/trainer.h"

namespace bumblebee {
namespace {

bool asks_for_date(const Tokenizer& tokenizer) {
  return tokenizer.has_chat_template() && tokenizer.state()->chat_template().uses_clock();
}

/// Of the run that is resumed, else now.
std::string date_of(const TrainOptions& options) {
  const std::string begun = options.resume ? train::date_of_run(options.adapter_path) : "";
  return begun.empty() ? train::local_time() : begun;
}

dataset::Splits read_splits(const Tokenizer& tokenizer, const TrainData& data, const TrainOptions& options, bool train,
                            const std::string& date) {
  std::optional<txt::ChatTemplate> chat;
  if (tokenizer.has_chat_template()) chat = tokenizer.state()->chat_template();
  return dataset::read_data(data, tokenizer.state()->tokenizer, chat ? &*chat : nullptr,
                            {.max_seq_length = options.max_seq_length,
                             .train = train,
                             .test = options.test || !train,
                             .now = train::seconds_at(date)});
}

dataset::Splits fitting(dataset::Splits splits, const ModelInfo& info, const TrainOptions& options) {
  for (const dataset::Dataset* split : {&splits.train, &splits.valid, &splits.test}) {
    for (int64_t i = 0; i < split->size(); ++i) {  // a tokenizer may have more tokens than the model
      const std::vector<int32_t>& tokens = split->rows[size_t(i)].tokens;
      const int32_t largest = *std::max_element(tokens.begin(), tokens.end());
      if (largest >= info.vocab)
        throw Error(ErrorCode::bad_request, split->where(i),
                    cat("token ", largest, ": expected ids below the model's vocabulary of ", info.vocab));
    }
    const int longest = std::min(split->longest, options.max_seq_length);
    if (longest <= info.context) continue;
    throw Error(ErrorCode::bad_request, split->name,
                cat("a row has ", longest, " tokens: expected at most ", info.context,
                    " (the model's context); a lower max_seq_length truncates it"));
  }
  return splits;
}

/// Answers the prompts through an ordinary serving of the model.
class Sampler {
 public:
  Sampler(const Model& model, const Tokenizer& tokenizer, const TrainOptions& options)
      : model_(model),
        tokenizer_(tokenizer),
        options_(options),
        config_(load_generation_config(local(model.state()->directory), tokenizer)) {
    config_.strategy = GreedySearch{};
    config_.max_length.reset();
    config_.min_length.reset();
    config_.max_new_tokens = options.sample_tokens;
  }

  std::vector<TrainSample> answer(lora::Adapter adapter) {
    if (!serving_) serving_ = text::generation(model_, tokenizer_, config_);
    const Adapter now = api::make_adapter(std::move(adapter));
    const api::Unloading unloading(model_, now);
    std::vector<TrainSample> samples;
    for (const std::string& prompt : options_.sample_prompts) {
      text::Input input;
      if (tokenizer_.has_chat_template()) {
        input.messages = {{.role = "user", .content = prompt, .json = {}}};
      } else {
        input.text = prompt;
      }
      input.adapters = options_.on_top_of;
      input.adapters.emplace_back(now);
      samples.push_back({.iteration = 0, .prompt = prompt, .text = serving_->run(input).text});
    }
    return samples;
  }

 private:
  const Model& model_;
  const Tokenizer& tokenizer_;
  const TrainOptions& options_;
  GenerationConfig config_;
  std::optional<text::Generation> serving_;
};

/// Everything that a trainer refers to.
class Session {
 public:
  Session(const Model& model, const Tokenizer& tokenizer, const TrainData& data, const TrainOptions& options)
      : state_(*model.state()),
        date_(date_of(options)),
        splits_((train::check_options(options), train::require_trainable(state_.model()),
                 (void)train::require_grad_ops(state_.device->backend()),
                 fitting(read_splits(tokenizer, data, options, true, date_), model.info(), options))),
        executor_(state_.make_executor({})),
        inputs_{.device = {*executor_, state_.device->backend(), state_.model()},
                .data = splits_,
                .source = data,
                .options = options,
                .base_directory = state_.directory,
                .precision = state_.options.precision == Precision::fast ? "fast" : "exact",
                .program = cat("bumblebee ", version()),
                .frozen = {},
                .date = asks_for_date(tokenizer) && splits_.train.format != dataset::DataFormat::text ? date_ : "",
                .files = {},
                .sample = {}} {
    const nn::Model& base = state_.model();
    if (!data.directory.empty())
      for (const char* name : {"train.jsonl", "valid.jsonl", "test.jsonl"})
        inputs_.files.push_back(data.directory / name);
    bound_.reserve(options.on_top_of.size());
    for (const WeightedAdapter& one : options.on_top_of) {
      const lora::Adapter& adapter = *one.adapter.state()->adapter;
      bound_.push_back(lora::bind_to_base(adapter, {.target_modules = base.target_modules(),
                                                    .tied_head = base.dims().tied_head,
                                                    .name = state_.directory.string()}));
      inputs_.files.push_back(adapter.where);
      inputs_.frozen.push_back({&bound_.back(), one.weight, adapter.name, lora::to_string(adapter.id)});
    }
    if (!options.sample_prompts.empty()) {
      sampler_.emplace(model, tokenizer, options);
      inputs_.sample = [this](lora::Adapter adapter) { return sampler_->answer(std::move(adapter)); };
    }
    trainer_.emplace(inputs_);
    TrainPlan& plan = trainer_->plan();
    plan.parameters = model.info().parameters;
    plan.memory_bytes = train::estimate_memory(
        {.dims = base.dims(),
         .layers = train::layers_of(base),
         .norms = train::norms_of_layer(base),
         .recorded_layers = plan.layers,
         .rows = trainer_->stream().largest_batch(),
         .trained_values = plan.trainable_parameters,
         .optimizer_values = trainer_->state_values(),
         .longest_row = std::min(plan.longest_row, options.max_seq_length),
         .threads = state_.options.threads > 0 ? state_.options.threads : int(std::thread::hardware_concurrency())},
        options);
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  train::Trainer& trainer() { return *trainer_; }

 private:
  api::ModelState& state_;
  const std::string date_;
  dataset::Splits splits_;
  std::unique_ptr<exec::Executor> executor_;
  std::vector<lora::BoundAdapter> bound_;
  std::optional<Sampler> sampler_;
  train::TrainerInputs inputs_;
  std::optional<train::Trainer> trainer_;
};

}  // namespace

TrainResult train_adapter(const Model& model, const Tokenizer& tokenizer, const TrainData& data,
                          const TrainOptions& options) {
  TrainResult result = Session(model, tokenizer, data, options).trainer().run();
  if (options.report_samples == 0 || result.end == TrainEnd::cancelled || result.iterations == 0) return result;
  try {
    const Adapter trained = load_adapter(local(result.best.empty() ? result.adapter : result.best));
    api::compare_adapter(model, tokenizer, data, options, trained, result);
  } catch (const std::exception& error) {  // the adapter stands; only its report is shorter
    if (options.callbacks.note) options.callbacks.note(cat("no texts to compare: ", error.what()));
  }
  return result;
}

TrainPlan plan_training(const Model& model, const Tokenizer& tokenizer, const TrainData& data,
                        const TrainOptions& options, bool measure) {
  Session session(model, tokenizer, data, options);
  session.trainer().check_directory();
  session.trainer().note_data();
  TrainPlan plan = session.trainer().plan();
  if (measure) plan.seconds = session.trainer().measure();
  return plan;
}

double test_loss(const Model& model, const Tokenizer& tokenizer, const TrainData& data, const TrainOptions& options,
                 const std::vector<WeightedAdapter>& adapters) {
  const dataset::Splits splits =
      fitting(read_splits(tokenizer, data, options, false, train::local_time()), model.info(), options);
  train::BatchStream stream(splits.test, {.batch_size = options.batch_size,
                                          .max_seq_length = options.max_seq_length,
                                          .seed = options.seed,
                                          .short_data = true});
  const int64_t all = stream.batches_per_epoch();
  const int64_t batches = options.test_batches < 0 ? all : std::min<int64_t>(all, options.test_batches);
  double sum = 0;
  int64_t scored = 0;
  for (int64_t i = 0; i < batches; ++i) {
    const train::TrainBatch batch = stream.next();
    for (const Segment& segment : batch.segments) {
      const auto tokens = std::span(batch.tokens).subspan(size_t(segment.first), size_t(segment.rows));
      model.logits(
          tokens,
          [&](int row, std::span<const float> logits) {
            const int32_t target = batch.targets[size_t(segment.first + row)];
            if (target < 0) return;
            double most = -INFINITY, total = 0;
            for (const float z : logits) most = std::max(most, double(z));
            for (const float z : logits) total += std::exp(double(z) - most);
            sum += std::log(total) + most - double(logits[size_t(target)]);
            ++scored;
          },
          adapters);
    }
  }
  return sum / double(scored);
}

}  // namespace bumblebee
