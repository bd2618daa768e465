// Cadence: validation before the first step, after every steps_per_eval and the last; a step, then its report, then
// validation, then the save. (mlx-lm validates before the step whose number it prints, and never the last state.)
#include "train/trainer.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/error.h"
#include "base/format.h"
#include "base/output_paths.h"
#include "lora/expert_paths.h"
#include "lora/identity.h"
#include "lora/mlx_names.h"
#include "train/earlier_run.h"
#include "train/hashing.h"
#include "train/settings.h"
#include "train/verdict.h"

namespace bumblebee::train {

namespace fs = std::filesystem;

namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

uint64_t peak_memory() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return uint64_t(usage.ru_maxrss) * 1024;
}

BatchOptions batches_of(const TrainOptions& o, bool learning) {
  return {.batch_size = o.batch_size,
          .max_seq_length = o.max_seq_length,
          .packed = learning && o.packed,
          .seed = o.seed,
          .short_data = !learning};
}

/// Shorter runs are over before their time would be known.
constexpr int kWorthMeasuring = 10;

const TrainOptions& checked(const TrainOptions& options) {
  check_options(options);
  return options;
}

std::unique_ptr<LoraParams> make_params(const TrainDevice& device, const TrainOptions& o) {
  std::unique_ptr<LoraParams> params;
  device.run([&] { params = std::make_unique<LoraParams>(device.backend, device.model, o.lora, o.seed); });
  return params;
}

/// PEFT's files have names for experts where they lie as mlx-lm's `switch_mlp`.
void check_format(AdapterFormat format, std::span<const Parameter> parameters) {
  for (const Parameter& p : parameters) {
    // Granite 4 in Hugging Face's files: mlx-lm makes gate and up of the one, and knows the two alone.
    if (format == AdapterFormat::mlx && p.name.find(".shared_mlp.") != std::string::npos)
      throw Error(
          ErrorCode::unsupported, "train",
          cat("adapter_format 'mlx': '", p.name.substr(0, p.name.rfind('.')),
              "' has other names in mlx-lm's model: expected peft, a base in mlx-lm's files, or keys without it"));
    if (format != AdapterFormat::peft || p.experts == 1) continue;
    const std::string stack = p.name.substr(0, p.name.rfind('.'));
    if (lora::each_name(stack).empty())
      throw Error(ErrorCode::unsupported, "train",
                  cat("adapter_format 'peft': '", stack, "' is a stack of experts without a name there: expected mlx"));
  }
}

/// What tells rows of a matrix from columns has no meaning for a stack of them; mlx-lm's has one by accident.
void check_stacks(OptimizerKind kind, std::span<const Parameter> parameters) {
  if (kind != OptimizerKind::muon && kind != OptimizerKind::adafactor) return;
  for (const Parameter& p : parameters) {
    if (p.experts == 1) continue;
    throw Error(ErrorCode::unsupported, "train",
                cat("optimizer '", kind == OptimizerKind::muon ? "muon" : "adafactor", "': '", p.name,
                    "' is a stack of ", p.experts, " experts: expected adam, adamw or sgd"));
  }
}

}  // namespace

Trainer::Trainer(const TrainerInputs& inputs)
    : in_(inputs),
      options_(checked(inputs.options)),
      grad_(require_grad_ops(inputs.device.backend)),
      params_holder_(make_params(in_.device, options_)),
      params_(*params_holder_),
      optimizer_(make_optimizer(options_.optimizer, in_.device.backend)),
      schedule_(options_.schedule, options_.learning_rate),
      stream_(in_.data.train, batches_of(options_, true)),
      mlx_prefix_(in_.base_directory.empty() ? "" : lora::mlx_prefix(in_.base_directory)) {
  if (!in_.data.valid.empty() && options_.val_batches != 0)
    valid_ = std::make_unique<BatchStream>(in_.data.valid, batches_of(options_, false));
  if (valid_ == nullptr && options_.early_stopping > 0)
    throw Error(ErrorCode::bad_request, "train",
                "early_stopping: expected rows to validate with (valid.jsonl, and val_batches other than 0), got none");
  check_stacks(options_.optimizer.kind, params_.parameters());
  check_format(options_.format, params_.parameters());
  Json frozen = Json::array();
  for (const FrozenAdapter& one : in_.frozen) {
    params_.freeze(*one.adapter, one.weight);
    frozen.push_back({one.id, one.weight});
    plan_.on_top_of.push_back(cat(one.name.empty() ? one.id : one.name, ":", one.weight));
  }
  if (!options_.resume_adapter_file.empty()) {
    const lora::Adapter begun = read_weights(options_.resume_adapter_file, params_.scale());
    in_.device.run([&] { params_.begin_with(begun); });
  }

  const nn::ModelDims& dims = in_.device.model.dims();
  plan_.trainable_parameters = params_.count();
  plan_.modules = params_.modules();
  plan_.layers = dims.layers - params_.first_layer();
  plan_.rows = in_.data.train.size();
  plan_.valid_rows = in_.data.valid.size();
  plan_.test_rows = in_.data.test.size();
  for (const dataset::Dataset* split : {&in_.data.train, &in_.data.valid, &in_.data.test}) {
    plan_.truncated_rows += split->truncated;
    plan_.longest_row = std::max(plan_.longest_row, split->longest);
  }
  plan_.tokens = stream_.rows_per_epoch();
  plan_.batches = stream_.batches_per_epoch();
  plan_.iterations = options_.iters;

  identity_ = identity(options_);
  identity_["on_top_of"] = frozen;
  identity_["data"] = in_.data.train.hash();
  identity_["valid_data"] = in_.data.valid.hash();
  if (!in_.date.empty()) identity_["date"] = in_.date;
  identity_["device"] = std::string(in_.device.backend.name()) + " " + in_.precision;
}

void Trainer::note(const std::string& text) const {
  if (options_.callbacks.note) options_.callbacks.note(text);
}

lora::Adapter Trainer::adapter() const {
  lora::Adapter adapter;
  in_.device.run([&] { adapter = params_.adapter("adapter", options_.base_model); });
  if (options_.lora.dropout > 0) adapter.facts["dropout"] = cat(options_.lora.dropout);
  // Part of an adapter's identity, which is to be that of the files.
  adapter.dialect = options_.format == AdapterFormat::mlx ? lora::Dialect::mlx : lora::Dialect::peft;
  for (const std::string& one : plan_.on_top_of) {
    std::string& said = adapter.facts["on_top_of"];
    said += (said.empty() ? "" : ", ") + one;
  }
  return adapter;
}

/// Nobody's adapter is lost without a word: neither one that was trained here nor one that was brought along.
void Trainer::check_directory() const {
  const fs::path& directory = options_.adapter_path;
  const bool ran_here = fs::is_directory(directory / "checkpoints");
  if (!options_.overwrite && !(options_.resume && ran_here)) {
    const std::vector<fs::path> earlier = earlier_adapters(directory);
    if (!earlier.empty()) {
      throw Error(ErrorCode::bad_request, directory.string(),
                  cat("holds an adapter already (", earlier.front().filename().string(),
                      "): ", ran_here ? "resume it, " : "", "overwrite it, or choose another adapter_path"));
    }
  }
  std::vector<fs::path> inputs = in_.files;
  inputs.push_back(in_.base_directory);
  if (!options_.overwrite) inputs.push_back(options_.resume_adapter_file);  // is in memory by now
  require_apart(directory, inputs);
}

/// What became of rows that the user would not see by looking at them.
void Trainer::note_data() const {
  for (const dataset::Dataset* split : {&in_.data.train, &in_.data.valid, &in_.data.test}) {
    if (split->truncated > 0)
      note(cat(split->name, ": ", split->truncated, " of ", split->size(), " rows are longer than max_seq_length ",
               options_.max_seq_length, " and were truncated; the longest has ", split->longest, " tokens"));
    if (split->unscored > 0)
      note(cat(split->name, ": ", split->unscored,
               " rows have nothing to learn within max_seq_length and were left out"));
    if (split->blank > 0)
      note(cat(split->name, ": ", split->blank, " rows are empty where they would be learned, and were left out"));
    if (split->repeated > 0)
      note(cat(split->name, ": ", split->repeated, " rows have a key twice in an object; the last value counts"));
    if (split->began_twice > 0)
      note(cat(split->name, ": ", split->began_twice,
               " rows spell the token that begins a text, which is not put before them once more"));
  }
  if (!in_.date.empty())
    note(cat("the chat template writes the date into the rows: ", in_.date, " in all of them, also when resumed"));
}

void Trainer::begin() {
  check_directory();
  if (options_.verify_base) {
    const std::string files = in_.base_directory.empty() ? "" : hash_weights(in_.base_directory);
    base_hash_ = probe(in_.device, params_) + files;
    identity_["base"] = base_hash_;
  }
  if (open_checkpoints()) replaced_ = set_aside(earlier_adapters(options_.adapter_path));
  plan_.first_iteration = state_.iteration + 1;
  if (state_.iteration == 0 && options_.iters >= kWorthMeasuring) plan_.seconds = measure();
  note_data();
  note_what_will_disappoint();
  if (options_.callbacks.started) options_.callbacks.started(plan_);
}

double Trainer::passes() const { return double(options_.iters) / double(std::max<int64_t>(1, plan_.batches)); }

void Trainer::note_what_will_disappoint() const {
  constexpr double kManyPasses = 20;
  if (passes() > kManyPasses && options_.early_stopping == 0) {
    note(cat(options_.iters, " iterations are ", format("{:.0f}", passes()), " passes over the same ", plan_.rows,
             " rows, which it will know by heart: fewer iterations",
             valid_ ? ", or early_stopping, which ends where validation turns" : ""));
  }
}

double Trainer::measure() {
  BatchStream stream(in_.data.train, batches_of(options_, true));
  double per_row = 0;
  for (int i = 0; i < 2; ++i) {  // the first warms the pools
    const TrainBatch batch = stream.next();
    const auto start = Clock::now();
    run_batch(in_.device, params_, batch, {.checkpoint_layers = options_.grad_checkpoint, .seed = options_.seed});
    per_row = since(start) / double(batch.rows());
  }
  in_.device.run([&] { clear_gradients(grad_, params_.parameters()); });
  double rows = double(plan_.tokens) / double(plan_.batches) * options_.iters;
  if (valid_) {
    const int64_t all = valid_->batches_per_epoch();
    const int64_t batches = options_.val_batches < 0 ? all : std::min<int64_t>(all, options_.val_batches);
    const double each = double(valid_->rows_per_epoch()) * double(batches) / double(all);
    // Forward alone is a third of the work.
    rows += each / 3 * (2 + (options_.iters - 1) / options_.steps_per_eval);
  }
  return rows * per_row;
}

std::string Trainer::name_rows(const TrainBatch& batch) const {
  std::string names;
  constexpr size_t kShown = 8;
  for (size_t i = 0; i < std::min(kShown, batch.rows_of_dataset.size()); ++i)
    names += (i == 0 ? "" : ", ") + in_.data.train.where(batch.rows_of_dataset[i]);
  if (batch.rows_of_dataset.size() > kShown) names += cat(" and ", batch.rows_of_dataset.size() - kShown, " more");
  return names;
}

void Trainer::check_loss(const TrainBatch& batch, double mean) const {
  const double most =
      options_.max_loss > 0 ? double(options_.max_loss) : 20 + 2 * std::log(double(in_.device.model.dims().vocab));
  if (mean <= most) return;
  const char* const help = state_.iteration > 0    ? "a lower learning_rate or a max_grad_norm may help"
                           : options_.max_loss > 0 ? "nothing was learned yet: max_loss is below where training begins"
                                                   : "nothing was learned yet: does the tokenizer belong to the model?";
  throw Error(ErrorCode::bad_config, "train",
              cat("iteration ", state_.iteration + 1, ", batch of ", name_rows(batch), ": loss: expected at most ",
                  most, " (max_loss), got ", mean, "; ", help));
}

bool Trainer::validation_is_due() const {
  const int done = state_.iteration;
  if (!valid_ || end_ != TrainEnd::finished || state_.validated == done) return false;
  return done % options_.steps_per_eval == 0 || done == options_.iters;
}

void Trainer::validate() {
  const auto start = Clock::now();
  const MeanLoss mean = mean_loss(in_.device, params_, *valid_, options_.val_batches, options_.callbacks.validating);
  if (mean.cancelled) {
    end_ = TrainEnd::cancelled;
    return;
  }
  state_.validated = state_.iteration;
  state_.val_loss = mean.loss;
  if (state_.iteration == 0) state_.first_val_loss = mean.loss;
  const bool best = !state_.best_val_loss || mean.loss < *state_.best_val_loss;
  if (best) {
    state_.best_val_loss = mean.loss;
    state_.best_iteration = state_.iteration;
    state_.validations_without_gain = 0;
  } else {
    ++state_.validations_without_gain;
  }
  if (options_.callbacks.validated) {
    options_.callbacks.validated({.iteration = state_.iteration,
                                  .loss = mean.loss,
                                  .tokens = mean.tokens,
                                  .seconds = since(start),
                                  .best = best});
  }
  if (best) keep_best();
  if (in_.sample && options_.callbacks.sampled) {
    for (TrainSample& sample : in_.sample(adapter())) {
      sample.iteration = state_.iteration;
      options_.callbacks.sampled(sample);
    }
  }
  if (options_.early_stopping > 0 && state_.validations_without_gain >= options_.early_stopping)
    end_ = TrainEnd::early_stopped;
}

void Trainer::keep_best() {
  if (!options_.save_best || state_.iteration == 0)
    return;  // before the first step there is nothing to save: B is zero
  best_ = options_.adapter_path / "best";
  save_adapter(adapter(), options_.format, notes(), best_);
  if (options_.callbacks.saved)
    options_.callbacks.saved({.iteration = state_.iteration, .path = best_, .what = TrainSaved::What::best});
}

void Trainer::update(const TrainBatch& batch) {
  in_.device.run([&] { update_parameters(batch); });
}

void Trainer::update_parameters(const TrainBatch& batch) {
  std::vector<Parameter>& parameters = params_.parameters();
  scale_gradients(grad_, parameters, float(1 / double(state_.accumulated)));
  const double norm = clip_gradients(grad_, parameters, options_.max_grad_norm);
  if (!std::isfinite(norm)) {
    throw Error(ErrorCode::bad_config, "train",
                cat("iteration ", state_.iteration + 1, ", batch of ", name_rows(batch),
                    ": gradient: expected finite numbers, got a norm of ", norm));
  }
  const float rate = schedule_.rate(uint64_t(state_.updates));
  optimizer_->update(parameters, rate);
  clear_gradients(grad_, parameters);
  params_.refresh();
  state_.accumulated = 0;
  state_.learning_rate = double(rate);
  state_.gradient_norm = norm;
  ++state_.updates;
}

void Trainer::step() {
  const auto start = Clock::now();
  const TrainBatch batch = stream_.next();
  const double sum = run_batch(in_.device, params_, batch,
                               {.learn = true,
                                .checkpoint_layers = options_.grad_checkpoint,
                                .seed = options_.seed,
                                .step = uint32_t(state_.iteration + 1)});
  const double mean = sum / double(batch.scored);
  check_loss(batch, mean);
  state_.accumulated += batch.scored;
  if ((state_.iteration + 1) % options_.grad_accumulation_steps == 0) update(batch);
  ++state_.iteration;
  state_.trained_tokens += batch.scored;
  state_.window_loss += sum;
  state_.window_tokens += batch.scored;
  state_.cursor = stream_.cursor();

  const double seconds = since(start);
  window_seconds_ += seconds;
  window_tokens_ += batch.scored;
  ++window_iterations_;
  run_seconds_ += seconds;
  ++run_iterations_;
  if (!options_.callbacks.progress) return;
  const bool go_on =
      options_.callbacks.progress({.iteration = state_.iteration,
                                   .iterations = options_.iters,
                                   .updates = state_.updates,
                                   .loss = mean,
                                   .tokens = batch.scored,
                                   .rows = batch.rows(),
                                   .seconds = seconds,
                                   .eta_s = run_seconds_ / run_iterations_ * (options_.iters - state_.iteration)});
  if (!go_on && state_.iteration < options_.iters) end_ = TrainEnd::cancelled;
}

void Trainer::report() {
  state_.train_loss = state_.window_loss / double(std::max<int64_t>(1, state_.window_tokens));
  if (options_.callbacks.report) {
    options_.callbacks.report({.iteration = state_.iteration,
                               .train_loss = state_.train_loss,
                               .learning_rate = state_.learning_rate,
                               .gradient_norm = state_.gradient_norm,
                               .iterations_per_second = window_iterations_ / window_seconds_,
                               .tokens_per_second = double(window_tokens_) / window_seconds_,
                               .trained_tokens = state_.trained_tokens,
                               .peak_memory = peak_memory()});
  }
  state_.window_loss = 0;
  state_.window_tokens = 0;
  window_iterations_ = 0;
  window_tokens_ = 0;
  window_seconds_ = 0;
}

AdapterNotes Trainer::notes() const {
  const Origin origin{in_.program, options_, in_.source, plan_, identity_};
  std::set<std::string> modules;
  for (const nn::TargetModule& module : in_.device.model.target_modules()) modules.insert(module.name);
  return {.layers = in_.device.model.dims().layers,
          .modules = std::move(modules),
          .mlx_prefix = mlx_prefix_,
          .config = mlx_arguments(options_, in_.source),
          .record = training_record(origin, state_)};
}

void Trainer::save(bool numbered) {
  const lora::Adapter now = adapter();
  fs::path path = options_.adapter_path;
  if (numbered) {
    path = save_numbered(now, options_.format, notes(), options_.adapter_path, state_.iteration);
  } else {
    for (const std::string& remark : save_adapter(now, options_.format, notes(), options_.adapter_path)) note(remark);
  }
  const auto tell = [&](const fs::path& where, TrainSaved::What what) {
    if (options_.callbacks.saved)
      options_.callbacks.saved({.iteration = state_.iteration, .path = where, .what = what});
  };
  tell(path, TrainSaved::What::adapter);
  if (store_) tell(store_->save(snapshot()), TrainSaved::What::checkpoint);
  if (!replaced_.empty()) fs::remove_all(std::exchange(replaced_, {}));  // something stands in its place now
}

/// While it lives, a step's activations wait for the next step.
class KeptMemory {
 public:
  KeptMemory(Backend& backend, uint64_t bytes) : backend_(backend) { backend.keep_memory(size_t(bytes)); }
  ~KeptMemory() { backend_.keep_memory(0); }
  KeptMemory(const KeptMemory&) = delete;
  KeptMemory& operator=(const KeptMemory&) = delete;

 private:
  Backend& backend_;
};

TrainResult Trainer::run() {
  const auto start = Clock::now();
  const KeptMemory kept(in_.device.backend, std::max<uint64_t>(uint64_t{256} << 20, 2 * plan_.memory_bytes));
  begin();
  bool saved = false;
  if (state_.iteration == 0) state_.first_test_loss = test();
  if (validation_is_due()) validate();
  while (state_.iteration < options_.iters && end_ == TrainEnd::finished) {
    step();
    if (state_.iteration % options_.steps_per_report == 0 || state_.iteration == options_.iters) report();
    if (validation_is_due()) validate();
    saved = state_.iteration % options_.save_every == 0;
    if (saved) save(true);
  }
  if (!saved) save(false);
  return finish(start);
}

std::optional<double> Trainer::test() {
  if (!options_.test || in_.data.test.empty() || end_ == TrainEnd::cancelled) return std::nullopt;
  BatchStream stream(in_.data.test, batches_of(options_, false));
  return mean_loss(in_.device, params_, stream, options_.test_batches, nullptr).loss;
}

TrainResult Trainer::finish(Clock::time_point start) {
  const std::optional<double> test_loss = test();
  if (options_.verify_base) {
    const std::string files = in_.base_directory.empty() ? "" : hash_weights(in_.base_directory);
    if (probe(in_.device, params_) + files != base_hash_)
      throw Error(ErrorCode::bad_file, in_.base_directory.string(),
                  "the base's weights changed while it was trained on");
  }
  TrainResult result{.end = end_,
                     .iterations = state_.iteration,
                     .updates = state_.updates,
                     .trained_tokens = state_.trained_tokens,
                     .train_loss = state_.train_loss,
                     .first_val_loss = state_.first_val_loss,
                     .first_test_loss = state_.first_test_loss,
                     .val_loss = state_.val_loss,
                     .best_val_loss = state_.best_val_loss,
                     .test_loss = test_loss,
                     .best_iteration = state_.best_iteration,
                     .adapter = options_.adapter_path,
                     .best = best_,
                     .verdict = {},
                     .adapter_id = lora::to_string(lora::identify(adapter())->id),
                     .base_hash = base_hash_,
                     .seconds = since(start)};
  result.verdict = verdict(result, passes());
  return result;
}

}  // namespace bumblebee::train
